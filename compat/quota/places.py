"""The file system a directory is on: its type, where it is mounted, and the node of its device."""

from __future__ import annotations

import os
import stat

from .. import files
from ..errors import JoeyError


class Place:
    """`path` is the directory, `device` a node of the block device ("" for none), `options` those of the mount."""

    __slots__ = ("device", "fstype", "mount", "options", "path")

    def __init__(self, path: str, fstype: str, mount: str, device: str, options: tuple[str, ...]) -> None:
        self.path = path
        self.fstype = fstype
        self.mount = mount
        self.device = device
        self.options = options


def find(path: str) -> Place:
    """Raises JoeyError where no mount holds the directory."""
    number = os.stat(path).st_dev
    real = os.path.realpath(path)
    best = None
    for mount in files.mounts():
        inside = real == mount.target or real.startswith(mount.target.rstrip("/") + "/")
        if inside and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    if best is None:
        raise JoeyError(f"{path}: no mount holds it")
    return Place(real, best.fstype, best.target, _node(best.source, number), best.options)


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
