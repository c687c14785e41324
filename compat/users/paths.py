"""What a path in a traced thread's call leads to, and what denies the way there.

The tracer walks for itself, one component after the other and no link followed by the kernel, from the thread's own
root, working directory or descriptor. What it finds may be another file the next moment: so what it changes is held by
a descriptor and looked at once more (`Pinned`), and what it finds out only decides with which of the container's own
ids the thread's call is tried again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from .. import libc
from ..procfs import PROC_SUPER_MAGIC
from .emulate import Broken, Credentials, Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_LINKS = 40
AT_FDCWD = -100
# before Linux 2.6.39 O_PATH is ignored: there these are real opens, which must not wait for a peer
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_DIRECTORY = _HANDLE | os.O_DIRECTORY
SEARCH, WRITE, READ = 1, 2, 4


class Place:
    """Where a path leads: the way there without links, each directory open, and what is there by `name`.

    `chain` are the directories, from the root or from what the path is relative to. `name` is "" where the path ends
    in a directory itself (`/`, `..`), or in what a link of the kernel's for the process itself leads to (`held`);
    `status` is None where nothing is there.
    """

    __slots__ = ("_open", "_pid", "chain", "held", "name", "status")

    def __init__(self, root: int, first: int, pid: int) -> None:
        self._open = [root] if first < 0 else [root, first]
        self._pid = pid
        self.chain = [self._open[-1]]
        self.held = -1
        self.name = ""
        self.status: os.stat_result | None = None

    @property
    def parent(self) -> int:
        return self.chain[-1] if self.held < 0 else self.held

    def close(self) -> None:
        for fd in self._open:
            os.close(fd)

    def keep(self, fd: int) -> int:
        """Have a descriptor closed with it."""
        self._open.append(fd)
        return fd

    def walk(self, text: str, follow: bool) -> None:
        """Go along a path. Raises OSError where it leads nowhere."""
        todo = _parts(text)
        links = 0
        while todo:
            part = todo.pop()
            if part in ("self", "thread-self") and (todo or follow) and _is_proc_root(self.parent):
                todo = self._enter_own(todo, follow)
                continue
            if part == "..":
                if not _same(self.parent, self._open[0]):
                    self._enter("..")
                continue
            if todo or follow:
                target = _link(self.parent, part)
                if target is not None:
                    links += 1
                    if links > _MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                    if target.startswith("/"):
                        self.chain = [self._open[0]]
                    todo += _parts(target)
                    continue
            if todo:
                self._enter(part)
            else:
                self.name = part
        if self.held >= 0:
            self.status = os.stat(f"/proc/self/fd/{self.held}")
            return
        try:
            self.status = (
                os.stat(self.name, dir_fd=self.parent, follow_symlinks=False) if self.name else os.fstat(self.parent)
            )
        except FileNotFoundError:
            pass

    def _enter_own(self, todo: list[str], follow: bool) -> list[str]:
        """Go on behind /proc/self: to what a link there leads to, which no text tells. What is left to go."""
        parts = list(reversed(todo))
        count = 2 if parts[:1] == ["fd"] else 1
        names, left = parts[:count], parts[count:]
        is_link = (len(names) == 2 and names[1].isdigit()) or names in (["cwd"], ["root"], ["exe"])
        if not is_link or not (left or follow):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))  # its own files: nobody needs another's id for them
        link = f"/proc/{self._pid}/{'/'.join(names)}"
        if not has_o_path() and stat.S_IFMT(os.stat(link).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        kind = os.O_DIRECTORY if left else 0
        found = self.keep(os.open(link, os.O_PATH | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | kind))
        self.chain = [found] if left else []
        self.held = -1 if left else found
        return list(reversed(left))

    def _enter(self, name: str) -> None:
        self.chain.append(self.keep(os.open(name, _DIRECTORY, dir_fd=self.parent)))


def place(pid: int, base: int, path: bytes, follow: bool) -> Place:
    """The place of a path of a thread's; `base` is the descriptor (or AT_FDCWD) it is relative to. Raises OSError."""
    text = os.fsdecode(path)
    if not text:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    root = _opened(f"/proc/{pid}/root")
    first = -1
    try:
        if not text.startswith("/"):
            first = _opened(f"/proc/{pid}/cwd" if base == AT_FDCWD else f"/proc/{pid}/fd/{base}")
    except OSError:
        os.close(root)
        raise
    made = Place(root, first, pid)
    try:
        made.walk(text, follow)
    except BaseException:
        made.close()
        raise
    return made


