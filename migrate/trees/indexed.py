"""A tree whose paths are all known beforehand: the walk and the look-ups; what is at a path a subclass says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .entry import TreeError, shown
from .paths import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .entry import Entry


class IndexedTree:
    """A subclass gives `has(path)`, `entry(path)`, one that its getter may change, and `target(path)` of a link."""

    def __init__(self) -> None:
        self.losses: list[str] = []
        self._below: dict[bytes, list[bytes]] = {}

    def has(self, path: bytes) -> bool:
        raise NotImplementedError

    def entry(self, path: bytes) -> Entry:
        raise NotImplementedError

    def target(self, path: bytes) -> bytes | None:
        """A symbolic link's text, or None for anything else."""
        raise NotImplementedError

    def index(self, paths: Iterable[bytes]) -> None:
        """Take these paths as all there are."""
        self._below = {}
        below: dict[bytes, set[bytes]] = {}
        for path in paths:
            while path:  # and the folders above, which the walk then misses where they are not there
                folder, _, name = path.rpartition(b"/")
                names = below.setdefault(folder, set())
                if name in names:
                    break
                names.add(name)
                path = folder  # noqa: PLW2901
        self._below = {folder: sorted(names) for folder, names in below.items()}

    def entries(self) -> Iterator[Entry]:
        """Every entry, in order. Folders that are not there are not made up: what is in them is an error."""
        if not self.has(b""):
            raise TreeError("there is no entry for the root")
        yield self.entry(b"")
        stack = [(b"", iter(self._below.get(b"", [])))]
        while stack:
            folder, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                continue
            path = folder + b"/" + name if folder else name
            if not self.has(path):
                raise TreeError(f"there is no entry for the folder {shown(path)}")
            entry = self.entry(path)
            if entry.first and not self.has(entry.first):
                entry.first = b""
            yield entry
            if entry.kind == "directory":
                stack.append((path, iter(self._below.get(path, []))))

    def status(self, path: bytes) -> Entry | None:
        """What is at a path, links followed inside the tree, or None."""
        found = self.resolve(path)
        return self.entry(found) if self.has(found) else None

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, sorted; [] where there is none."""
        return list(self._below.get(self.resolve(path), []))

    def resolve(self, path: bytes) -> bytes:
        """Where a path leads, links followed inside the tree."""
        return resolve(path, self.target)
