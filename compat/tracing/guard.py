"""A process that ends a tracer's tracees should the tracer die: for kernels without PTRACE_O_EXITKILL (Linux 3.8)."""

from __future__ import annotations

import os
import time
from struct import unpack_from

from ..process import all_pids, lives, start_time, stat

_SIGKILL = 9


def watch(pipe: int, tracees: set[int]) -> None:
    """Kill what is still traced when the tracer's end of the pipe closes.

    The first process goes first: where it is the first of a pid namespace, all in there go with it. Others are looked
    for in the sessions that a tracee leads too, for one may have forked meanwhile. A pid that is somebody else's by now
    is left alone.
    """
    first = min(tracees, default=0)
    born = {pid: start_time(pid) for pid in tracees}
    held = b""
    while data := os.read(pipe, 4096):
        held += data
        whole = len(held) // 4 * 4
        for at in range(0, whole, 4):
            number = unpack_from("<i", held, at)[0]
            if number > 0:
                born[number] = start_time(number)
                first = first or number
            else:
                born.pop(-number, None)
        held = held[whole:]
    sessions = {_session(pid) for pid in born} & set(born)  # theirs: one that began outside is not
    for pid in sorted(born, key=lambda pid: pid != first):
        if start_time(pid) == born[pid]:
            kill(pid)
    for _ in range(20):
        left = [pid for pid in all_pids() if _session(pid) in sessions]
        if not left:
            return
        for pid in left:
            kill(pid)
        time.sleep(0.01)


def _session(pid: int) -> int:
    """The session of a process that could be a tracee's; 0 for others."""
    _, fields = stat(pid)
    return int(fields[3]) if lives(fields) else 0


def kill(pid: int) -> None:
    """SIGKILL, to a process that may have ended."""
    send(pid, _SIGKILL)


def send(pid: int, signal: int) -> None:
    """A signal, to a process that may have ended."""
    try:
        os.kill(pid, signal)
    except ProcessLookupError:
        pass
