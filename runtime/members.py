"""A container's processes, with or without cgroups; stopped and continued one by one where there is no freezer."""

from __future__ import annotations

import os
import time

from ..compat import process
from ..compat.errors import StateError
from .state import State

_SIGSTOP, _SIGCONT = 19, 18
_STOPPED = frozenset("TtZX")


def pids(state: State) -> list[int]:
    """The host's pids: by cgroup, else those in its pid namespace, else what its first process made."""
    found = state.cgroup.pids()
    if found or not state.alive():
        return found
    try:
        own = os.readlink(f"/proc/{state.pid}/ns/pid")
        if own != os.readlink("/proc/self/ns/pid"):
            return _in_namespace(own)
    except OSError:
        pass  # before Linux 3.8; or somebody else's
    return _descendants(state.pid)


def _in_namespace(own: str) -> list[int]:
    found = []
    for pid in process.all_pids():
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == own:
                found.append(pid)
        except OSError:
            continue  # it ended, or is another user's
    return sorted(found)


def _descendants(first: int) -> list[int]:
    """A process and all below it. In a pid namespace orphans are its first process's; else they get away."""
    children: dict[int, list[int]] = {}
    for pid in process.all_pids():
        _, fields = process.stat(pid)
        if fields:
            children.setdefault(int(fields[1]), []).append(pid)
    found, todo = [], [first]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return sorted(found)


def stop(state: State) -> None:
    """SIGSTOP to every process, until all have stopped and no new one came meanwhile. Raises StateError."""
    deadline = time.monotonic() + 5
    stopped: set[int] = set()
    while True:
        found = [pid for pid in pids(state) if _runs(pid)]
        if not found:
            return
        if time.monotonic() > deadline:
            send(sorted(stopped), _SIGCONT)
            raise StateError(f"processes {found} do not stop", "they may hang in the kernel; see /proc/PID/stack")
        send(found, _SIGSTOP)
        stopped.update(found)
        time.sleep(0.002)


def _runs(pid: int) -> bool:
    _, fields = process.stat(pid)
    return bool(fields) and fields[0] not in _STOPPED


def go_on(state: State) -> None:
    """SIGCONT to every process."""
    send(pids(state), _SIGCONT)


def send(found: list[int], signal: int) -> None:
    for pid in found:
        try:
            os.kill(pid, signal)
        except ProcessLookupError:
            continue
