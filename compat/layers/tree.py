"""Layers in one directory, by descriptors and without following a link: cloned, hard-linked or copied files.

What is at a name is the topmost layer's; directories are merged. Both sides may be hostile content.
"""

from __future__ import annotations

import errno
import os
import stat

from .. import treecopy, xattrs
from ..errors import KernelError
from .clone import clone_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# top-level directories of programs: what a farm of hard links shares with its layers, and keeps read-only
PROGRAMS = ("bin", "boot", "lib", "lib32", "lib64", "libx32", "sbin", "usr")
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_METADATA = 4096  # bytes of a directory, or of what has no blocks of its own


class Cost:
    """What making a tree writes: `files` of any kind, `bytes` of their blocks; of those the `shared_*` are of PROGRAMS,
    which hard links need not write.
    """

    __slots__ = ("bytes", "files", "shared_bytes", "shared_files")

    def __init__(self) -> None:
        self.files = self.bytes = self.shared_files = self.shared_bytes = 0

    def file(self, name: str, status: os.stat_result, path: str) -> None:
        size = status.st_blocks * 512 if stat.S_ISREG(status.st_mode) else _METADATA
        self.files += 1
        self.bytes += size
        if is_shared(path + name, status):
            self.shared_files += 1
            self.shared_bytes += size


def is_shared(path: str, status: os.stat_result) -> bool:
    """Whether a farm of hard links shares what is at a path (without its first slash) with the layer."""
    return path.split("/", 1)[0] in PROGRAMS and "/" in path and stat.S_ISREG(status.st_mode)


def measure(layers: list[str]) -> Cost:
    """What making a tree of layers, lowest first, costs. Raises OSError."""
    cost = Cost()
    _with_open(layers, lambda fds: _count(fds, "", cost, set()))
    return cost


def _with_open(layers: list[str], action: Callable[[list[int]], None]) -> None:
    """Call with the layers' descriptors, topmost first."""
    fds: list[int] = []
    try:
        fds.extend(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in reversed(layers))
        action(fds)
    finally:
        for fd in fds:
            os.close(fd)


def _merged(sources: list[int]) -> list[tuple[str, os.stat_result, list[int]]]:
    """The names in directories, topmost first: each with its topmost status, and the sources in which it is.

    More than one source is a directory's. Names that are taken away are left out.
    """
    names: dict[str, list[int]] = {}
    for fd in sources:
        for name in os.listdir(fd):
            names.setdefault(name, []).append(fd)
    out = []
    for name in sorted(names):
        first = os.stat(name, dir_fd=names[name][0], follow_symlinks=False)
        if stat.S_ISCHR(first.st_mode) and first.st_rdev == 0:
            continue
        if not stat.S_ISDIR(first.st_mode):
            out.append((name, first, names[name][:1]))
            continue
        held = []
        for fd in names[name]:
            if not stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                break  # what is below it is hidden
            held.append(fd)
        out.append((name, first, held))
    return out


def _below(name: str, sources: list[int]) -> list[int]:
    """A directory's descriptors in those of its parents: down to one that hides what is below."""
    out: list[int] = []
    try:
        for fd in sources:
            out.append(os.open(name, DIRECTORY, dir_fd=fd))
            if _is_opaque(out[-1]):
                break
    except BaseException:
        for fd in out:
            os.close(fd)
        raise
    return out


def _is_opaque(fd: int) -> bool:
    for name in _OPAQUE:
        try:
            if xattrs.get(fd, name) == b"y":
                return True
        except KernelError:
            continue  # there is none
    return False


def _count(sources: list[int], path: str, cost: Cost, seen: set[tuple[int, int]]) -> None:
    if path.count("/") > treecopy.MAX_DEPTH:
        raise OSError(errno.ELOOP, "nested too deeply")
    for name, status, held in _merged(sources):
        if not stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) not in seen:
                cost.file(name, status, path)
            if status.st_nlink > 1:
                seen.add((status.st_dev, status.st_ino))
            continue
        cost.file(name, status, path)
        fds = _below(name, held)
        try:
            _count(fds, f"{path}{name}/", cost, seen)
        finally:
            for fd in fds:
                os.close(fd)


class Maker:
    """Makes a tree of layers in a directory.

    `way` is what is done with a file's content: "copy", "clone" or "link"; "link" is for what `is_shared`, the rest is
    copied. `done` is called with the number of files that are there, now and then.
    """

    __slots__ = ("_count", "_links", "_top", "done", "way")

    def __init__(self, way: str, done: Callable[[int], None] = lambda count: None) -> None:
        self.way = way
        self.done = done
        self._links: dict[tuple[int, int], str] = {}  # made files that have several names: where the first is
        self._top = -1
        self._count = 0

    def make(self, layers: list[str], target: str) -> None:
        """Make the tree of layers, lowest first, in an empty directory, and give it the topmost's attributes.

        Raises OSError: ENOSPC when the target is full.
        """
        self._top = os.open(target, DIRECTORY)
        try:
            _with_open(layers, lambda fds: self._directory(fds, self._top, ""))
        finally:
            os.close(self._top)

    def _directory(self, sources: list[int], target: int, path: str) -> None:
        if path.count("/") > treecopy.MAX_DEPTH:
            raise OSError(errno.ELOOP, "nested too deeply")
        for name, status, held in _merged(sources):
            self._count += 1
            if self._count % 256 == 0:
                self.done(self._count)
            if not stat.S_ISDIR(status.st_mode):
                self._file(held[0], target, name, status, path)
                continue
            fds = _below(name, held)
            try:
                os.mkdir(name, 0o700, dir_fd=target)
                into = os.open(name, DIRECTORY, dir_fd=target)
                try:
                    self._directory(fds, into, f"{path}{name}/")
                finally:
                    os.close(into)
            finally:
                for fd in fds:
                    os.close(fd)
        treecopy.finish_directory(sources[0], target, _OPAQUE)

    def _file(self, source: int, target: int, name: str, status: os.stat_result, path: str) -> None:
        if self.way == "link" and is_shared(path + name, status):
            try:
                os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
                return
            except OSError as error:
                if error.errno != errno.EMLINK:  # a file has 65,000 names at most: then a copy
                    raise
        key = (status.st_dev, status.st_ino)
        if key in self._links:
            os.link(self._links[key], name, src_dir_fd=self._top, dst_dir_fd=target, follow_symlinks=False)
            return
        made = treecopy.copy_entry(source, target, name, status, clone_file if self.way == "clone" else None)
        if made and status.st_nlink > 1:
            self._links[key] = path + name
