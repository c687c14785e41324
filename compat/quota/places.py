"""The file system a directory is on: its type, where it is mounted, and the node of its device."""

from __future__ import annotations

import os
import stat

from .. import files
from ..errors import JoeyError


class Place:
    """`path` is the directory, `device` a node of the block device ("" for none)."""

    __slots__ = ("device", "fstype", "mount", "path")

    def __init__(self, path: str, fstype: str, mount: str, device: str) -> None:
        self.path = path
        self.fstype = fstype
        self.mount = mount
        self.device = device


def find(path: str) -> Place:
    """Raises JoeyError where no mount holds the directory."""
    number = os.stat(path).st_dev
    real = os.path.realpath(path)
    mount = files.mount_holding(real)
    if mount is None:
        raise JoeyError(f"{path}: no mount holds it")
    return Place(real, mount.fstype, mount.target, _node(mount.source, number))


def _node(source: str, number: int) -> str:
    """A node of the device: the mount's source where that is it, else one of its number in /dev."""
    for path in (source, f"/dev/block/{os.major(number)}:{os.minor(number)}"):
        try:
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISBLK(status.st_mode) and status.st_rdev == number:
            return path
    return ""
