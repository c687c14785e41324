"""Processes by pid and start time: alive or not, how one ended, and the descriptors it passes on."""

from __future__ import annotations

import os

from . import files
from .errors import JoeyError, UsageError


def serves_plain_user() -> bool:
    """Whether a plain user started this: not root, or root only of a user namespace that a plain user made.

    Rootless podman calls its runtime in such a namespace: ids are mapped, /run and the cgroups are still the host's.
    $USER tells it from root of a whole system in a user namespace (LXC), as runc does. Source: user_namespaces(7).
    """
    if os.geteuid() != 0:
        return True
    if os.environ.get("USER") == "root":
        return False
    return files.read_line("/proc/self/uid_map").split() not in ([], ["0", "0", "4294967295"])


def stat(pid: int) -> tuple[str, list[str]]:
    """The name of a process, and what follows it in /proc/PID/stat, from the state on; ("", []) where there is none.

    So "1" is the parent, "3" the session, "19" the start in clock ticks since boot. Source: proc(5).
    """
    try:
        head, _, tail = files.read_text(f"/proc/{pid}/stat").rpartition(")")
    except (OSError, ValueError, JoeyError):
        return "", []
    return head.partition("(")[2], tail.split()


def lives(fields: list[str]) -> bool:
    """Whether the fields of `stat` are those of a process that is there, and no zombie."""
    return bool(fields) and fields[0] not in ("Z", "X")


def start_time(pid: int) -> int:
    """The process's start in clock ticks since boot; 0 when there is none or it is a zombie."""
    _, fields = stat(pid)
    return int(fields[19]) if lives(fields) else 0


def all_pids() -> list[int]:
    """The pids of this pid namespace, as /proc has them."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def child_named(parent: int, name: str) -> int:
    """The pid of a process's child of this name (PR_SET_NAME); 0 for none."""
    for pid in all_pids():
        found, fields = stat(pid)
        if found == name and int(fields[1]) == parent:
            return pid
    return 0


def exit_status(wait_status: int) -> int:
    """A wait status as a shell's exit status: the code, or 128 and the signal."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def close_all_but(kept: set[int], first: int) -> None:
    """Close every descriptor from `first` on but those in `kept`."""
    try:
        fds = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no /proc here
        fds = list(range(first, os.sysconf("SC_OPEN_MAX")))
    for fd in fds:
        if fd >= first and fd not in kept:
            try:
                os.close(fd)
            except OSError:
                continue  # the directory's own descriptor, closed by now


def check_passed_fds(count: int) -> None:
    """The `count` descriptors after the standard three must be the caller's, open before joey opens any of its own."""
    if not 0 <= count <= 1024:
        raise UsageError(f"--preserve-fds: {count} is outside 0 to 1024")
    for fd in range(3, 3 + count):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            raise UsageError(f"--preserve-fds {count}: descriptor {fd} is not open") from None
