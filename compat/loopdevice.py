"""Loop devices: a file as a block device. Source: loop(4); <linux/loop.h>."""

from __future__ import annotations

import errno
import fcntl
import os
from struct import pack, unpack_from

from .errors import JoeyError

_GET_FREE, _SET_FD, _CLR_FD, _SET_STATUS64, SET_CAPACITY = 0x4C82, 0x4C00, 0x4C01, 0x4C04, 0x4C07
_GET_STATUS64, _INFO_SIZE = 0x4C05, 232
_AUTOCLEAR = 4
_TRIES = 64


def attach(file: int, name: str, offset: int = 0, limit: int = 0) -> tuple[int, str]:
    """Put an open file on a free loop device, which lets go of it when nobody has it open or mounted any more.

    A file that is open for reading only gives a device that can't be written. `limit` bytes from `offset` on are its,
    0 for all. The device's descriptor, to be kept until it is mounted, and its node. Raises OSError, JoeyError.
    """
    writable = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    for number in range(_TRIES):
        node = _free(number)
        try:
            device = os.open(node, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.ioctl(device, _SET_FD, file)
        except OSError as error:
            os.close(device)
            if error.errno == errno.EBUSY:
                continue  # another took it a moment ago
            raise
        title = os.fsencode(name)[-63:]
        info = pack("<5Q4I64s64s32s2Q", 0, 0, 0, offset, limit, 0, 0, 0, _AUTOCLEAR, title, b"", b"", 0, 0)
        try:
            fcntl.ioctl(device, _SET_STATUS64, info)
        except OSError:
            fcntl.ioctl(device, _CLR_FD)
            os.close(device)
            raise
        return device, node
    raise JoeyError(f"{name}: no loop device is free", "see losetup -a; modprobe loop max_loop=64", "loop-device")


def find(path: str) -> str:
    """The node of a loop device that has this file already; "" for none."""
    status = os.stat(path)
    for name in os.listdir("/sys/block"):
        if not name.startswith("loop") or not os.path.isdir(f"/sys/block/{name}/loop"):
            continue
        try:
            device = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        info = bytearray(_INFO_SIZE)
        try:
            fcntl.ioctl(device, _GET_STATUS64, info)
        except OSError:
            continue  # it has just been let go of
        finally:
            os.close(device)
        number, inode = unpack_from("<2Q", info)
        major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
        if (major, minor, inode) == (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino):
            return f"/dev/{name}"
    return ""


def _free(number: int) -> str:
    """A loop device that may be free: the kernel's word, or before Linux 3.1 one after the other."""
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return f"/dev/loop{number}"
    try:
        return f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
    finally:
        os.close(control)
