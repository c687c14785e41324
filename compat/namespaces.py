"""Namespaces: their OCI names, clone flags and /proc files, and entering one by path."""

from __future__ import annotations

import errno
import os

from . import libc
from .constants import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from .errors import KernelError

# OCI name -> (clone flag, /proc/PID/ns file), in the order they are joined: user first, mount last.
NAMESPACES = {
    "user": (CLONE_NEWUSER, "user"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "uts": (CLONE_NEWUTS, "uts"),
    "network": (CLONE_NEWNET, "net"),
    "pid": (CLONE_NEWPID, "pid"),
    "time": (CLONE_NEWTIME, "time"),
    "mount": (CLONE_NEWNS, "mnt"),
}


def open_namespace(path: str) -> int:
    """A descriptor of a namespace file, close-on-exec. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def join(fd: int, name: str) -> None:
    """Enter the namespace `fd`, checked by the kernel to be of kind `name`. Raises KernelError."""
    libc.setns(fd, NAMESPACES[name][0])


def may_return(name: str) -> bool:
    """Whether this process may enter its own namespace `name` again, having left it.

    Root of a user namespace may not: the host's namespaces are not its own. Source: setns(2), EPERM.
    """
    fd = open_namespace(f"/proc/self/ns/{NAMESPACES[name][1]}")
    try:
        join(fd, name)
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        return False
    finally:
        os.close(fd)
    return True


def same(one: str, other: str) -> bool:
    """Whether two namespace files are the same namespace."""
    try:
        return os.stat(one).st_ino == os.stat(other).st_ino
    except OSError:
        return False
