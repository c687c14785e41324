"""Copying a directory's contents by descriptors, no link followed: owners, modes, times, xattrs, links, devices.

Both sides may be hostile content; nothing is opened by a path of more than one component. Source: openat(2).
"""

from __future__ import annotations

import errno
import os
import stat

from . import xattrs
from .errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CHUNK = 1 << 20
MAX_DEPTH = 256


def copy_contents(source: int, target: int) -> None:
    """Copy everything in directory `source` into directory `target` (descriptors, O_PATH will do), and its attributes.

    Hard links among the copied files stay hard links. Raises OSError: ENOSPC when the target is full, ELOOP below
    256 levels.
    """
    read_from = os.open(".", _DIRECTORY, dir_fd=source)
    write_to = os.open(".", _DIRECTORY, dir_fd=target)
    try:
        _directory(read_from, write_to, write_to, "", {})
    finally:
        os.close(read_from)
        os.close(write_to)


def _directory(source: int, target: int, top: int, path: str, links: dict[tuple[int, int], str]) -> None:
    """`path` is the target's below `top`; `links` are the copied files with several names: (device, inode) -> path."""
    if path.count("/") > MAX_DEPTH:
        raise OSError(errno.ELOOP, "nested too deeply")
    for name in sorted(os.listdir(source)):
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            below, into = os.open(name, _DIRECTORY, dir_fd=source), os.open(name, _DIRECTORY, dir_fd=target)
            try:
                _directory(below, into, top, f"{path}{name}/", links)
            finally:
                os.close(below)
                os.close(into)
            continue
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in links:
            os.link(links[key], name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)
        elif copy_entry(source, target, name, status) and status.st_nlink > 1:
            links[key] = path + name
    finish_directory(source, target)


def copy_entry(
    source: int, target: int, name: str, status: os.stat_result, fill: Callable[[int, int], None] | None = None
) -> bool:
    """Copy what is at a name and no directory, with its attributes; False for a socket, which is nothing without its
    listener. `fill` fills a file from another's descriptor (default: by its bytes, holes stay holes). Raises OSError.
    """
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        _file(source, target, name, fill or _fill)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif kind == stat.S_IFSOCK:
        return False
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    _attributes(status, name, target)
    return True


def _file(source: int, target: int, name: str, fill: Callable[[int, int], None]) -> None:
    read_from = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=source)
    try:
        write_to = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            fill(read_from, write_to)
            status = os.fstat(read_from)
            os.fchown(write_to, status.st_uid, status.st_gid)  # before the xattrs: it takes file capabilities away
            _xattrs(read_from, write_to)
        finally:
            os.close(write_to)
    finally:
        os.close(read_from)


def _fill(source: int, target: int) -> None:
    """Copy a file's bytes. Holes stay holes where the kernel tells of them (Linux 3.1). Source: lseek(2)."""
    size = os.fstat(source).st_size
    start = end = 0
    while start < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
            end = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # nothing but a hole is left
            start, end = end, size  # it tells of no holes
        os.lseek(target, start, os.SEEK_SET)
        place = start
        while place < end and (sent := os.sendfile(target, source, place, min(CHUNK, end - place))):
            place += sent
        if place < end:
            break  # somebody made it shorter meanwhile
        start = end
    os.ftruncate(target, size)


def _attributes(status: os.stat_result, name: str, target: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def finish_directory(source: int, target: int, without: tuple[str, ...] = ()) -> None:
    """Give a directory another's attributes, `without` these extended ones. Raises OSError."""
    status = os.fstat(source)
    _xattrs(source, target, without)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _xattrs(source: int, target: int, without: tuple[str, ...] = ()) -> None:
    """Copy what attributes the target can hold; before Linux 6.6 tmpfs has no user.* ones."""
    try:
        names = xattrs.names(source)
    except KernelError:
        return
    for name in names:
        if name in without:
            continue
        try:
            xattrs.set(target, name, xattrs.get(source, name))
        except KernelError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENODATA):
                raise
