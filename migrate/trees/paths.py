"""Paths inside a tree: made plain, links followed, never out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_LINKS = 40


def in_order(path: bytes) -> bytes:
    """Sorts paths as a walk meets them: a zero is less than any byte of a name."""
    return path.replace(b"/", b"\0")


def resolve(path: bytes, link: Callable[[bytes], bytes | None]) -> bytes:
    """Where a path leads when the tree's root is `/`: `..` at the root stays there, more than 40 links lead nowhere.

    `link` gives the text of a symbolic link at a path whose parents are none, or None.
    """
    todo = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
    at: list[bytes] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == b"..":
            if at:
                at.pop()
            continue
        here = b"/".join([*at, part])
        target = link(here) if links < MAX_LINKS else None
        if target is None:
            at.append(part)
            continue
        links += 1
        if target.startswith(b"/"):
            at = []
        todo += [piece for piece in reversed(target.split(b"/")) if piece not in (b"", b".")]
    return b"/".join(at)


class Subtrees:
    """Paths by their folders: what is below one is found without a look at all others."""

    def __init__(self, paths: Iterable[bytes] = ()) -> None:
        self._names: dict[bytes, set[bytes]] = {}
        for path in paths:
            self.add(path)

    def add(self, path: bytes) -> None:
        while path:
            folder, _, name = path.rpartition(b"/")
            names = self._names.setdefault(folder, set())
            if name in names:
                return
            names.add(name)
            path = folder

    def take(self, top: bytes) -> list[bytes]:
        """Take a path out, and all that is below it; what that was."""
        out = [top]
        for path in out:
            out += [path + b"/" + name if path else name for name in self._names.pop(path, ())]
        folder, _, name = top.rpartition(b"/")
        self._names.get(folder, set()).discard(name)
        return out
