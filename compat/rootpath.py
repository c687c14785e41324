"""Paths inside a root that hostile content may have prepared: no link, `..` or race leads out of it.

Two ways, same result: `openat2` with RESOLVE_IN_ROOT (Linux 5.6), and a walk of O_NOFOLLOW opens that any kernel can
do. Both give a descriptor; what is done next (mount, mknod) is done on the descriptor, never on the name again.
"""

from __future__ import annotations

import errno
import os
import stat

from . import libc
from .constants import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
from .errors import KernelError

MAX_LINKS = 40
# 2.6.32 ignores O_PATH: there these are real opens, which must not wait for a peer, and which refuse links with ELOOP.
_HANDLE = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Root:
    """A directory taken as `/` for every path given to it. `native` chooses openat2 over the walk."""

    __slots__ = ("created", "fd", "native", "owner", "path")

    def __init__(self, path: str, native: bool) -> None:
        self.path = path
        self.native = native
        self.fd = -1
        self.created: list[str] = []
        self.owner: tuple[int, int] | None = None  # of what is made in it; None: the caller

    def attach(self) -> None:
        """Open the root, or open it again to see a mount that now covers it. Raises OSError."""
        fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.close()
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def open(self, path: str) -> int:
        """An O_PATH descriptor of `path` inside the root, final link followed too. Raises OSError, KernelError."""
        if self.native:
            return libc.openat2(self.fd, path, os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        return self._walk(path)

    def exists(self, path: str) -> bool:
        """Whether `path` resolves inside the root."""
        try:
            os.close(self.open(path))
        except OSError:
            return False
        except KernelError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return False
            raise
        return True

    def make_directories(self, path: str, mode: int = 0o755) -> int:
        """`mkdir -p` inside the root; returns an O_PATH descriptor of the last directory. Records what it made."""
        return self._walk(path, create="directory", mode=mode)

    def make_file(self, path: str) -> int:
        """An O_PATH descriptor of `path`, made as an empty file where nothing is there. Records what it made."""
        return self._walk(path, create="file")

    def own(self, parent: int, name: str) -> None:
        """Give what was made to the owner."""
        if self.owner:
            os.chown(name, *self.owner, dir_fd=parent, follow_symlinks=False)

    def _name_of(self, parent: int, name: str) -> str:
        """The path relative to the root of `name` in `parent`, as the kernel knows it now."""
        base = os.readlink(f"/proc/self/fd/{self.fd}")
        where = os.readlink(f"/proc/self/fd/{parent}")
        return f"{where.removeprefix(base)}/{name}"

    def _walk(self, path: str, create: str = "", mode: int = 0o755) -> int:
        """Resolve one component after the other, links by hand, `..` by the stack of open directories.

        `create` is what a missing last component becomes: "directory" or "file" (those before it: directories).
        """
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        stack = [os.dup(self.fd)]
        links = 0
        try:
            while todo:
                part = todo.pop()
                if part == "..":
                    if len(stack) > 1:
                        os.close(stack.pop())
                    continue
                kind = create if create != "file" or not todo else "directory"
                fd, target = self._step(stack[-1], part, kind, mode)
                if fd < 0:
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    if target.startswith("/"):
                        while len(stack) > 1:
                            os.close(stack.pop())
                    todo.extend(piece for piece in reversed(target.split("/")) if piece not in ("", "."))
                elif todo and not stat.S_ISDIR(os.fstat(fd).st_mode):
                    os.close(fd)
                    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                else:
                    stack.append(fd)
            return stack.pop()
        finally:
            for fd in stack:
                os.close(fd)

    def _step(self, parent: int, name: str, create: str, mode: int) -> tuple[int, str]:
        """One component: its descriptor, or -1 and the text of a link. Makes a missing one where told to."""
        try:
            fd = os.open(name, _HANDLE, dir_fd=parent)
        except FileNotFoundError:
            if not create:
                raise
            if create == "file":
                flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_WRONLY
                os.close(os.open(name, flags, 0o644, dir_fd=parent))
            else:
                os.mkdir(name, mode, dir_fd=parent)
            self.own(parent, name)
            self.created.append(self._name_of(parent, name))
            return os.open(name, _HANDLE, dir_fd=parent), ""
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return -1, os.readlink(name, dir_fd=parent)
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            try:
                return -1, os.readlink("", dir_fd=fd)
            finally:
                os.close(fd)
        return fd, ""


def remove_created(root_path: str, created: list[str]) -> None:
    """Take back mount targets that a failed start made: empty directories and empty files only, no link followed."""
    for path in reversed(created):
        parent_path, _, name = path.rpartition("/")
        root = Root(root_path, native=False)
        try:
            root.attach()
        except OSError:
            return
        try:
            parent = root.open(parent_path or "/")
        except OSError:
            continue
        finally:
            root.close()
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(name, dir_fd=parent)
            elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                os.unlink(name, dir_fd=parent)
        except OSError:
            continue  # it is gone, or somebody uses it by now
        finally:
            os.close(parent)
