"""Processes of joey's that stay: a tracer, a watcher, an agent. They hold nothing of whoever started them."""

from __future__ import annotations

import os

from . import libc, process, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def start(body: Callable[[], None]) -> None:
    """Run `body` in a process that is nobody's child but init's. Returns at once."""
    between = os.fork()
    if between == 0:
        try:
            if os.fork() == 0:
                body()
        finally:
            os._exit(0)
    os.waitpid(between, 0)


def settle(name: str, kept: set[int], null: int = -1) -> None:
    """Let go of the caller's session, signals, folder, streams and descriptors, but for `kept`; take a name.

    `null` is a descriptor of /dev/null, where it can't be opened any more.
    """
    os.setsid()
    signals.reset()
    signals.ignore_ends()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR) if null < 0 else null
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    process.close_all_but(kept, first=3)
    libc.name_process(name)
