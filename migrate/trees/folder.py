"""A tree in a directory of this machine: a mounted disk, an unpacked archive, an application's folder.

Read by descriptors: no name with a slash is opened and no link followed, so a hostile tree leads nowhere. Mounts below
the directory are part of it. Source: openat(2), xattr(7).
"""

from __future__ import annotations

import errno
import io
import os
import stat
from typing import TYPE_CHECKING

from .entry import Entry, TreeError, shown
from .paths import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_DEPTH = 400  # an open descriptor each; path names of Linux end at 4,096 bytes, 2,048 directories
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_XFS_ACL = "trusted.SGI_ACL_"  # how XFS stores the ACLs, which it shows by their own names too
_HAS_XATTRS = hasattr(os, "listxattr")  # not in an interpreter built with musl, as the host kit's
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.EACCES)


class FolderTree:
    """A directory as a tree. Raises TreeError where it is none."""

    def __init__(self, path: str) -> None:
        try:
            self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise TreeError(f"can't read the folder {path}: {error.strerror}") from None
        self.path = path
        self.losses: list[str] = []

    def close(self) -> None:
        if self._top >= 0:
            os.close(self._top)
            self._top = -1

    def used(self) -> int:
        """About how many bytes the file system holds, for a bar; 0 for a folder that is a part of one."""
        if os.fstat(self._top).st_dev == os.stat("..", dir_fd=self._top).st_dev:
            return 0
        status = os.fstatvfs(self._top)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def entries(self) -> Iterator[Entry]:
        """Every entry, in order. Raises OSError, TreeError."""
        if not _HAS_XATTRS:
            raise TreeError("this Python can't read extended attributes", "migrate from a machine with joey from pip")
        seen: dict[tuple[int, int], bytes] = {}
        top = os.open(".", _DIRECTORY, dir_fd=self._top)
        stack = [(top, b"", iter(_sorted(top)))]
        try:
            yield _entry(self._top, ".", b"", os.fstat(top), seen)
            while stack:
                folder, prefix, names = stack[-1]
                name = next(names, None)
                if name is None:
                    os.close(folder)
                    stack.pop()
                    continue
                path = prefix + os.fsencode(name)
                try:
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    entry = _entry(folder, name, path, status, seen)
                except OSError as error:
                    raise _at(path, error) from error
                yield entry
                if stat.S_ISDIR(status.st_mode):
                    if len(stack) >= MAX_DEPTH:
                        raise TreeError(f"{shown(path)} is more than {MAX_DEPTH} directories deep")
                    try:
                        below = os.open(name, _DIRECTORY, dir_fd=folder)
                        stack.append((below, path + b"/", iter(_sorted(below))))
                    except OSError as error:
                        raise _at(path, error) from error
        finally:
            for folder, _, _ in stack:
                os.close(folder)

    def status(self, path: bytes) -> Entry | None:
        """What is at a path, links followed inside the tree, or None."""
        return self.entry_at(self.resolve(path))

    def entry_at(self, found: bytes) -> Entry | None:
        """What is at a path that has no links before its last name, that one not followed."""
        try:
            parent, name = self._parent(found)
        except OSError:
            return None
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            entry = _entry(parent, name, found, status, {})
        except OSError:
            return None
        finally:
            os.close(parent)
        if entry.open is not None:
            entry.open = lambda: self._open(found)
        return entry

    def _open(self, path: bytes) -> io.FileIO:
        parent, name = self._parent(path)
        try:
            return io.FileIO(os.open(name, _FILE, dir_fd=parent))
        finally:
            os.close(parent)

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, sorted; [] where there is none."""
        try:
            parent, name = self._parent(self.resolve(path))
        except OSError:
            return []
        try:
            folder = os.open(name, _DIRECTORY, dir_fd=parent)
        except OSError:
            return []
        finally:
            os.close(parent)
        try:
            return [os.fsencode(found) for found in _sorted(folder)]
        finally:
            os.close(folder)

    def resolve(self, path: bytes) -> bytes:
        """Where a path leads, links followed inside the tree; the path itself as far as there is nothing."""
        return resolve(path, self._link)

    def _link(self, path: bytes) -> bytes | None:
        """A link's text, None for anything else. `path` has no links before its last name."""
        try:
            parent, name = self._parent(path)
        except OSError:
            return None
        try:
            return os.fsencode(os.readlink(name, dir_fd=parent))
        except OSError:
            return None
        finally:
            os.close(parent)

    def _parent(self, path: bytes) -> tuple[int, str]:
        """A descriptor of the directory a path without links is in, and its last name. Raises OSError."""
        *folders, name = os.fsdecode(path).split("/")
        at = os.open(".", _DIRECTORY, dir_fd=self._top)
        try:
            for folder in folders:
                below = os.open(folder, _DIRECTORY, dir_fd=at)
                os.close(at)
                at = below
        except BaseException:
            os.close(at)
            raise
        return at, name or "."


def _sorted(folder: int) -> list[str]:
    return sorted(os.listdir(folder), key=os.fsencode)


def _at(path: bytes, error: OSError) -> OSError:
    """The same error, told with its place in the tree."""
    return OSError(error.errno, error.strerror, shown(path))


def _entry(folder: int, name: str, path: bytes, status: os.stat_result, seen: dict[tuple[int, int], bytes]) -> Entry:
    mode = status.st_mode
    kind = stat.S_IFMT(mode)
    first = b""
    if status.st_nlink > 1 and kind != stat.S_IFDIR:
        first = seen.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            first = b""
    entry = Entry(path, mode, status.st_uid, status.st_gid, status.st_mtime_ns)
    entry.first = first
    entry.xattrs = _xattrs(folder, name)
    if kind == stat.S_IFREG:
        entry.size = status.st_size
        entry.holes = max(0, status.st_size - status.st_blocks * 512)
        entry.open = _opener(folder, name)
    elif kind == stat.S_IFLNK:
        entry.target = os.fsencode(os.readlink(name, dir_fd=folder))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        entry.device = status.st_rdev
    return entry


def _opener(folder: int, name: str) -> Callable[[], io.FileIO]:
    return lambda: io.FileIO(os.open(name, _FILE, dir_fd=folder))


def _xattrs(folder: int, name: str) -> tuple[tuple[bytes, bytes], ...]:
    if not _HAS_XATTRS:
        return ()
    place = f"/proc/self/fd/{folder}/{name}"
    try:
        names = os.listxattr(place, follow_symlinks=False)
        if not names:
            return ()
        found = [
            (os.fsencode(key), os.getxattr(place, key, follow_symlinks=False))
            for key in names
            if not key.startswith(_XFS_ACL)
        ]
    except OSError as error:
        if error.errno in _NO_XATTRS:
            return ()
        raise
    return tuple(sorted(found))
