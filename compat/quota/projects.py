"""Project quota of XFS and ext4: directories whose files carry a project's number, and a limit for it.

Source: quotactl(2), xfs_quota(8), ioctl_fs(7) FS_IOC_FSSETXATTR; <linux/quota.h>, <linux/dqblk_xfs.h>, <linux/fs.h>.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from struct import pack, pack_into, unpack_from

from .. import cdata
from ..errors import KernelError
from ..treecopy import MAX_DEPTH
from .places import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FIRST_ID = (1 << 24) + 1  # as Pouch counts
FIRST_SHORT_ID = (1 << 15) + 1  # XFS before Linux 2.6.37 keeps sixteen bits
_GETXATTR, _SETXATTR = 0x801C581F, 0x401C5820
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT
_PROJECT = 2  # PRJQUOTA
_X = ord("X") << 8
_XGETQUOTA, _XSETQLIM, _XGETQSTAT = _X + 3, _X + 4, _X + 5
_GETQUOTA, _SETQUOTA, _GETFMT = 0x800007, 0x800008, 0x800004
_XFS_DQUOT = 112  # struct fs_disk_quota
_VFS_DQUOT = 72  # struct if_dqblk
_ON_AND_ENFORCED = 0x30  # of XFS's projects

_quotactl = cdata.function("quotactl", cdata.c_int, cdata.c_int, cdata.c_char_p, cdata.c_int, cdata.c_void_p)


def unfit(place: Place) -> str:
    """Why a directory can't have a project quota; "" where it can."""
    if place.fstype not in ("xfs", "ext4"):
        return f"{place.path} is on {place.fstype}"
    if not place.device:
        return f"{place.mount} has no device node here"
    try:
        if place.fstype == "xfs":
            buffer = cdata.create_string_buffer(256)
            _call(_XGETQSTAT, place.device, 0, buffer)
            if unpack_from("<H", bytes(buffer), 2)[0] & _ON_AND_ENFORCED != _ON_AND_ENFORCED:
                return f"project quota is off at {place.mount}: mount it with prjquota"
        else:
            _call(_GETFMT, place.device, 0, cdata.create_string_buffer(8))
        fd = os.open(place.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _GETXATTR, bytes(28))
        finally:
            os.close(fd)
    except (KernelError, OSError) as error:
        reason = os.strerror(error.errno or 0)
        return f"project quota is off at {place.mount} ({reason}): mount it with prjquota"
    return ""


def project_of(path: str) -> int:
    """The project a directory's files belong to; 0 for none."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        number: int = unpack_from("<I", fcntl.ioctl(fd, _GETXATTR, bytes(28)), 12)[0]
        return number
    finally:
        os.close(fd)


def is_free(place: Place, number: int) -> bool:
    """Whether a project has no limit and no file yet."""
    space, files, limit, file_limit = usage(place, number)
    return not (space or files or limit or file_limit)


def usage(place: Place, number: int) -> tuple[int, int, int, int]:
    """Bytes and files that a project has, and its limits."""
    try:
        if place.fstype == "xfs":
            buffer = cdata.create_string_buffer(_XFS_DQUOT)
            _call(_XGETQUOTA, place.device, number, buffer)
            hard, _, file_hard, _, blocks, count = unpack_from("<6Q", bytes(buffer), 8)
            return blocks * 512, count, hard * 512, file_hard
        buffer = cdata.create_string_buffer(_VFS_DQUOT)
        _call(_GETQUOTA, place.device, number, buffer)
        hard, _, space, file_hard, _, count = unpack_from("<6Q", bytes(buffer), 0)
        return space, count, hard * 1024, file_hard
    except KernelError as error:
        if error.errno == errno.ENOENT:  # XFS has no record of it
            return 0, 0, 0, 0
        raise


def limit(place: Place, number: int, size: int, inodes: int) -> None:
    """Give a project a limit of bytes and of files (0: none). Raises KernelError."""
    if place.fstype == "xfs":
        buffer = cdata.create_string_buffer(_XFS_DQUOT)
        # version, FS_PROJ_QUOTA, FS_DQ_BHARD | FS_DQ_IHARD and the soft ones
        pack_into("<bbHI4Q", buffer, 0, 1, 2, 0xF, number, size // 512, 0, inodes, 0)
        _call(_XSETQLIM, place.device, number, buffer)
        return
    buffer = cdata.create_string_buffer(_VFS_DQUOT)
    pack_into("<6QQQI", buffer, 0, size // 1024, 0, 0, inodes, 0, 0, 0, 0, 1 | 4)  # QIF_BLIMITS | QIF_ILIMITS
    _call(_SETQUOTA, place.device, number, buffer)


def mark(path: str, number: int) -> None:
    """Have a directory's files, and those made in it later, belong to a project. No link is followed.

    Raises OSError: ELOOP below 256 levels.
    """
    top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _mark(top, number, inherit=True)
        _mark_below(top, number, os.fstat(top).st_dev, MAX_DEPTH)
    finally:
        os.close(top)


def keeps(path: str, number: int) -> bool:
    """Give a directory alone a project; whether its file system keeps such a number. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _mark(fd, number, inherit=True)
    finally:
        os.close(fd)
    return project_of(path) == number


def _mark_below(folder: int, number: int, device: int, levels: int) -> None:
    if not levels:
        raise OSError(errno.ELOOP, "nested too deeply")
    for name in os.listdir(folder):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        directory = stat.S_ISDIR(status.st_mode)
        if status.st_dev != device or not (directory or stat.S_ISREG(status.st_mode)):
            continue
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(name, flags | (os.O_DIRECTORY if directory else 0), dir_fd=folder)
        try:
            _mark(fd, number, inherit=directory)
            if directory:
                _mark_below(fd, number, device, levels - 1)
        finally:
            os.close(fd)


def _mark(fd: int, number: int, inherit: bool) -> None:
    flags, extent, extents, present, cow = unpack_from("<5I", fcntl.ioctl(fd, _GETXATTR, bytes(28)))
    wanted = flags | _INHERIT if inherit else flags
    if present != number or wanted != flags:
        fcntl.ioctl(fd, _SETXATTR, pack("<5I8x", wanted, extent, extents, number, cow))


def _call(command: int, device: str, number: int, buffer: Any) -> None:
    code = command << 8 | _PROJECT
    code -= (code & 0x80000000) << 1  # an int
    if _quotactl(code, os.fsencode(device), number, cdata.addressof(buffer)) < 0:
        raise KernelError("quotactl", cdata.get_errno(), device)
