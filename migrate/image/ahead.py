"""Reading ahead: a stream's bytes are decompressed and hashed by a thread of their own while others use them."""

from __future__ import annotations

import io
import queue
import threading

from .compress import Stream

CHUNK = 1 << 19
_BUFFERS = 4


class ReadAhead(io.RawIOBase):
    """A stream that is read by a thread, four chunks ahead. What the thread meets is raised where it would be."""

    def __init__(self, file: Stream) -> None:
        self._file = file
        self._full: queue.SimpleQueue[memoryview | BaseException] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(memoryview(bytearray(CHUNK)))
        self._chunk: memoryview | None = None
        self._at = 0
        self._end = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def readable(self) -> bool:
        return True

    def _work(self) -> None:
        try:
            while (buffer := self._free.get()) is not None:
                count = self._file.readinto(buffer)
                self._full.put(buffer[:count])
                if not count:
                    return
        except BaseException as error:
            self._full.put(error)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while self._chunk is None or self._at >= len(self._chunk):
            if self._end:
                return 0
            if self._chunk is not None:
                self._free.put(memoryview(self._chunk.obj))
                self._chunk = None
            found = self._full.get()
            if isinstance(found, BaseException):
                self._end = True
                raise found
            if not len(found):
                self._end = True
                return 0
            self._chunk, self._at = found, 0
        count = min(len(buffer), len(self._chunk) - self._at)
        buffer[:count] = self._chunk[self._at : self._at + count]
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            self._end = True
            self._free.put(None)
            self._thread.join()
        super().close()
