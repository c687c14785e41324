"""A command that runs on a host, by a client of SSH: what it prints as it comes, its complaints, its status.

Where sudo there wants a terminal (`requiretty`, CentOS 6's default), the command gets one: raw, so that bytes stay what
they are. A terminal has one way for output and complaints, and does not end its input: what the command prints is
between marks that nobody can foresee, and its input is so many bytes. Source: sudoers(5), stty(1), ssh(1).
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import subprocess
import threading
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_CHUNK = 1 << 16
_ERRORS = 16 << 20  # of complaints that are kept
_LINGER = 1  # seconds for the last complaints: a client that others share (ControlPersist) keeps the pipe
_BROKE = "the connection broke"
# words: mark of the ready terminal, bytes of input, sudo's words with the next script
_IN_TERMINAL = "stty raw -echo || exit 1; printf %s; head -c %d | %s"
# words: mark of the output, command, mark of its end, which complaints follow; tar writes to no terminal, but to cat
_MARKED = (
    "printf %s; exec 3>&1; e=$({ { %s 2>&4 3>&- 4>&-; printf =%%s $? >&4; } | cat >&3; } 4>&1); "
    'printf %%s%%s %s "${e%%=*}"; exit "${e##*=}"'
)


class Running:
    """`out` is what the command prints; to be used as a context, at whose end the command has ended."""

    def __init__(self, words: list[str], stdin: IO[bytes] | int) -> None:
        self._process = subprocess.Popen(words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._process.stdout
        self.out: IO[bytes] = self._process.stdout
        self._complaints = bytearray()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.wait()
        for stream in (self.out, self._process.stdin, self._process.stderr):
            if stream:
                stream.close()

    def kill(self) -> None:
        """End the client, and with it the command there."""
        self._process.kill()

    def wait(self) -> int:
        """Its status; a signal of the client is negative. What it printed and nobody read is dropped."""
        while self.out.read(_CHUNK):
            pass
        status = self._process.wait()
        self._listener.join(_LINGER)
        return status

    @property
    def errors(self) -> str:
        """What it complained of, up to 16 MiB."""
        return self._complaints.decode("utf-8", "replace")

    def _listen(self) -> None:
        assert self._process.stderr
        while data := self._process.stderr.read1(_CHUNK):  # type: ignore[attr-defined]
            self._complaints += data[: _ERRORS - len(self._complaints)]


class ByTerminal(Running):
    """`command` as what `sudo` makes it, in a terminal of its own there. `stdin` is a regular file, at its start."""

    def __init__(self, client: list[str], sudo: list[str], command: list[str], stdin: IO[bytes] | None) -> None:
        nonce = os.urandom(12).hex()
        ready, begin, end = (f"joey-{word}-{nonce}" for word in ("ready", "begin", "end"))
        size = os.fstat(stdin.fileno()).st_size if stdin else 0
        inner = shlex.join([*sudo, "sh", "-c", _MARKED % (begin, shlex.join(command), end)])
        super().__init__([*client, shlex.join(["sh", "-c", _IN_TERMINAL % (ready, size, inner)])], subprocess.PIPE)
        assert self._process.stdin
        self._between = _Between(self.out, self._process.stdin, stdin, tuple(map(str.encode, (ready, begin, end))))
        self.out = io.BufferedReader(self._between, _CHUNK)

    def wait(self) -> int:
        status = super().wait()
        if self._between.broke and status == 0:
            return 255
        return status

    @property
    def errors(self) -> str:
        said = self._between.said.decode("utf-8", "replace")
        return said + super().errors if not self._between.broke else f"{said}{super().errors}\n{_BROKE}"


class _Between(io.RawIOBase):
    """The bytes between two marks. `said`: those beside them; `broke`: the second mark did not come.

    `stdin` is sent once the first mark has come, which tells that the terminal is raw.
    """

    def __init__(self, stream: IO[bytes], sink: IO[bytes], stdin: IO[bytes] | None, marks: tuple[bytes, ...]) -> None:
        self._stream = stream
        self._sink = sink
        self._stdin = stdin
        self._marks = marks
        self._seen = 0  # marks
        self._held = b""  # what may be the start of the next
        self._out = b""
        self._ended = False
        self.said = bytearray()

    @property
    def broke(self) -> bool:
        return self._ended and self._seen == 2

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._out and not self._ended:
            data: bytes = self._stream.read1(_CHUNK)  # type: ignore[attr-defined]
            self._ended = not data
            self._take(self._held + data)
        size = min(len(buffer), len(self._out))
        buffer[:size], self._out = self._out[:size], self._out[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _take(self, data: bytes) -> None:
        """Sort bytes into output and the rest; what could be the start of a mark is held."""
        while self._seen < len(self._marks):
            mark = self._marks[self._seen]
            before, found, after = data.partition(mark)
            if not found and not self._ended:
                keep = len(mark) - 1
                before, after = data[:-keep], data[-keep:]
            if self._seen == 2:
                self._out += before
            else:
                self._say(before)
            data = after
            if not found:
                break
            self._seen += 1
            if self._seen == 1 and self._stdin is not None:
                threading.Thread(target=self._feed, args=(self._stdin,), daemon=True).start()
        else:
            self._say(data)
            data = b""
        self._held = data

    def _say(self, data: bytes) -> None:
        self.said += data[: _ERRORS - len(self.said)]

    def _feed(self, stdin: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):  # the command ended without reading it all
            while data := stdin.read(_CHUNK):
                self._sink.write(data)
            self._sink.flush()
