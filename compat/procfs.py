"""Opening a file of the calling process in a /proc that hostile hands may have mounted over (CVE-2019-16884)."""

from __future__ import annotations

import os

from . import libc
from .errors import JoeyError

PROC_SUPER_MAGIC = 0x9FA0
_ROOT_INODE = 1


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
