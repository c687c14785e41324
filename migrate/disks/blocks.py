"""Bytes of a disk or volume, wherever they lie: a list of extents in raw files."""

from __future__ import annotations

import os
from typing import NamedTuple

from ..trees.entry import TreeError


class DiskError(TreeError):
    """A disk image or what is on it can't be read."""

    slug = "disk"


class Extent(NamedTuple):
    """`size` bytes at `offset` of the raw file `path`; of `path` "" they are zeros."""

    path: str
    offset: int
    size: int


class Blocks:
    """A run of bytes made of extents, read at any place."""

    def __init__(self, extents: list[Extent]) -> None:
        self.extents = extents
        self.size = sum(extent.size for extent in extents)
        self._files: dict[str, int] = {}

    def read(self, offset: int, size: int) -> bytes:
        """Bytes at an offset; fewer, down to none, beyond the end. Raises OSError."""
        parts = []
        for extent in self.extents:
            if size <= 0:
                break
            if offset >= extent.size:
                offset -= extent.size
                continue
            count = min(size, extent.size - offset)
            data = os.pread(self._file(extent.path), count, extent.offset + offset) if extent.path else bytes(count)
            parts.append(data.ljust(count, b"\0"))  # a raw file may end before its disk
            offset, size = 0, size - count
        return b"".join(parts)

    def part(self, offset: int, size: int) -> Blocks:
        """A part of it, cut at its end."""
        found = []
        size = max(0, min(size, self.size - offset))
        for extent in self.extents:
            if size <= 0:
                break
            if offset >= extent.size:
                offset -= extent.size
                continue
            count = min(size, extent.size - offset)
            found.append(Extent(extent.path, extent.offset + offset, count))
            offset, size = 0, size - count
        return Blocks(found)

    def _file(self, path: str) -> int:
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._files[path]

    def close(self) -> None:
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def __del__(self) -> None:
        self.close()


def joined(parts: list[Extent]) -> list[Extent]:
    """The same extents, with those that follow one another in a file made one."""
    found: list[Extent] = []
    for part in parts:
        last = found[-1] if found else None
        if last and last.path == part.path and (not part.path or last.offset + last.size == part.offset):
            found[-1] = Extent(last.path, last.offset, last.size + part.size)
        elif part.size:
            found.append(part)
    return found
