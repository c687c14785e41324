"""The child's step for /dev: the default devices, those of the bundle, and the links."""

from __future__ import annotations

import os
import stat

from ...compat import libc, procfs
from ...compat.constants import MS_BIND
from ...compat.errors import StepError
from ...compat.mounting import at
from ...compat.rootpath import Root
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# path, major, minor; config-linux.md "Default Devices"
DEFAULT_DEVICES = (
    ("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/random", 1, 8), ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)  # fmt: skip
DEV_LINKS = (("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0"), ("/dev/stdout", "/proc/self/fd/1"),
             ("/dev/stderr", "/proc/self/fd/2"))  # fmt: skip
_DEVICE_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class MakeDevices(Step):
    """The default devices, those of `linux.devices`, and the links in /dev."""

    __slots__ = ("asked", "by", "devices", "root")

    def __init__(self, root: Root, devices: list[dict[str, Any]], by: str, covered: Iterable[str] = ()) -> None:
        """Where the bundle has mounted something, at the paths `covered`, that stays."""
        self.root = root
        self.by = by
        self.asked = devices
        named = {device["path"] for device in devices}
        defaults = [
            {"type": "c", "path": path, "major": major, "minor": minor, "fileMode": 0o666}
            for path, major, minor in DEFAULT_DEVICES
            if path not in named
        ]
        self.devices = [device for device in (*defaults, *devices) if os.path.normpath(device["path"]) not in covered]

    def describe(self) -> str:
        return f"make devices by {self.by}: " + " ".join(device["path"] for device in self.devices)

    def run(self) -> None:
        before = os.umask(0)
        try:
            for device in self.devices:
                if self.by == "mknod" or device["type"] == "p":
                    self._make(device)
                else:
                    self._bind(device)
        finally:
            os.umask(before)
        for path, target in DEV_LINKS:
            self._link(path, target)
        if os.path.exists("/proc/kcore"):
            self._link("/dev/core", "/proc/kcore")
        self._link("/dev/ptmx", "pts/ptmx", replace=self.root.exists("/dev/pts/ptmx"))

    def _make(self, device: dict[str, Any]) -> None:
        directory, _, name = os.path.normpath(device["path"]).rpartition("/")
        parent = self.root.make_directories(directory or "/")
        try:
            mode = _DEVICE_KINDS[device["type"]] | (device.get("fileMode", 0o666) & 0o7777)
            number = os.makedev(device.get("major", 0), device.get("minor", 0)) if device["type"] != "p" else 0
            try:
                os.mknod(name, mode, number, dir_fd=parent)
            except FileExistsError:
                now = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_IFMT(now.st_mode) != stat.S_IFMT(mode) or now.st_rdev != number:
                    if device not in self.asked:  # the image brought its own
                        return
                    raise StepError(f"{device['path']} exists in the root file system and is something else") from None
            uid, gid = self.root.owner or (0, 0)
            owner = (device.get("uid", uid), device.get("gid", gid))
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(parent)

    def _bind(self, device: dict[str, Any]) -> None:
        fd = self.root.make_file(device["path"])
        try:
            procfs.check_target(fd, self.root.path, device["path"], shows_proc=False)
            libc.mount(device["path"], at(fd), "", MS_BIND)
        finally:
            os.close(fd)

    def _link(self, path: str, target: str, replace: bool = False) -> None:
        directory, _, name = path.rpartition("/")
        parent = self.root.make_directories(directory)
        try:
            if replace:
                try:
                    os.unlink(name, dir_fd=parent)
                except FileNotFoundError:
                    pass  # nothing to replace
            os.symlink(target, name, dir_fd=parent)
            self.root.own(parent, name)
        except FileExistsError:
            return  # the image brought its own
        finally:
            os.close(parent)
