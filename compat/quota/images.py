"""A file system of its own in a sparse file: the size is the limit. Made once, grown while it is mounted.

Source: EXT4_IOC_RESIZE_FS, <linux/ext4.h> and the kernel's ext4 document.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from struct import pack, unpack_from

from .. import loopdevice
from ..errors import JoeyError
from ..files import find_program

_RESIZE_FS = 0x40086610
_MKFS = (("mkfs.ext4", ("-F", "-q", "-m", "0")), ("mke2fs", ("-F", "-q", "-m", "0", "-t", "ext4")))
FSTYPE = "ext4"
_BLOCK = 4096
FIRST_FREE_INODE = 11  # those before are the file system's own


def maker() -> tuple[str, ...]:
    """The command that makes a file system here, without the file; () for none."""
    for name, words in _MKFS:
        path = find_program(name)
        if path and os.path.basename(os.path.realpath(path)) != "busybox":
            return path, *words
    busybox = os.path.join(os.path.dirname(os.path.realpath("/proc/self/exe")), "busybox")
    for path in (busybox, find_program("busybox")):
        if path and os.access(path, os.X_OK) and _has_mke2fs(path):
            return path, "mke2fs", "-F", "-m", "0"
    return ()


def _has_mke2fs(busybox: str) -> bool:
    done = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=False)
    return "mke2fs" in done.stdout.split()


def make(path: str, size: int, inodes: int) -> None:
    """Make a sparse file with an empty file system. Raises JoeyError; nothing stays then."""
    command = maker()
    if not command:
        raise JoeyError("no mkfs.ext4 and no mke2fs here", "install e2fsprogs", "quota")
    if os.path.lexists(path):
        os.unlink(path)  # what a killed joey left
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, whole_blocks(size))
    finally:
        os.close(fd)
    words = ["-N", str(inodes + FIRST_FREE_INODE)] if inodes else []
    if inodes and command[1] == "mke2fs":
        words = ["-i", str(max(1024, size // (inodes + FIRST_FREE_INODE)))]
    done = subprocess.run(
        [*command, *words, path], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        os.unlink(path)
        raise JoeyError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}", slug="quota")


def whole_blocks(size: int) -> int:
    """The size of an image for a limit."""
    return size // _BLOCK * _BLOCK


def inodes_of(path: str) -> int:
    """How many files the file system in an image has room for. Source: the kernel's ext4 document, super block."""
    with open(path, "rb") as file:
        file.seek(1024)
        count: int = unpack_from("<I", file.read(1024))[0]
    return count - FIRST_FREE_INODE


def attach(path: str) -> tuple[int, str]:
    """Put a file on a free loop device, which lets go of it when nobody has it open or mounted any more.

    The device's descriptor, to be kept until it is mounted, and its node. Raises JoeyError: a file that is on one is
    somebody's, and two would destroy it.
    """
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the device keeps the file open, and so locked
        except BlockingIOError:
            raise JoeyError(f"{path} is in use", "another container of the bundle runs", "quota") from None
        return loopdevice.attach(file, path)
    finally:
        os.close(file)


def grow(path: str, device: str, mounted: int, size: int) -> None:
    """Make a mounted file system larger: its file, its loop device, itself. `mounted` is an open directory of it.

    Raises JoeyError for less than it has, or another file system; OSError where this kernel can't (before Linux 3.3).
    """
    size = whole_blocks(size)
    if os.fstat(mounted).st_dev != os.stat(device).st_rdev:
        raise JoeyError(f"{path} is not what is mounted there", slug="quota")
    if size < os.stat(path).st_size:
        raise JoeyError(f"{path} can't be made smaller than its {os.stat(path).st_size} bytes", slug="quota")
    os.truncate(path, size)
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, loopdevice.SET_CAPACITY)
    finally:
        os.close(fd)
    try:
        fcntl.ioctl(mounted, _RESIZE_FS, pack("<Q", size // os.fstatvfs(mounted).f_bsize))
    except OSError as error:
        hint = "it takes CAP_SYS_RESOURCE, and Linux 3.3; the image is as large already, its file system is not"
        raise JoeyError(f"{path} can't be grown while it is mounted: {error.strerror}", hint, "quota") from None
