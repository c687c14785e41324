"""Quota groups of btrfs: a limit for a subvolume. Source: btrfs-qgroup(8), <linux/btrfs.h>."""

from __future__ import annotations

import fcntl
import os
from struct import pack

from .places import Place

_LIMIT = 0x8030942B  # BTRFS_IOC_QGROUP_LIMIT
_MAX_REFERENCED = 1
_SUBVOLUME_INODE = 256


def unfit(place: Place) -> str:
    """Why a directory can't have a quota group; "" where it can."""
    if place.fstype != "btrfs":
        return f"{place.path} is on {place.fstype}"
    if os.stat(place.path).st_ino != _SUBVOLUME_INODE:
        return f"{place.path} is no subvolume of its own"
    try:
        limit(place.path, 0)
    except OSError as error:
        return f"quota is off at {place.mount} ({os.strerror(error.errno or 0)}): btrfs quota enable {place.mount}"
    return ""


def limit(path: str, size: int) -> None:
    """Limit what a subvolume refers to, in bytes; 0 for no limit. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # the subvolume's own group (0); what it refers to; no limit is all ones
        fcntl.ioctl(fd, _LIMIT, pack("<6Q", 0, _MAX_REFERENCED, size or (1 << 64) - 1, 0, 0, 0))
    finally:
        os.close(fd)
