"""Writing one layer: entries in, a compressed blob with its digests out, in one pass and bounded memory.

The caller's thread reads files and makes headers; a thread of the writer's own hashes, compresses and writes. Between
them is a short queue of chunks, so memory stays the same for layers of any size.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import TYPE_CHECKING

from ...compat.errors import JoeyError
from ...compat.files import write_all
from ..trees.entry import Entry, opened, shown
from . import compress, tarheader

if TYPE_CHECKING:
    from .compress import Compressor

CHUNK = 1 << 19
_BUFFERS = 6  # of CHUNK bytes: one is filled, one is compressed, the others wait


class LayerChanged(JoeyError):
    """A file became another while it was read."""

    slug = "source"


class Written:
    """A finished layer: digests as "sha256:...", sizes in bytes, `entries` the number of its headers."""

    def __init__(self, media_type: str, digest: str, size: int, diff_id: str, unpacked: int, entries: int) -> None:
        self.media_type = media_type
        self.digest = digest
        self.size = size
        self.diff_id = diff_id
        self.unpacked = unpacked
        self.entries = entries


class LayerWriter:
    """A layer that is being written to a file. `close()` gives the result; `abort()` ends the thread, no more."""

    def __init__(self, fd: int, kind: str, level: int) -> None:
        compress.check(kind, level)
        self._fd = fd
        self._kind = kind
        self._view = memoryview(bytearray(CHUNK))
        self._filled = 0
        self._queue: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        for _ in range(_BUFFERS - 1):
            self._free.put(memoryview(bytearray(CHUNK)))
        self._failure: BaseException | None = None
        self._unpacked = hashlib.sha256()
        self._packed = hashlib.sha256()
        self._size = 0
        self._total = 0
        self.entries = 0
        self._stream = compress.compressor(kind, level)
        self._thread = threading.Thread(target=self._work, args=(self._stream,), daemon=True)
        self._thread.start()

    def add(self, entry: Entry) -> None:
        """Write an entry and its content. Raises OSError; JoeyError where the file is shorter than it was."""
        self.entries += 1
        self._put(tarheader.header(entry))
        if entry.open is not None and not entry.first:
            self._content(entry)

    def _put(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            count = min(len(data) - at, CHUNK - self._filled)
            if not count:
                self._flush()
                continue
            self._view[self._filled : self._filled + count] = data[at : at + count]
            self._filled += count
            at += count

    def _content(self, entry: Entry) -> None:
        left = entry.size
        if not left:
            return
        with opened(entry) as content:
            while left:
                room = CHUNK - self._filled
                if not room:
                    self._flush()
                    continue
                count = content.readinto(self._view[self._filled : self._filled + min(room, left)])
                if not count:
                    found = f"{entry.size - left} bytes, not {entry.size}"
                    raise LayerChanged(f"{shown(entry.path)} has {found}: it changed while it was read")
                self._filled += count
                left -= count
        self._put(tarheader.padding(entry.size))

    def _flush(self) -> None:
        """Hand the buffer to the thread and take one that it is done with."""
        if not self._filled:
            return
        if self._failure is not None:
            raise self._failure
        self._total += self._filled
        self._queue.put(self._view[: self._filled])
        self._view = self._free.get()
        self._filled = 0

    def _work(self, stream: Compressor) -> None:
        while (chunk := self._queue.get()) is not None:
            if self._failure is None:
                try:
                    self._unpacked.update(chunk)
                    self._write(stream.compress(chunk))
                except BaseException as error:
                    self._failure = error
            self._free.put(memoryview(chunk.obj))
        if self._failure is None:
            try:
                self._write(stream.flush())
            except BaseException as error:
                self._failure = error

    def _write(self, data: bytes) -> None:
        if not data:
            return
        self._packed.update(data)
        self._size += len(data)
        write_all(self._fd, data)

    def close(self) -> Written:
        """Finish the layer. Raises what the writing thread met: OSError (ENOSPC)."""
        self._put(tarheader.END)
        self._flush()
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        return Written(
            compress.MEDIA_TYPES[self._kind],
            f"sha256:{self._packed.hexdigest()}",
            self._size,
            f"sha256:{self._unpacked.hexdigest()}",
            self._total,
            self.entries,
        )

    def abort(self) -> None:
        """End the thread; what was written is the caller's to remove."""
        self._failure = self._failure or LayerChanged("given up")
        self._queue.put(None)
        self._thread.join()
