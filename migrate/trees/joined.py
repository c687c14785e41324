"""An application's tree, and beside it some paths of a root file system."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from .entry import Entry
from .indexed import IndexedTree
from .moved import opener

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .entry import Tree

_MERGED = (b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libx32")


class RootTree(IndexedTree):
    """The paths of a root file system with their entries, links as they are."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree
        self._known = {entry.path: _copy(entry, entry.path) for entry in tree.entries()}
        self.losses = tree.losses
        self.index(self._known)

    def has(self, path: bytes) -> bool:
        return path in self._known

    def entry(self, path: bytes) -> Entry:
        known = self._known[path]
        found = _copy(known, path)
        if known.kind == "file":
            if known.first and (real := self._tree.status(path)) is not None:
                found.size = real.size  # a link of its own may be without what it is the second of
            found.first = b""
            found.open = opener(self._tree, path)
        return found

    def target(self, path: bytes) -> bytes | None:
        known = self._known.get(path)
        return known.target if known is not None and known.kind == "link" else None

    def below(self, path: bytes) -> Iterable[bytes]:
        """A path and all that is below it."""
        prefix = path + b"/"
        return [known for known in self._known if known == path or known.startswith(prefix)]


class JoinedTree(IndexedTree):
    """`tree` over those `paths` of a root. Where /lib is a link to /usr/lib there, the tree's files follow it."""

    def __init__(self, tree: Tree, root: RootTree, paths: Iterable[bytes]) -> None:
        super().__init__()
        self.losses = [*tree.losses, *root.losses]
        self._root = root
        self._picked = set(paths) | {b""}
        moved = {name: root.resolve(name) for name in _MERGED if root.target(name) is not None}
        self._own: dict[bytes, Entry] = {}
        for entry in tree.entries():
            path = _under(entry.path, moved)
            if entry.path in moved and entry.kind == "directory":
                real = moved[entry.path]
                self._picked |= {part for part in (entry.path, *_parents(real), real) if root.has(part)}
                continue
            own = _copy(entry, path)
            own.first = _under(entry.first, moved)
            own.open = opener(tree, entry.path) if entry.open is not None else None
            self._own[path] = own
            if path != entry.path:
                self._picked.update(parent for parent in _parents(path) if root.has(parent))
        # a folder that both have is the root's
        for path in [path for path in self._picked if path in self._own]:
            if root.entry(path).kind == "directory" and stat.S_ISDIR(self._own[path].mode):
                del self._own[path]
        self.index([*self._own, *self._picked])

    def has(self, path: bytes) -> bool:
        return path in self._own or path in self._picked

    def entry(self, path: bytes) -> Entry:
        known = self._own.get(path)
        if known is None:
            return self._root.entry(path)
        found = _copy(known, path)
        found.first, found.open = known.first, known.open
        return found

    def target(self, path: bytes) -> bytes | None:
        known = self._own.get(path)
        if known is not None:
            return known.target if known.kind == "link" else None
        return self._root.target(path) if path in self._picked else None


def _copy(entry: Entry, path: bytes) -> Entry:
    found = Entry(
        path, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size, entry.target, entry.device, entry.xattrs
    )
    found.first, found.holes = entry.first, entry.holes
    return found


def _under(path: bytes, moved: dict[bytes, bytes]) -> bytes:
    top, slash, rest = path.partition(b"/")
    return moved[top] + slash + rest if top in moved and slash else path


def _parents(path: bytes) -> list[bytes]:
    return [path[:at] for at in range(len(path)) if path[at] == 0x2F]
