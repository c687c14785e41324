"""Stay with a process in the foreground: forward signals, reap children, relay a terminal, return its status."""

from __future__ import annotations

import os
import select

from ..compat import signals, terminal
from ..compat.constants import PR_SET_CHILD_SUBREAPER, SIGCHLD, SIGWINCH
from ..compat.errors import KernelError
from ..compat.libc import prctl
from ..compat.process import exit_status

# Everything that can be caught and means something to a program; the rest is about joey itself.
FORWARDED = (1, 2, 3, 10, 12, 13, 15, 18, 20, 21, 22, 23, 29, 30, *range(34, 65))


class Foreground:
    """Made before the process, so that no signal and no end of a child is missed."""

    __slots__ = ("_wake_read", "_wake_write", "mask")

    def __init__(self, subreaper: bool) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        for number in (*FORWARDED, SIGCHLD, SIGWINCH):
            signals.handle(number, _noted)
        signals.wake_by(self._wake_write)
        if subreaper:
            try:
                prctl(PR_SET_CHILD_SUBREAPER, 1)
            except KernelError:
                pass  # the plan said it works; without it orphans go to the host's init, as before Linux 3.4

    def wait(self, pid: int, master: int = -1) -> int:
        """Forward signals and terminal traffic until `pid` has ended; its exit status, 128 and the signal if killed."""
        before = None
        if master >= 0:
            terminal.copy_size(0, master)
            if os.isatty(0):
                before = terminal.make_raw(0)
        try:
            return self._loop(pid, master)
        finally:
            if before is not None:
                terminal.restore(0, before)

    def _loop(self, pid: int, master: int) -> int:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if master >= 0:
            poll.register(master, select.POLLIN)
            poll.register(0, select.POLLIN)
        status = _reap(pid)
        while status is None:
            for fd, _ in poll.poll():
                if fd == self._wake_read:
                    self._handle_signals(pid, master)
                elif fd == master:
                    if not _copy(master, 1):
                        poll.unregister(master)
                elif not _copy(0, master):
                    poll.unregister(0)
            status = _reap(pid)
        if master >= 0:
            os.set_blocking(master, False)
            while _copy(master, 1):
                pass
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


def _noted(number: int, frame: object) -> None:
    """Only there so that the wakeup descriptor gets the signal's number."""


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


def _copy(source: int, target: int) -> bool:
    """Move what is there; False at the end. A terminal whose last user has gone answers EIO."""
    try:
        data = os.read(source, 1 << 16)
        while data:
            data = data[os.write(target, data) :]
            if not data:
                return True
    except BlockingIOError:
        return False
    except OSError:
        return False
    return False
