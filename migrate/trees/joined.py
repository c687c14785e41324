"""An application's tree, and beside it some paths of a root file system."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from .entry import Entry, link_together
from .indexed import IndexedTree
from .moved import opener
from .paths import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .entry import Tree


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

    def paths(self) -> Iterable[bytes]:
        """Every path, in no order."""
        return self._known.keys()

    def below(self, path: bytes, into: Callable[[Entry], bool]) -> Iterator[bytes]:
        """All that is below a path, but in directories that `into` says no to."""
        todo = [path]
        while todo:
            folder = todo.pop()
            for name in self._below.get(folder, []):
                each = folder + b"/" + name if folder else name
                yield each
                entry = self._known.get(each)
                if entry is not None and entry.kind == "directory" and into(entry):
                    todo.append(each)


class JoinedTree(IndexedTree):
    """`tree` over those `paths` of a root. Where a folder of the tree is a link in the root, its files follow that."""

    def __init__(self, tree: Tree, root: RootTree, paths: Iterable[bytes]) -> None:
        super().__init__()
        self.losses = [*tree.losses, *root.losses]
        self._root = root
        self._picked = set(paths) | {b""}
        self._own: dict[bytes, Entry] = {}
        places = {b"": b""}  # where the folders of the tree are now
        for entry in tree.entries():
            path = self._place(entry, places)
            if path is None:
                continue
            own = _copy(entry, path)
            folder, _, name = entry.first.rpartition(b"/")
            own.first = _join(places.get(folder, folder), name) if entry.first else b""
            own.open = opener(tree, entry.path) if entry.open is not None else None
            self._own[path] = own
        self._order_links()
        # a folder that both have is the root's
        for path in [path for path, own in self._own.items() if stat.S_ISDIR(own.mode)]:
            if root.has(path) and root.entry(path).kind == "directory":
                del self._own[path]
                self._picked.add(path)
        self._picked = {path for path in self._picked if root.has(path)}
        self.index([*self._own, *self._picked])

    def _order_links(self) -> None:
        """What was moved has another place in a walk's order: the first of a file's names there has it."""
        groups: dict[bytes, list[Entry]] = {}
        for entry in self._own.values():
            if entry.first:
                groups.setdefault(entry.first, []).append(entry)
        for first, group in groups.items():
            if first in self._own:
                group.append(self._own[first])
            link_together(group, in_order)

    def _place(self, entry: Entry, places: dict[bytes, bytes]) -> bytes | None:
        """Where an entry of the tree goes; None for a folder in whose place the root has a link to one."""
        folder, _, name = entry.path.rpartition(b"/")
        path = _join(places[folder], name) if entry.path else b""
        if entry.kind != "directory":
            return path
        places[entry.path] = path
        if self._root.target(path) is None:
            return path
        real = self._root.resolve(path)
        if not self._root.has(real) or self._root.entry(real).kind != "directory":
            return path
        places[entry.path] = real
        self._picked |= {path, real, *_parents(path), *_parents(real)}
        return None

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


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def _parents(path: bytes) -> list[bytes]:
    return [path[:at] for at in range(len(path)) if path[at] == 0x2F]