def _opened(link: str) -> int:
    """A directory by a link of the kernel's, which leads to just what the thread has."""
    return os.open(link, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _is_proc_root(fd: int) -> bool:
    return libc.fs_type(f"/proc/self/fd/{fd}") == PROC_SUPER_MAGIC and os.stat(f"/proc/self/fd/{fd}").st_ino == 1


def _parts(text: str) -> list[str]:
    return [part for part in reversed(text.split("/")) if part not in ("", ".")]


def _link(parent: int, name: str) -> str | None:
    """The text of a link; None for what is none, or not there."""
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _same(one: int, other: int) -> bool:
    first, second = os.fstat(one), os.fstat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


class Demand:
    """What a call asks of one file: permission `bits`, or that the caller is one of its `owners`."""

    __slots__ = ("bits", "fd", "owners", "status")

    def __init__(self, status: os.stat_result, bits: int, fd: int = -1, owners: tuple[int, ...] = ()) -> None:
        self.status = status
        self.bits = bits
        self.fd = fd  # by which its mode can be changed; -1 for none
        self.owners = owners

    @property
    def lendable(self) -> bool:
        """Whether what it asks for can be had by mode bits."""
        return self.fd >= 0 and not self.owners

    def shift(self, who: Credentials, uid: int) -> int:
        """Where in the mode the bits of a thread with this file system id are."""
        if self.status.st_uid == uid:
            return 6
        return 3 if self.status.st_gid in (who.gids[3], *who.groups) else 0

    def refuses(self, who: Credentials, uid: int) -> bool:
        """Whether a thread with this file system id is refused."""
        if self.owners:
            return uid not in self.owners
        return bool(self.bits & ~(self.status.st_mode >> self.shift(who, uid)) & 7)


def searched(where: Place) -> list[Demand]:
    """What the way asks for: search permission in each directory."""
    return [Demand(os.fstat(fd), SEARCH, fd) for fd in where.chain]


def reachable(demands: Iterable[Demand], who: Credentials, rules: Rules) -> bool:
    """Whether the container's root, who may do all with its own files, is let through."""
    return all(
        rules.uids.inside(demand.status.st_uid) >= 0 or not demand.refuses(who, who.uids[3]) for demand in demands
    )


class Pinned:
    """One file, whatever its name leads to by now. Raises OSError; Broken where it was exchanged amid a change."""

    __slots__ = ("_fd", "_name", "_parent", "_path", "status")

    def __init__(self, parent: int, name: str) -> None:
        self._parent, self._name = parent, name
        self._fd = -1
        if not name:
            self._fd = os.dup(parent)
        elif has_o_path() or _can_be_opened(parent, name):
            self._fd = os.open(name, _HANDLE, dir_fd=parent)
        self._path = f"/proc/self/fd/{self._fd}"
        self.status = self._look()

    @classmethod
    def of(cls, link: str) -> Pinned:
        """What a link of the kernel's (/proc/PID/fd/N) leads to."""
        made = cls.__new__(cls)
        made._parent, made._name = -1, link
        made._fd = -1
        if has_o_path() or stat.S_IFMT(os.stat(link).st_mode) in (stat.S_IFREG, stat.S_IFDIR):
            made._fd = os.open(link, os.O_PATH | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        made._path = f"/proc/self/fd/{made._fd}"
        made.status = made._look()
        return made

    def _look(self) -> os.stat_result:
        if self._fd >= 0:
            return os.stat(self._path)
        if self._parent < 0:
            return os.stat(self._name)
        return os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)

    def chown(self, uid: int, gid: int) -> None:
        """Change its owner; -1 leaves one as it is."""
        if self._fd >= 0:
            os.chown(self._path, uid, gid)
            return
        before = self.status
        if self._parent < 0:
            os.chown(self._name, uid, gid)
        else:
            os.chown(self._name, uid, gid, dir_fd=self._parent, follow_symlinks=False)
        now = self._look()
        if (now.st_dev, now.st_ino) != (before.st_dev, before.st_ino):
            raise Broken("a file was exchanged while its owner was changed")

    def link(self, parent: int, name: str) -> None:
        """Give it another name, in the directory `parent`."""
        os.link(self._held(), name, dst_dir_fd=parent, follow_symlinks=True)

    def chmod(self, mode: int) -> None:
        os.chmod(self._held(), mode)

    def utime(self, times: tuple[int, int] | None) -> None:
        """Set access and modification time, in nanoseconds (-1: as it is); None: to now."""
        if times is None:
            os.utime(self._held())
            return
        now = (self.status.st_atime_ns, self.status.st_mtime_ns)
        access, change = (before if time < 0 else time for time, before in zip(times, now, strict=True))
        os.utime(self._held(), ns=(access, change))

    def _held(self) -> str:
        """What it can be changed by without its name; those before Linux 2.6.39 hold files and directories only."""
        if self._fd < 0:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return self._path

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _can_be_opened(parent: int, name: str) -> bool:
    """Whether opening it has no effect."""
    kind = stat.S_IFMT(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    return kind in (stat.S_IFREG, stat.S_IFDIR)


def has_o_path() -> bool:
    """Whether this kernel has O_PATH (Linux 2.6.39): those before ignore it, and don't tell it back."""
    global _o_path
    if _o_path is None:
        fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _o_path = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH)
        os.close(fd)
    return _o_path


_o_path: bool | None = None
