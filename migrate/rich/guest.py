"""Files of a root file system as its own programs would find them: no link leads out of it."""

from __future__ import annotations

import os
import stat

from ...compat.errors import JoeyError, KernelError
from ...compat.files import read_fd
from ...compat.rootpath import Root

_LARGEST = 1 << 20


class Guest:
    """A root file system made of directories, the highest first. What can't be read is taken as not there."""

    def __init__(self, *paths: str) -> None:
        self._paths = paths

    def _open(self, path: str) -> tuple[int, str]:
        """A descriptor and the place it really is at; -1 for what is not there."""
        for base in self._paths:
            root = Root(base, native=False)
            try:
                root.attach()
                fd = root.open(path)
                top = os.readlink(f"/proc/self/fd/{root.fd}").rstrip("/")
                return fd, os.readlink(f"/proc/self/fd/{fd}").removeprefix(top) or "/"
            except (OSError, KernelError):
                continue
            finally:
                root.close()
        return -1, ""

    def real(self, path: str) -> str:
        """Where a path leads, without links; "" for nowhere."""
        fd, place = self._open(path)
        if fd >= 0:
            os.close(fd)
        return place

    def settled(self, path: str) -> str:
        """The same, where the last parts of it may be missing: those stay as they are written."""
        rest = ""
        while True:
            if found := self.real(path):
                return found.rstrip("/") + rest or "/"
            path, _, name = path.rpartition("/")
            rest = f"/{name}{rest}"
            path = path or "/"

    def exists(self, path: str) -> bool:
        return bool(self.real(path))

    def open(self, path: str) -> int:
        """A regular file, to read; -1 for what is none."""
        fd, _ = self._open(path)
        if fd < 0:
            return -1
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return -1
            return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return -1
        finally:
            os.close(fd)

    def text(self, path: str) -> str:
        """A regular file's text; "" for what is none, or larger than a MiB."""
        reading = self.open(path)
        if reading < 0:
            return ""
        try:
            return read_fd(reading, _LARGEST).decode("utf-8", "surrogateescape")
        except (OSError, JoeyError):
            return ""
        finally:
            os.close(reading)

    def mode(self, path: str) -> int:
        fd, _ = self._open(path)
        if fd < 0:
            return 0
        try:
            return os.fstat(fd).st_mode
        finally:
            os.close(fd)

    def names(self, path: str) -> list[str]:
        """What is in a directory, sorted; [] for what is none."""
        found: set[str] = set()
        for base in self._paths:
            fd, _ = Guest(base)._open(path)
            if fd < 0:
                continue
            try:
                found.update(os.listdir(f"/proc/self/fd/{fd}"))
            except OSError:
                continue
            finally:
                os.close(fd)
        return sorted(found)
