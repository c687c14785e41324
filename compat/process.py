"""Processes by pid and start time: alive or not, how one ended, and the descriptors it passes on."""

from __future__ import annotations

import os

from . import files


def start_time(pid: int) -> int:
    """The process's start in clock ticks since boot; 0 when there is none or it is a zombie. Source: proc(5), stat."""
    try:
        text = files.read_text(f"/proc/{pid}/stat")
    except (OSError, ValueError):
        return 0
    fields = text.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return 0
    return int(fields[19])


def exit_status(wait_status: int) -> int:
    """A wait status as a shell's exit status: the code, or 128 and the signal."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def close_on_exec_above(first: int) -> None:
    """Mark every descriptor from `first` on close-on-exec, so that nothing leaks into a container."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd >= first:
            try:
                os.set_inheritable(fd, False)
            except OSError:
                continue  # the directory's own descriptor, closed by now
