"""Signals without the `signal` module, whose enums cost 5 ms of a start: the C module under it, with types."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_REALTIME: int = _signal.SIGRTMIN  # 34, 35 with musl: C libraries keep the first ones to themselves
_handled: list[int] = []
_IGNORED_BY_PYTHON = (_signal.SIGPIPE, _signal.SIGXFSZ)


def handle(number: int, handler: Callable[[int, object], None]) -> None:
    """Call `handler` for a signal."""
    _signal.signal(number, handler)
    _handled.append(number)


def reset() -> None:
    """Forget every handler and the wake-up descriptor: for a process about to become a container's."""
    _signal.set_wakeup_fd(-1)
    for number in _handled:
        _signal.signal(number, _signal.SIG_DFL)


def wake_by(fd: int) -> None:
    """Write the number of every caught signal to `fd`, a non-blocking pipe."""
    _signal.set_wakeup_fd(fd, warn_on_full_buffer=False)


def blocked() -> frozenset[int]:
    """The signals the calling thread blocks."""
    return frozenset(int(number) for number in _signal.pthread_sigmask(_signal.SIG_BLOCK, ()))


def restore_for_exec(mask: frozenset[int]) -> None:
    """Undo what the interpreter changed: it ignores two signals, and an ignored signal stays ignored over exec."""
    for number in _IGNORED_BY_PYTHON:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def block_child_signal() -> None:
    """Keep SIGCHLD for `wait_for_child`."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGCHLD,))


def wait_for_child(seconds: float) -> None:
    """Return when a child may have changed, or after a time."""
    _signal.sigtimedwait((_signal.SIGCHLD,), seconds)


def handle_children(fd: int) -> None:
    """Write to `fd`, a non-blocking pipe, when a child ends."""
    handle(_signal.SIGCHLD, lambda caught, frame: None)
    wake_by(fd)


def ignore_ends() -> None:
    """Go on whatever asks this process to end, but for SIGKILL; until `reset`."""
    for number in (1, 2, 3, 15):
        _signal.signal(number, _signal.SIG_IGN)
        _handled.append(number)


def end_by_signals() -> None:
    """Have the signals that end a program end this one even as the first process of a pid namespace, until an exec.

    There the kernel ignores a signal whose action is the default. Source: pid_namespaces(7).
    """
    for number in (1, 2, 3, 15):
        _signal.signal(number, lambda caught, frame: os._exit(128 + caught))
