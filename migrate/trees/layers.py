"""The tree that an image's layers make: whiteouts applied, missing folders made up. Source: image-spec, layer.md."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NoReturn

from .entry import Entry, TreeError, shown
from .paths import Subtrees
from .spool import SpoolTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..image.layerreader import LayerReader

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


class ArchiveTree(SpoolTree):
    """A tree of plain tar files as an unpacker leaves it: what is written through a link is where that leads, folders
    without an entry of their own are made up.
    """

    def __init__(self, archives: list[str]) -> None:
        self._folders: dict[bytes, bytes] = {}  # where those that were asked for are
        super().__init__(archives)

    def place(self, path: bytes) -> bytes:
        """A path whose folders are no links."""
        folder, _, name = path.rpartition(b"/")
        if not folder:
            return path
        if folder not in self._folders:
            self._folders[folder] = self.resolve(folder)
        real = self._folders[folder]
        return real + b"/" + name if real else name

    def keep(self, entry: Entry, made: set[bytes]) -> None:
        entry.path = self.place(entry.path)
        self._put(entry)

    def _put(self, entry: Entry) -> None:
        known = self._entries.get(entry.path)
        if entry.kind == "link" or (known is not None and known.kind == "link"):
            self._folders.clear()
        self._entries[entry.path] = entry

    def without(self, entry: Entry) -> None:
        self.losses.append(f"{shown(entry.path)} is a hard link to {shown(entry.first)}, which is not there: left out")

    def finish(self) -> None:
        for path in list(_missing(self._entries)):
            self._entries[path] = Entry(path, stat.S_IFDIR | 0o755, 0, 0, 0)
        for path in self._entries:
            folder = path.rpartition(b"/")[0]
            if path and self._entries[folder].kind != "directory":
                raise TreeError(f"{shown(path)} is below {shown(folder)}, which is no folder")


class LayersTree(ArchiveTree):
    """A tree of layers that lie here as plain tar files, lowest first."""

    def __init__(self, archives: list[str]) -> None:
        self._subtrees: Subtrees | None = None  # once something was hidden
        super().__init__(archives)

    def keep(self, entry: Entry, made: set[bytes]) -> None:
        """Put an entry of a layer over what the layers below have. `made` is what this layer itself has so far."""
        path = entry.path = self.place(entry.path)
        folder, _, name = path.rpartition(b"/")
        if name == _OPAQUE:
            self._hide(folder, made, itself=False)
            return
        if name.startswith(_WHITEOUT):
            hidden = (folder + b"/" if folder else b"") + name[len(_WHITEOUT) :]
            if hidden not in made:
                self._hide(hidden, set())
            return
        known = self._entries.get(path)
        if known is not None and known.kind == "directory" and entry.kind != "directory":
            self._hide(path, set())
        self._put(entry)
        if self._subtrees is not None:
            self._subtrees.add(path)
        while path and path not in made:
            made.add(path)
            path = path.rpartition(b"/")[0]

    def without(self, entry: Entry) -> NoReturn:
        raise TreeError(f"{shown(entry.path)} is a hard link to {shown(entry.first)}, which is in no layer")

    def _hide(self, top: bytes, kept: set[bytes], itself: bool = True) -> None:
        """Take away what is at a path and below, but what this layer has `kept`."""
        if self._subtrees is None:
            self._subtrees = Subtrees(self._entries)
        for path in self._subtrees.take(top):
            if path in kept or (path == top and not itself):
                self._subtrees.add(path)
                continue
            entry = self._entries.pop(path, None)
            if entry is not None and entry.kind == "link":
                self._folders.clear()


class LowerTree(LayersTree):
    """What layers that are read once, lowest first, have at each path; no contents."""

    def __init__(self, layers: Iterable[LayerReader]) -> None:
        super().__init__([])
        for layer in layers:
            made: set[bytes] = set()
            for entry in layer:
                found = self.linked(entry) if entry.first else entry
                assert found is not None, "a link to nothing is an error here"
                found.open, found.first = None, b""
                self.keep(found, made)
        self.finish()
        self.index(self._entries)


def _missing(entries: dict[bytes, Entry]) -> Iterator[bytes]:
    found = {b""} | {path[:at] for path in entries for at in range(len(path)) if path[at] == 0x2F}
    return (path for path in found if path not in entries)
