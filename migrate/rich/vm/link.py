"""Asking the agent in a virtual machine to run a command. What it says to it is in tools/guest/agent.c."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ....compat import terminal
from ....compat.errors import JoeyError
from .boot import OWN_PORT, PORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HEAD = struct.Struct("<2scBII")
_MOST, _MOST_STRINGS = 1 << 17, 4000
_CHUNK = 1 << 15
_ANSWER = 5.0  # seconds that the agent may take to answer
_NO_AGENT = "its agent does not answer: it is still booting, or going down"


class NoAgentError(JoeyError):
    """Nobody answers in the machine."""


def request(argv: list[str], env: dict[str, str], user: tuple[int, int, list[int]], cwd: str,
            size: tuple[int, int] | None) -> bytes:  # fmt: skip
    """A command as the agent reads it; `size` in rows and columns for one with a terminal."""
    uid, gid, groups = user
    rows, columns = size or (0, 0)
    strings = [cwd, *argv, *(f"{key}={value}" for key, value in env.items())]
    body = struct.pack("<8I", size is not None, uid, gid, rows, columns, len(groups), len(argv), len(env))
    body += struct.pack(f"<{len(groups)}I", *groups)
    body += b"".join(os.fsencode(text) + b"\0" for text in strings)
    if len(strings) > _MOST_STRINGS or len(body) > _MOST or any("\0" in text for text in strings):
        raise JoeyError(
            "the command is too long for a virtual machine, or has a NUL in it", "128 KiB and 4000 words at most", "vm"
        )
    return body


class Link:
    """A free port of a machine's agent, while it is held. Nothing that the machine says or leaves unread blocks it."""

    def __init__(self, folder: str, own: bool) -> None:
        """`own`: for joey, which has a port that people's commands can't take.

        Raises NoAgentError, JoeyError where no port is free.
        """
        self._number = int.from_bytes(os.urandom(4), "little") | 1
        self._buffer = b""
        self._pending = bytearray()
        self._begun = False
        self.lock, chosen = _locked(f"{folder}/locks", [OWN_PORT, *range(PORTS)] if own else list(range(PORTS)))
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # a socket and no link: whoever broke out of the machine may have made others there
            place = os.open(f"{folder}/run/exec{chosen}", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if not stat.S_ISSOCK(os.fstat(place).st_mode):
                    raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
                self.socket.connect(f"/proc/self/fd/{place}")
            finally:
                os.close(place)
        except OSError:
            self.close()
            raise NoAgentError(_NO_AGENT, slug="not-running") from None
        self.socket.setblocking(False)

    def close(self) -> None:
        self.socket.close()
        os.close(self.lock)

    @property
    def is_behind(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._pending)

    def send(self, kind: bytes, data: bytes = b"") -> None:
        """Send, now or as the machine takes it (`flush`). Raises NoAgentError."""
        self._pending += _HEAD.pack(b"Jy", kind, 0, self._number, len(data)) + data
        self.flush()

    def flush(self) -> None:
        try:
            while self._pending:
                del self._pending[: self.socket.send(self._pending[: 1 << 16])]
        except BlockingIOError:
            return
        except OSError:
            raise NoAgentError("the machine went down", slug="not-running") from None

    def receive(self, seconds: float | None) -> tuple[bytes, bytes] | None:
        """The next frame; None where none comes in time. What is of others' sessions is left out.

        Raises NoAgentError where the machine has gone, or was started anew.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            while len(self._buffer) >= _HEAD.size:
                mark, kind, _, number, size = _HEAD.unpack_from(self._buffer)
                if mark != b"Jy" or size > _MOST:
                    raise NoAgentError("its agent says what nobody understands", slug="vm")
                if len(self._buffer) < _HEAD.size + size:
                    break
                data = self._buffer[_HEAD.size : _HEAD.size + size]
                self._buffer = self._buffer[_HEAD.size + size :]
                if number == self._number:
                    return kind, data
                if kind == b"B" and self._begun:
                    raise NoAgentError("the machine was started anew", slug="not-running")
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, room, _ = select.select([self.socket], [self.socket] if self._pending else [], [], left)
            if room:
                self.flush()
            if not ready:
                if not room:
                    return None
                continue
            try:
                data = self.socket.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                raise NoAgentError("the machine went down", slug="not-running")
            self._buffer += data

    def begin(self, body: bytes, kind: bytes = b"R") -> None:
        """Start a command. Raises NoAgentError, JoeyError with what failed."""
        self.send(kind, body)
        answer = self.receive(_ANSWER)
        if answer is None:
            raise NoAgentError(_NO_AGENT, slug="not-running")
        self._begun = True
        if answer[0] == b"F":
            number = int.from_bytes(answer[1][:4], "little")
            name = errno.errorcode.get(number, "")
            what = answer[1][4:].decode("utf-8", "replace")
            raise JoeyError(f"{what}: {os.strerror(number)} ({name})" if name else f"{what}: {number}", slug="exec")


def _locked(folder: str, ports: list[int]) -> tuple[int, int]:
    """A lock on a free port, and which; some time is waited for one. Raises JoeyError."""
    deadline = time.monotonic() + _ANSWER
    while True:
        for port in ports:
            fd = os.open(f"{folder}/{port}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            return fd, port
        if time.monotonic() > deadline:
            raise JoeyError(f"{PORTS} commands run in it already", "wait for one of them", "busy")
        time.sleep(0.05)


@contextmanager
def linked(folder: str, own: bool) -> Iterator[Link]:
    made = Link(folder, own)
    try:
        yield made
    finally:
        made.close()


def run(folder: str, body: bytes, seconds: float, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command to its end; status 255, with the reason in what it said, where it can't be. Raises JoeyError for
    one that takes too long."""
    out, err = bytearray(), bytearray()
    deadline = time.monotonic() + seconds
    try:
        with linked(folder, own=True) as link:
            link.begin(body)
            data = text.encode("utf-8", "surrogateescape")
            for place in range(0, len(data), _CHUNK):
                link.send(b"I", data[place : place + _CHUNK])
            link.send(b"C")
            while True:
                frame = link.receive(max(0.0, deadline - time.monotonic()))
                if frame is None:
                    raise JoeyError(f"a command in it took more than {seconds:.0f} seconds")
                if frame[0] == b"X":
                    status = _code(frame[1])
                    break
                target = out if frame[0] == b"O" else err
                if len(target) < 16 << 20:
                    target += frame[1]
    except NoAgentError as error:
        return subprocess.CompletedProcess([], 255, "", error.message)
    except JoeyError as error:
        if error.slug != "exec":
            raise
        return subprocess.CompletedProcess([], 255, "", error.message)
    return subprocess.CompletedProcess([], status, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def kill(folder: str, pid: int, number: int) -> None:
    """Send a signal to a process of the machine. Raises JoeyError, NoAgentError."""
    with linked(folder, own=True) as link:
        link.begin(struct.pack("<II", pid, number), b"P")


def _code(data: bytes) -> int:
    try:
        code = os.waitstatus_to_exitcode(int.from_bytes(data[:4], "little"))
    except (ValueError, OverflowError):
        return 255  # a status that no process ends with
    return code if code >= 0 else 128 - code


def attach(folder: str, make: Callable[[tuple[int, int] | None], bytes], tty: bool) -> int:
    """Run a command with this process's streams; its status. `make` makes its request, for a terminal of a size."""
    size = None
    if tty:
        size = (24, 80)
        if os.isatty(0):
            columns, rows = os.get_terminal_size(0)
            size = (rows or 24, columns or 80)
    with linked(folder, own=False) as link:
        link.begin(make(size))
        before: list[Any] = terminal.make_raw(0) if tty and os.isatty(0) else []
        try:
            return _carry(link, tty)
        finally:
            if before:
                terminal.restore(0, before)


def _carry(link: Link, tty: bool) -> int:
    wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
    passed = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
    for each in (*passed, signal.SIGWINCH):
        signal.signal(each, lambda *_: None)
    reading = [0]
    while True:
        while (frame := link.receive(0)) is not None:
            if frame[0] == b"X":
                return _code(frame[1])
            if frame[0] in (b"O", b"E"):
                _write(1 if frame[0] == b"O" else 2, frame[1])
        # no more is read than the machine takes: and whatever it says is read meanwhile
        taking = [] if link.is_behind else reading
        ready = select.select([link.socket, wake, *taking], [link.socket] if link.is_behind else [], [])[0]
        link.flush()
        if wake in ready:
            for number in os.read(wake, 64):
                if number == signal.SIGWINCH and tty and os.isatty(0):
                    columns, rows = os.get_terminal_size(0)
                    link.send(b"W", struct.pack("<II", rows, columns))
                elif number in passed:
                    link.send(b"K", struct.pack("<I", number))
        if 0 in ready:
            data = os.read(0, _CHUNK)
            if data:
                link.send(b"I", data)
            else:
                link.send(b"C")
                reading = []


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
