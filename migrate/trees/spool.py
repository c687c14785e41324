"""A tree in tar archives that were fetched one after the other: what is in a later one takes the place of the earlier.

The archives are plain tar files on this machine's disk; an index of where each content lies is held in memory, some 500
bytes an entry.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from ..image.digest import ImageError
from ..image.layerreader import LayerReader, Sparse
from .entry import Entry, link_together, shown
from .indexed import IndexedTree
from .paths import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .entry import Content


class _Part(io.RawIOBase):
    """A run of bytes of a file."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._at = offset
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = os.preadv(self._file, [buffer[: self._left]], self._at) if self._left else 0
        self._at += count
        self._left -= count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()


class SpoolTree(IndexedTree):
    """The tree of archives, the oldest first. `names` restricts it to these paths; `cut_off` allows
    archives that end amid an entry.
    """

    def __init__(self, archives: list[str], names: Iterable[bytes] | None = None, cut_off: bool = False) -> None:
        super().__init__()
        self._cut_off = cut_off
        self.end = 0  # of the last entry that is whole, in the last archive
        self._entries: dict[bytes, Entry] = {}
        for path in archives:
            self._read(path)
        if names is not None:
            kept = set(names)
            self._entries = {path: entry for path, entry in self._entries.items() if path in kept}
        self.finish()
        self._order_links()
        self.index(self._entries)

    def _order_links(self) -> None:
        """Of the paths of one file the first in a walk's order has it, whichever the archive has first.

        A file that a later archive has put in the place of one of them is another.
        """
        groups: dict[int, list[Entry]] = {}
        for entry in self._entries.values():
            if entry.first and entry.open is not None:
                groups.setdefault(id(entry.open), []).append(entry)
        for group in groups.values():
            first = self._entries.get(group[0].first)
            if first is not None and first.open is group[0].open:
                group.append(first)
            link_together(group, in_order)

    def link(self, firsts: dict[bytes, bytes]) -> None:
        """Have names be those of one file (path -> the first of them), whichever archives have them."""
        groups: dict[bytes, list[Entry]] = {}
        for path, first in firsts.items():
            if path in self._entries and first in self._entries:
                groups.setdefault(first, [self._entries[first]]).append(self._entries[path])
        for group in groups.values():
            for entry in group:
                entry.open, entry.size = group[0].open, group[0].size
            link_together(group, in_order)

    def _read(self, path: str) -> None:
        """Index an archive. One that ends too soon gives what it has: its run was cut off."""
        with open(path, "rb") as file:
            total = os.fstat(file.fileno()).st_size
            reader = LayerReader(file, os.path.basename(path))
            made: set[bytes] = set()
            try:
                for entry in reader:
                    if entry.open is not None:
                        offset = file.tell()
                        stored = reader.stored
                        if offset + stored > total:
                            if self._cut_off:
                                return
                            raise ImageError(f"{os.path.basename(path)} ends amid {shown(entry.path)}: it is cut off")
                        entry.open = _opener(path, offset, stored, entry.size, reader.pieces)
                        reader.seek_over(file)
                        self.end = file.tell()
                    found = self.linked(entry) if entry.first else entry
                    if found is None:
                        continue
                    self.keep(found, made)
                    self.end = max(self.end, file.tell() if found.open is None or found.first else 0)
            except ImageError:
                if not self._cut_off:
                    raise
            self.losses += reader.losses

    def keep(self, entry: Entry, made: set[bytes]) -> None:
        """Put an entry of an archive over what the earlier ones have. `made` is for a subclass's use."""
        self._entries[entry.path] = entry

    def linked(self, entry: Entry) -> Entry | None:
        """A hard link as the same file as what it names; None where that is not there."""
        entry.first = self.place(entry.first)
        first = self._entries.get(entry.first)
        if first is None:
            self.without(entry)
            return None
        return _same_file(entry, first)

    def place(self, path: bytes) -> bytes:
        """Where what an archive has at a path goes."""
        return path

    def without(self, entry: Entry) -> None:
        """A hard link to what no archive has."""

    def finish(self) -> None:
        """All archives were read."""

    def used(self) -> int:
        return sum(entry.size for entry in self._entries.values())

    def paths(self) -> Iterable[bytes]:
        """Every path, in no order."""
        return self._entries.keys()

    def has(self, path: bytes) -> bool:
        return path in self._entries

    def entry(self, path: bytes) -> Entry:
        """An entry that may be changed by who gets it."""
        return _same_file(self._entries[path], self._entries[path])

    def target(self, path: bytes) -> bytes | None:
        entry = self._entries.get(path)
        return entry.target if entry is not None and entry.kind == "link" else None


def _same_file(entry: Entry, file: Entry) -> Entry:
    """An entry with the attributes and content of a file."""
    return Entry(
        entry.path, file.mode, file.uid, file.gid, file.mtime, file.size, file.target, file.device, file.xattrs,
        entry.first, file.holes, file.open,
    )  # fmt: skip


def _opener(
    path: str, offset: int, stored: int, size: int, pieces: list[tuple[int, int]] | None
) -> Callable[[], Content]:
    if pieces is None:
        return lambda: _Part(path, offset, stored)
    return lambda: Sparse(_Part(path, offset, stored), pieces, size)
