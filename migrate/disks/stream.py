"""streamOptimized VMDKs as raw disks by all cores: qemu-img inflates their grains one after the other.

Only what is wholly as the specification has it is read here; for anything else `open_stream` says None, and qemu-img
reads it or complains. Source: VMware Virtual Disk Format 1.1, "Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from struct import calcsize, unpack_from
from typing import TYPE_CHECKING

from ..image import compress
from .blocks import DiskError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECTOR = 512
_HEADER = "<4sIIQQQQIQQQ?4sH"
_COMPRESSED, _MARKERS = 1 << 16, 1 << 17
_DEFLATE = 1
_AT_END = 0xFFFFFFFFFFFFFFFF
_ENTRIES = 512  # of a grain table
_BATCH = 64  # grains to a worker at a time
_AHEAD = 32  # batches that wait


class Stream:
    """An image of that kind: `size` of the disk in bytes, `grain` in bytes, where its grain tables are."""

    def __init__(self, path: str, offset: int, size: int, grain: int, tables: array[int]) -> None:
        self.path = path
        self.offset = offset
        self.size = size
        self.grain = grain
        self._tables = tables

    def grains(self, fd: int) -> Iterator[tuple[int, int]]:
        """(place on the disk, place in the file) of every grain that is there."""
        for number, table in enumerate(self._tables):
            if not table:
                continue
            data = os.pread(fd, _ENTRIES * 4, self.offset + table * _SECTOR)
            if len(data) < _ENTRIES * 4:
                raise DiskError(f"{self.path}: a damaged VMDK image: it ends amid a grain table")
            for index, sector in enumerate(unpack_from(f"<{_ENTRIES}I", data)):
                if sector > 1:  # 1 is a grain of zeros
                    yield (number * _ENTRIES + index) * self.grain, sector * _SECTOR


def open_stream(path: str, offset: int = 0, length: int = 0) -> Stream | None:
    """An image at a place of a file, of `length` bytes or to the end. None for one that is another kind."""
    with open(path, "rb") as file:
        length = length or os.fstat(file.fileno()).st_size - offset
        head = os.pread(file.fileno(), _SECTOR, offset)
        found = _header(head)
        if found is None:
            return None
        capacity, grain, directory = found
        if directory == _AT_END:  # then a copy of the header at the end knows it
            found = _header(os.pread(file.fileno(), _SECTOR, offset + length - 2 * _SECTOR))
            if found is None or found[2] == _AT_END:
                return None
            directory = found[2]
        covered = grain * _ENTRIES
        count = -(-capacity // covered)
        data = os.pread(file.fileno(), count * 4, offset + directory * _SECTOR)
        if len(data) < count * 4:
            return None
        tables = array("I", unpack_from(f"<{count}I", data))
    return Stream(path, offset, capacity * _SECTOR, grain * _SECTOR, tables)


def _header(head: bytes) -> tuple[int, int, int] | None:
    """(capacity, grain size, grain directory) in sectors, or None."""
    if len(head) < calcsize(_HEADER):
        return None
    magic, version, flags, capacity, grain, _, _, entries, _, directory, _, _, ends, algorithm = unpack_from(
        _HEADER, head
    )
    fits = magic == b"KDMV" and version == 3 and flags & _COMPRESSED and flags & _MARKERS and algorithm == _DEFLATE
    sound = ends == b"\n \r\n" and entries == _ENTRIES and grain in (16, 32, 64, 128, 256) and 0 < capacity < 1 << 37
    return (capacity, grain, directory) if fits and sound else None


def convert(stream: Stream, target: str, done: Callable[[float], None]) -> None:
    """Write the disk to a new sparse file. Raises DiskError for a damaged image, OSError (ENOSPC)."""
    source = os.open(stream.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sink = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(sink, stream.size)
            _fill(stream, source, sink, done)
        finally:
            os.close(sink)
    except BaseException:
        if os.path.lexists(target):
            os.unlink(target)
        raise
    finally:
        os.close(source)


def _fill(stream: Stream, source: int, sink: int, done: Callable[[float], None]) -> None:
    count = sum(1 for _ in stream.grains(source))
    status = os.fstatvfs(sink)
    needed, room = count * stream.grain, status.f_bavail * status.f_frsize
    if needed > room:
        raise DiskError(
            f"{stream.path}: its raw content needs up to {needed >> 20} MiB, and there is room for {room >> 20}",
            "--work DIR names another folder",
        )
    grains = stream.grains(source)
    running: deque[Future[int]] = deque()
    finished = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            while (batch := list(islice(grains, _BATCH))) or running:
                if batch:
                    running.append(pool.submit(_some, stream, source, sink, batch))
                if len(running) > _AHEAD or not batch:
                    finished += running.popleft().result()
                    done(finished / count)
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _some(stream: Stream, source: int, sink: int, batch: list[tuple[int, int]]) -> int:
    from isal import isal_zlib

    errors = compress.errors()
    zeros = bytes(stream.grain)
    for place, at in batch:
        # a marker of 12 bytes, then the grain; what is read beyond it is little
        data = os.pread(source, stream.grain // 2 + 12, stream.offset + at)
        if len(data) < 12:
            raise DiskError(f"{stream.path}: a damaged VMDK image: it ends amid a grain")
        sector, size = unpack_from("<QI", data)
        if sector * _SECTOR != place or not 0 < size <= 2 * stream.grain:
            raise DiskError(f"{stream.path}: a damaged VMDK image: the grain at byte {at} is not that of byte {place}")
        if len(data) < 12 + size:
            data += os.pread(source, size + 12 - len(data), stream.offset + at + len(data))
        try:
            content = isal_zlib.decompressobj().decompress(data[12 : 12 + size], stream.grain)
        except errors as error:
            raise DiskError(f"{stream.path}: a damaged VMDK image: the grain at byte {at}: {error}") from None
        end = min(stream.grain, stream.size - place)
        if len(content) < end:
            raise DiskError(f"{stream.path}: a damaged VMDK image: the grain at byte {at} is too short")
        if content != zeros:
            os.pwrite(sink, content[:end], place)
    return len(batch)
