"""A /proc that hostile hands may have mounted over (CVE-2019-16884), and mounts over it."""

from __future__ import annotations

import os

from . import libc
from .errors import JoeyError

PROC_SUPER_MAGIC = 0x9FA0
_ROOT_INODE = 1

# What a bundle may mount over: files that lxcfs and its like show in their own way, and that nothing is written to
# by a runtime. The list is runc's.
OPEN_TO_MOUNTS = frozenset(
    f"/proc/{name}"
    for name in ("cpuinfo", "diskstats", "loadavg", "meminfo", "net/dev", "slabinfo", "stat", "swaps", "uptime",
                 "sys/crypto/fips_enabled", "sys/kernel/ns_last_pid")
)  # fmt: skip


def check_target(fd: int, root: str, destination: str, shows_proc: bool) -> None:
    """Refuse to mount over the container's /proc, on which masks and labels rely, but for `OPEN_TO_MOUNTS`.

    `fd` is the open mount target below the folder `root`; `shows_proc`: what is mounted is proc (CVE-2025-52881).
    Raises JoeyError.
    """
    inside = os.readlink(f"/proc/self/fd/{fd}").removeprefix(root.rstrip("/"))
    if inside == "/proc":
        if not shows_proc:
            raise JoeyError(f"{destination}: only proc may be mounted on /proc", slug="proc-covered")
    elif libc.fs_type(f"/proc/self/fd/{fd}") == PROC_SUPER_MAGIC and inside not in OPEN_TO_MOUNTS:
        hint = "of /proc only these may be mounted over: " + " ".join(sorted(OPEN_TO_MOUNTS))
        raise JoeyError(f"{destination} is in /proc, where masks and settings must hold", hint, slug="proc-covered")


def open_own(file: str, flags: int) -> int:
    """/proc/thread-self/`file` (or /proc/self, before Linux 3.17), checked to be of the proc file system itself.

    Raises JoeyError where /proc, or something on the way, is another file system; OSError as open(2).
    """
    root = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.fs_type(root) != PROC_SUPER_MAGIC or os.fstat(root).st_ino != _ROOT_INODE:
            raise JoeyError("/proc is not the proc file system")
        device = os.fstat(root).st_dev
        fd = os.open(f"self/{file}", flags | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=root)
    finally:
        os.close(root)
    # a bind mount of one proc file over another shows in where the descriptor leads
    where = os.readlink(f"/proc/self/fd/{fd}")
    if libc.fs_type(fd) != PROC_SUPER_MAGIC or os.fstat(fd).st_dev != device or not where.endswith(f"/{file}"):
        os.close(fd)
        raise JoeyError(f"/proc/self/{file} is covered by something else")
    return fd


def sysctl_path(name: str) -> str:
    """The path below /proc/sys of a sysctl: "net.ipv4.ip_forward" or "net/ipv4/ip_forward"; "" for what is none.

    What separates first separates; the other character stands for a dot in a name ("net.ipv4.conf.eth0/1.mtu").
    Source: sysctl(8), sysctl.d(5).
    """
    dot, slash = name.find("."), name.find("/")
    if slash < 0 or 0 <= dot < slash:
        name = name.translate({ord("."): "/", ord("/"): "."})
    return "" if {"", ".", ".."} & set(name.split("/")) else name
