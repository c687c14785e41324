"""Paths of a container whose root is a directory of the host, and no root of the kernel's: followed step by step.

Links are followed here, for the kernel would follow them from the host's root. Some links of /proc are the kernel's
own: they lead to what a process has open, by the host's names.
"""

from __future__ import annotations

import errno
import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_LINKS = 40
MAGIC = re.compile(r"/proc/(\d+)(?:/task/\d+)?/(cwd|root|exe|fd/\d+|map_files/[^/]+|ns/[^/]+)$")
_PROC = "/proc"


class Bind:
    """A file or directory of the host at a place of the container."""

    __slots__ = ("guest", "host", "read_only")

    def __init__(self, guest: str, host: str, read_only: bool = False) -> None:
        self.guest = guest
        self.host = host
        self.read_only = read_only


class Viewer:
    """Whose paths they are: a thread, its process and the container's root as that process has it.

    `root_of` and `exe_of` give the root and the program of a process inside, "" for others.
    """

    __slots__ = ("exe_of", "group", "pid", "root", "root_of")

    def __init__(
        self, pid: int, group: int, root: str, root_of: Callable[[int], str], exe_of: Callable[[int], str]
    ) -> None:
        self.pid = pid
        self.group = group
        self.root = root
        self.root_of = root_of
        self.exe_of = exe_of


class Place:
    """Where a path leads: the container's name of it and the host's, without links; `way` are the host's directories on
    it. `magic`: it is a link of the kernel's, which the kernel is to follow."""

    __slots__ = ("guest", "host", "magic", "way")

    def __init__(self, guest: str, host: str, way: list[str], magic: bool) -> None:
        self.guest = guest
        self.host = host
        self.way = way
        self.magic = magic

    @property
    def is_directory(self) -> bool:
        return self.host.endswith("/")


class Tree:
    """The container's files. `binds` begin with the root's, at "/"; later ones cover earlier ones."""

    def __init__(self, binds: list[Bind]) -> None:
        self._at: dict[str, Bind] = {}
        for bind in binds:
            self._at = {
                place: known for place, known in self._at.items() if not place.startswith(bind.guest.rstrip("/") + "/")
            }
            self._at[bind.guest] = bind
        self._by_host = sorted(self._at.values(), key=lambda bind: len(bind.host), reverse=True)

    def bind_of(self, guest: str) -> Bind:
        """The bind that a place of the container is in."""
        while guest not in self._at:
            guest = guest.rpartition("/")[0] or "/"
        return self._at[guest]

    def host_of(self, guest: str) -> str:
        """The host's name of a place that is reached without links."""
        bind = self.bind_of(guest)
        rest = guest[len(bind.guest.rstrip("/")) :]
        return bind.host if not rest or rest == "/" else bind.host.rstrip("/") + rest

    def guest_of(self, host: str) -> str:
        """The container's name of a file; "" for one that is not in it."""
        for bind in self._by_host:
            if host == bind.host:
                return bind.guest
            prefix = bind.host.rstrip("/") + "/"
            if host.startswith(prefix):
                return bind.guest.rstrip("/") + "/" + host[len(prefix) :]
        return ""

    def resolve(self, text: str, start: str, viewer: Viewer, follow: bool, name: bool = False) -> Place:
        """The place of a path that begins at `start`, a directory of the container. `name`: its last name is to be
        made or taken away, which no link is followed for. Raises OSError."""
        if not text:
            raise _error(errno.ENOENT)
        wants_directory = text.endswith(("/", "/.", "/..")) or text in (".", "..")
        last = text.rstrip("/").rpartition("/")[2]
        if name and last in (".", ".."):
            raise _error(errno.EINVAL if last == "." else errno.ENOTEMPTY)
        follow = follow or (wants_directory and not name)
        todo = _parts(text)
        guest = viewer.root if text.startswith("/") else start
        host = self.host_of(guest)
        way = [host]
        links = 0
        magic = False
        while todo:
            part = todo.pop()
            if part == "..":
                if not os.path.isdir(host):
                    raise _error(errno.ENOTDIR if os.path.lexists(host) else errno.ENOENT)
                if guest not in (viewer.root, "/"):
                    guest = guest.rpartition("/")[0] or "/"
                    host = self.host_of(guest)
                    way.append(host)
                continue
            child = f"{guest.rstrip('/')}/{part}"
            bind = self._at.get(child)
            path = bind.host if bind else f"{host.rstrip('/')}/{part}"
            if bind is None and (todo or follow):
                if host == _PROC and part in ("self", "thread-self"):
                    todo += [str(viewer.group)] if part == "self" else [str(viewer.pid), "task", str(viewer.group)]
                    continue
                target = _link(path, last=not todo)
                if target:
                    found = MAGIC.match(path) if path.startswith("/proc/") else None
                    jump = self._jump(found, target, viewer, last=not todo) if found else ""
                    if jump:
                        guest, host = jump, self.host_of(jump)
                        way.append(host)
                        continue
                    if not found:
                        links += 1
                        if links > _MAX_LINKS:
                            raise _error(errno.ELOOP)
                        if target.startswith("/"):
                            guest, host = viewer.root, self.host_of(viewer.root)
                        todo += _parts(target)
                        continue
                    magic = not todo
            guest, host = child, path
            if todo:
                way.append(host)
        if wants_directory and not host.endswith("/"):
            if name and os.path.islink(host):
                raise _error(errno.ENOTDIR)
            host += "/"
        return Place(guest, host, way, magic)

    def _jump(self, found: re.Match[str], target: str, viewer: Viewer, last: bool) -> str:
        """Where a link of the kernel's leads in the container; "" where the kernel is to follow it itself."""
        pid, kind = int(found[1]), found[2]
        if kind == "root":
            return viewer.root_of(pid)
        if kind == "exe":
            return viewer.exe_of(pid)
        return "" if last else self.guest_of(target)


def _parts(text: str) -> list[str]:
    return [part for part in reversed(text.split("/")) if part not in ("", ".")]


def _link(path: str, last: bool) -> str:
    """The text of a link; "" for what is none, or where the last component is missing."""
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno == errno.EINVAL or (last and error.errno == errno.ENOENT):
            return ""
        raise


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
