"""Flags and behaviours of old calls that modern programs take for granted."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import socket
import struct
import time

from ...compat.constants import AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT
from ...compat.errors import KernelError
from ..catalog import Answer, Answered, Group
from ..trying import call, check, scratch

GROUP = Group("behaviour", "flags and behaviours")

_STAT = bytes(256)


@GROUP.probe(
    "fstatat.empty-path", 'newfstatat(fd, "", AT_EMPTY_PATH)', "glibc 2.33 to 2.38 dies in its loader", alone=False
)
def fstatat_empty_path() -> Answer:
    fd = os.open("/", os.O_RDONLY)
    check("newfstatat", fd, b"", _STAT, AT_EMPTY_PATH)
    return None


@GROUP.probe(
    "fstatat.no-automount", "newfstatat(AT_NO_AUTOMOUNT)", "`ls` of coreutils 8.32 and later fails", alone=False
)
def fstatat_no_automount() -> Answer:
    check("newfstatat", AT_FDCWD, b"/", _STAT, AT_NO_AUTOMOUNT)
    return None


@GROUP.probe(
    "open.path",
    "open(O_PATH)",
    "paths are held by real opens; fchmodat(NOFOLLOW) of modern C libraries fails",
    alone=False,
)
def open_path() -> Answer:
    fd = os.open("/", os.O_PATH)
    try:
        os.listdir(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            return "reads give EBADF"
        raise
    finally:
        os.close(fd)
    raise Answered("absent", "the flag is ignored: a real open")


@GROUP.probe("open.tmpfile", "open(O_TMPFILE)", "temporary files have names")
def open_tmpfile() -> Answer:
    try:
        place = scratch() if os.geteuid() == 0 else "/tmp"
        os.close(os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600))
    except IsADirectoryError:  # before Linux 3.11 it is a folder opened for writing
        raise Answered("absent", "EISDIR") from None
    return None


@GROUP.probe("pipe.direct", "pipe2(O_DIRECT)", "no packet pipes", alone=False)
def pipe_direct() -> Answer:
    for fd in os.pipe2(os.O_DIRECT | os.O_CLOEXEC):
        os.close(fd)
    return None


@GROUP.probe("pipe.size", "fcntl(F_SETPIPE_SZ)", "pipes stay at 64 KiB", alone=False)
def pipe_size() -> Answer:
    read_end, write_end = os.pipe()
    size = fcntl.fcntl(write_end, 1031, 4096)
    os.close(read_end)
    os.close(write_end)
    return size


@GROUP.probe("lock.ofd", "fcntl(F_OFD_SETLK)", "locks belong to processes, not to descriptors", alone=False)
def lock_ofd() -> Answer:
    fd = os.open("/proc/self/exe", os.O_RDONLY)
    try:
        fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 1, 0))
    finally:
        os.close(fd)
    return None


@GROUP.probe("socket.reuseport", "setsockopt(SO_REUSEPORT)", "one listener a port", alone=False)
def socket_reuseport() -> Answer:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return None


@GROUP.probe("uname.release", "uname(): 3.2 or later", "glibc 2.26 to 2.35: FATAL: kernel too old", alone=False)
def uname_release() -> Answer:
    release = os.uname().release  # the one question of a version: it is what those programs ask
    numbers = [int("".join(filter(str.isdigit, part)) or 0) for part in release.split("-")[0].split(".")[:2]]
    if numbers < [3, 2]:
        raise Answered("absent", release)
    return release


@GROUP.probe("clock.boottime", "clock_gettime(CLOCK_BOOTTIME)", "uptime without the time asleep", alone=False)
def clock_boottime() -> Answer:
    time.clock_gettime(7)
    return None


@GROUP.probe("madvise.hugepage", "madvise(MADV_HUGEPAGE)", "no transparent huge pages on request", alone=False)
def madvise_hugepage() -> Answer:
    with mmap.mmap(-1, 4 << 20) as memory:
        memory.madvise(14)
    return None


@GROUP.probe("madvise.free", "madvise(MADV_FREE)", "allocators give memory back at once", alone=False)
def madvise_free() -> Answer:
    with mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(8)
    return None


@GROUP.probe("mmap.fixed-noreplace", "mmap(MAP_FIXED_NOREPLACE)", "loaders may map over what is there", alone=False)
def mmap_fixed_noreplace() -> Answer:
    base = check("mmap", 0, 8192, 1, 0x22, -1, 0)
    again = call("mmap", base, 4096, 1, 0x100022, -1, 0)
    if again == -errno.EEXIST:
        return "EEXIST"
    raise Answered(
        "absent", "the flag is ignored: the mapping moved" if again > 0 else str(KernelError("mmap", -again))
    )


@GROUP.probe(
    "futex.lock-pi2", "futex(FUTEX_LOCK_PI2)", "priority-inheriting locks time out by the wall clock", alone=False
)
def futex_lock_pi2() -> Answer:
    result = call("futex", 1, 13, 0, 0, 0, 0)
    if result == -errno.ENOSYS:
        raise Answered("absent", "ENOSYS")
    return None


@GROUP.probe("tmpfs.fallocate", "fallocate() on tmpfs", "PostgreSQL and systemd-journald reserve space by writing")
def tmpfs_fallocate() -> Answer:
    scratch()
    fd = os.open("file", os.O_CREAT | os.O_RDWR)
    check("fallocate", fd, 0, 0, 4096)
    return None


@GROUP.probe("tmpfs.seek-data", "lseek(SEEK_DATA) on tmpfs", "holes of files are copied as zeros")
def tmpfs_seek_data() -> Answer:
    scratch()
    fd = os.open("file", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"data")
    return os.lseek(fd, 0, os.SEEK_DATA)
