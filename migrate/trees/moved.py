"""Another tree below a prefix: an application's files where they will be, owned by root."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from .entry import Entry, TreeError, shown
from .indexed import IndexedTree

if TYPE_CHECKING:
    from collections.abc import Callable

    from .entry import Content, Tree

_MODES = {b"root": 0o700, b"tmp": 0o1777, b"var/tmp": 0o1777}  # of folders that are made up


def opener(tree: Tree, path: bytes) -> Callable[[], Content]:
    """What opens a file of a tree at any time: an entry's own serves only while its walk stands there."""

    def open() -> Content:
        entry = tree.status(path)
        if entry is None or entry.open is None:
            raise TreeError(f"{shown(path)} is no file any more")
        return entry.open()

    return open


class MovedTree(IndexedTree):
    """The entries of a tree below `top` (b"" for all), at `prefix`, with the folders above made up.

    Owners become root: those of an archive are of the machine that packed it. `newest` is the newest time, which the
    folders get that are made up.
    """

    def __init__(self, tree: Tree, top: bytes, prefix: bytes) -> None:
        super().__init__()
        self.losses = tree.losses
        self._entries: dict[bytes, Entry] = {}
        newest = 0
        for entry in tree.entries():
            if top and entry.path != top and not entry.path.startswith(top + b"/"):
                continue
            path = (prefix + b"/" + entry.path[len(top) :].lstrip(b"/")).strip(b"/")
            moved = Entry(path, entry.mode, 0, 0, entry.mtime, entry.size, entry.target, entry.device, entry.xattrs)
            moved.holes = entry.holes
            if entry.open is not None:
                moved.open = opener(tree, entry.path)  # an entry's own serves only while its walk stands there
            if entry.first:
                moved.first = (prefix + b"/" + entry.first[len(top) :].lstrip(b"/")).strip(b"/")
            self._entries[path] = moved
            newest = max(newest, entry.mtime)
        for at in [0, *(index for index, byte in enumerate(prefix) if byte == 0x2F), len(prefix)]:
            self._entries.setdefault(
                prefix[:at], Entry(prefix[:at], stat.S_IFDIR | _MODES.get(prefix[:at], 0o755), 0, 0, newest)
            )
        self.index(self._entries)

    def has(self, path: bytes) -> bool:
        return path in self._entries

    def entry(self, path: bytes) -> Entry:
        known = self._entries[path]
        found = Entry(path, known.mode, 0, 0, known.mtime, known.size, known.target, known.device, known.xattrs)
        found.first, found.holes, found.open = known.first, known.holes, known.open
        return found

    def target(self, path: bytes) -> bytes | None:
        known = self._entries.get(path)
        return known.target if known is not None and known.kind == "link" else None
