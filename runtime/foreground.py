"""Stay with a process in the foreground: forward signals, reap children, relay a terminal, return its status."""

from __future__ import annotations

import os
import select

from ..compat import signals, terminal
from ..compat.constants import PR_SET_CHILD_SUBREAPER, SIGCHLD, SIGWINCH
from ..compat.errors import KernelError
from ..compat.libc import prctl
from ..compat.process import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

# Everything that can be caught and means something to a program; the rest is about joey itself.
# not those of job control (SIGTSTP, SIGTTIN, SIGTTOU): they stop joey, as they should
FORWARDED = (1, 2, 3, 10, 12, 13, 15, 18, 23, 29, 30, *range(signals.FIRST_REALTIME, 65))

ENDING = (1, 2, 15)


class Foreground:
    """Made before the process, so that no signal and no end of a child is missed.

    Until `forward`, the signals that end a program end the making of the container: it is undone.
    """

    __slots__ = ("_wake_read", "_wake_write")

    def __init__(self, subreaper: bool) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        for number in (*FORWARDED, SIGCHLD, SIGWINCH):
            signals.handle(number, _interrupt if number in ENDING else _noted)
        signals.wake_by(self._wake_write)
        if subreaper:
            try:
                prctl(PR_SET_CHILD_SUBREAPER, 1)
            except KernelError:
                pass  # before Linux 3.4 orphans of a container without a pid namespace go to the host's init

    def forward(self) -> None:
        """From here on every signal is the process's: kept for `wait` to pass on. Called just before it may run."""
        for number in ENDING:
            signals.handle(number, _noted)

    def wait(self, pid: int, master: int = -1, told_by: _socket.socket | None = None) -> int:
        """Forward signals and terminal traffic until `pid` has ended; its exit status, 128 and the signal if killed.

        `told_by` is where the container's agent tells of the end, where the process is its child.
        """
        before = None
        relays: list[_Relay] = []
        if master >= 0:
            terminal.copy_size(0, master)
            os.set_blocking(master, False)
            relays = [_Relay(0, master), _Relay(master, 1)]
            if os.isatty(0):
                before = terminal.make_raw(0)
        try:
            return self._loop(pid, master, relays, told_by)
        finally:
            if before is not None:
                terminal.restore(0, before)

    def _loop(self, pid: int, master: int, relays: list[_Relay], told_by: _socket.socket | None) -> int:
        status = _reap(pid)
        while status is None:
            poll = select.poll()
            poll.register(self._wake_read, select.POLLIN)
            if told_by:
                poll.register(told_by.fileno(), select.POLLIN)
            wanted: dict[int, int] = {}
            for relay in relays:
                fd, event = relay.waits_for()
                if fd >= 0:
                    wanted[fd] = wanted.get(fd, 0) | event
            for fd, event in wanted.items():
                poll.register(fd, event)
            ready = dict(poll.poll())
            if self._wake_read in ready:
                self._handle_signals(pid, master)
            for relay in relays:
                fd, event = relay.waits_for()
                if ready.get(fd, 0) & (event | select.POLLHUP | select.POLLERR):
                    relay.move()
            status = _reap(pid)
            if told_by and told_by.fileno() in ready:
                from .agent import wait_status

                status = exit_status(wait_status(told_by))
        for relay in relays[1:]:  # what the program said last
            relay.drain()
        return status

    def _handle_signals(self, pid: int, master: int) -> None:
        for number in os.read(self._wake_read, 4096):
            if number == SIGWINCH:
                if master >= 0:
                    terminal.copy_size(0, master)
            elif number != SIGCHLD:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue


class _Relay:
    """One direction of a terminal's traffic, with at most one buffer waiting to be written."""

    __slots__ = ("_ended", "_pending", "_source", "_target")

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._pending = b""
        self._ended = False

    def waits_for(self) -> tuple[int, int]:
        """The descriptor and poll(2) event that `move` needs; -1 when this direction is done."""
        if self._pending:
            return self._target, select.POLLOUT
        return (-1, 0) if self._ended else (self._source, select.POLLIN)

    def move(self) -> None:
        """Write what is waiting, or read something; never both, so that neither blocks."""
        try:
            if self._pending:
                self._pending = self._pending[os.write(self._target, self._pending) :]
            else:
                self._pending = os.read(self._source, 1 << 12)
                self._ended = not self._pending
        except BlockingIOError:
            return
        except OSError:  # a terminal whose last user has gone answers EIO
            self._ended, self._pending = True, b""

    def drain(self) -> None:
        """Move everything that is there; the reader of the target may take its time."""
        while not self._ended:
            if self._pending:
                select.select([], [self._target], [])
                self.move()
                continue
            self.move()
            if not self._pending:
                return


def _noted(number: int, frame: object) -> None:
    """Only there so that the wakeup descriptor gets the signal's number."""


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _reap(pid: int) -> int | None:
    """Reap every child that has ended; the status of `pid` once it is among them."""
    status = None
    while True:
        try:
            ended, word = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if ended == 0:
            return status
        if ended == pid:
            status = exit_status(word)
