"""A command that runs on a host, by a client of SSH: what it prints as it comes, its complaints, its status.

Where sudo there wants a terminal (`requiretty`, CentOS 6's default), the command gets one: raw, so that bytes stay what
they are, and closed to write(1). A terminal has one way for output and complaints, and does not end its input: what the
command prints is between marks that nobody there can foresee or see, for they come by its input, so many bytes of it.
Source: sudoers(5), stty(1), mesg(1), ssh(1).
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
_READY = b"joey-is-ready"
# words: bytes of input, sudo's words with the next script
_IN_TERMINAL = "mesg n 2>/dev/null; stty raw -echo || exit 1; printf joey-is-ready; head -c %d | %s"
# words: the command. Its first line of input makes the marks; complaints follow the last. tar writes to no terminal
_MARKED = (
    'read -r n; printf joey-begin-%%s. "$n"; exec 3>&1; '
    "e=$({ { %s 2>&4 3>&- 4>&-; printf =%%s $? >&4; } | cat >&3; } 4>&1); "
    'printf joey-end-%%s.%%s "$n" "${e%%=*}"; exit "${e##*=}"'
)


class Running:
    """`out` is what the command prints; to be used as a context, at whose end the command has ended."""

    def __init__(self, words: list[str], stdin: IO[bytes] | int) -> None:
        self._errors, theirs = os.pipe()
        try:
            self._process = subprocess.Popen(words, stdin=stdin, stdout=subprocess.PIPE, stderr=theirs)
        except BaseException:
            os.close(self._errors)
            raise
        finally:
            os.close(theirs)
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
        for stream in (self.out, self._process.stdin):
            if stream:
                stream.close()
        if not self._listener.is_alive():  # else somebody holds it: it goes with the thread
            os.close(self._errors)

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
        while data := os.read(self._errors, _CHUNK):
            self._complaints += data[: _ERRORS - len(self._complaints)]


class ByTerminal(Running):
    """`command` as what `sudo` makes it, in a terminal of its own there. `stdin` is a regular file, at its start."""

    def __init__(self, client: list[str], sudo: list[str], command: list[str], stdin: IO[bytes] | None) -> None:
        nonce = os.urandom(16).hex().encode()
        first = nonce + b"\n"
        size = len(first) + (os.fstat(stdin.fileno()).st_size if stdin else 0)
        inner = shlex.join([*sudo, "sh", "-c", _MARKED % shlex.join(command)])
        super().__init__([*client, shlex.join(["sh", "-c", _IN_TERMINAL % (size, inner)])], subprocess.PIPE)
        assert self._process.stdin
        marks = _READY, b"joey-begin-%s." % nonce, b"joey-end-%s." % nonce
        self._between = _Between(self.out, self._process.stdin, first, stdin, marks)
        self.out = io.BufferedReader(self._between, _CHUNK)

    def wait(self) -> int:
        status = super().wait()
        if self._between.broke and status == 0:
            return 255
        return status

    @property
    def errors(self) -> str:
        said = self._between.said.decode("utf-8", "replace")
        begun = self._between.broke and self._between.begun
        return f"{said}{super().errors}\n{_BROKE}" if begun else super().errors + said


class _Between(io.RawIOBase):
    """The bytes between the last two of three marks. `said`: those beside them; `broke`: the last mark did not come.

    `first` and `stdin` are sent once the first mark has come, which tells that the terminal is raw.
    """

    def __init__(
        self, stream: IO[bytes], sink: IO[bytes], first: bytes, stdin: IO[bytes] | None, marks: tuple[bytes, ...]
    ) -> None:
        self._stream = stream
        self._sink = sink
        self._first = first
        self._stdin = stdin
        self._marks = marks
        self._seen = 0  # marks
        self._held = b""  # what may be the start of the next
        self._out = b""
        self._ended = False
        self.said = bytearray()

    @property
    def broke(self) -> bool:
        return self._ended and self._seen < len(self._marks)

    @property
    def begun(self) -> bool:
        return self._seen >= 2

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
            if self._seen == 1:
                threading.Thread(target=self._feed, daemon=True).start()
        else:
            self._say(data)
            data = b""
        self._held = data

    def _say(self, data: bytes) -> None:
        self.said += data[: _ERRORS - len(self.said)]

    def _feed(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the command ended without reading it all
            self._sink.write(self._first)
            while self._stdin is not None and (data := self._stdin.read(_CHUNK)):
                self._sink.write(data)
            self._sink.flush()
