"""A container's log: what its first process prints, a time before each line, in files that are rotated.

A line is `TIME TEXT`, TIME in UTC (RFC 3339). `console.log` is the newest file, `console.log.1` the one before it.
"""

from __future__ import annotations

import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE, COUNT = 10 << 20, 5
_LONGEST = 8192  # bytes of a line without an end
_FILE = "console.log"


class Log:
    """Written by a container's supervisor."""

    def __init__(self, folder: str, size: int = SIZE, count: int = COUNT) -> None:
        os.makedirs(folder, 0o700, exist_ok=True)
        self._folder = folder
        self._size = size
        self._count = count
        self._open()
        self._held = b""

    def _open(self) -> None:
        self._fd = os.open(f"{self._folder}/{_FILE}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """Output as it comes; lines are kept whole."""
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > _LONGEST:
            lines.append(self._held)
            self._held = b""
        if lines:
            stamp = rfc3339(time.time()).encode()
            self._append(b"".join(stamp + b" " + line.rstrip(b"\r") + b"\n" for line in lines))

    def say(self, text: str) -> None:
        """A word of joey's own."""
        self.flush()
        self._append(f"{rfc3339(time.time())} joey: {text}\n".encode("utf-8", "replace"))

    def flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._append(rfc3339(time.time()).encode() + b" " + held + b"\n")

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return  # what can't be kept is lost: the container goes on
        if os.fstat(self._fd).st_size > self._size:
            self._rotate()

    def _rotate(self) -> None:
        os.close(self._fd)
        for number in range(self._count - 1, 0, -1):
            older, newer = f"{self._folder}/{_FILE}.{number}", f"{self._folder}/{_FILE}.{number - 1}"
            newer = newer if number > 1 else f"{self._folder}/{_FILE}"
            if os.path.exists(newer):
                os.replace(newer, older)
        self._open()


def lines(folder: str, tail: int = -1, since: str = "") -> list[bytes]:
    """Lines of the log from the oldest on: the last `tail` of them, those at or after a time."""
    out: list[bytes] = []
    for number in range(COUNT - 1, -1, -1):
        try:
            with open(f"{folder}/{_FILE}" + (f".{number}" if number else ""), "rb") as file:
                out += file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            continue
    if since:
        out = [line for line in out if line.split(b" ", 1)[0] >= since.encode()]
    return out if tail < 0 else out[len(out) - min(tail, len(out)) :]


def follow(folder: str) -> Iterator[bytes]:
    """Lines as they come, from now on; b"" now and then, while there is nothing."""
    path = f"{folder}/{_FILE}"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.lseek(fd, 0, os.SEEK_END)
    held = b""
    while True:
        data = os.read(fd, 1 << 16)
        if data:
            *whole, held = (held + data).split(b"\n")
            yield from whole
            continue
        try:
            if os.stat(path).st_ino != os.fstat(fd).st_ino:  # it was rotated
                os.close(fd)
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                continue
        except FileNotFoundError:
            return
        yield b""
        time.sleep(0.1)


def without_time(line: bytes) -> bytes:
    return line.split(b" ", 1)[1] if b" " in line else line


def rfc3339(seconds: float) -> str:
    whole = int(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((seconds - whole) * 1e6):06d}Z"
