"""Files and subvolumes that share their blocks until one side is written. Source: FICLONE in ioctl_ficlonerange(2),
btrfs-subvolume(8), <linux/btrfs.h>.
"""

from __future__ import annotations

import fcntl
import os
from struct import pack

from .. import libc

_FICLONE = 0x40049409
_SNAP_CREATE = 0x50009401
_BTRFS, _SUBVOLUME_INODE = 0x9123683E, 256


def clone_file(source: int, target: int) -> None:
    """Have an empty file share the blocks of another. Raises OSError: EOPNOTSUPP, EXDEV, EINVAL where it can't be."""
    fcntl.ioctl(target, _FICLONE, source)


def clone_unfit(layer: str, scratch: str) -> str:
    """Why files of a layer can't be cloned into `scratch`; "" where they can. Clones one that has blocks."""
    for folder, _, names in os.walk(layer):
        for name in names:
            path = f"{folder}/{name}"
            if os.path.islink(path) or not os.path.isfile(path) or not os.stat(path).st_blocks:
                continue
            with open(path, "rb") as source, open(f"{scratch}/clone", "wb") as target:
                try:
                    clone_file(source.fileno(), target.fileno())
                except OSError as error:
                    return f"FICLONE: {os.strerror(error.errno or 0)}"
            return ""
    return f"{layer} has no file to try it with"


def snapshot_unfit(layer: str, folder: str) -> str:
    """Why a layer can't be snapshotted into a folder; "" where it can."""
    if libc.fs_type(layer) != _BTRFS:
        return f"{layer} is not on btrfs"
    if os.stat(layer).st_ino != _SUBVOLUME_INODE:
        return f"{layer} is no subvolume of its own"
    mounts = [_mount_of(path) for path in (layer, folder)]
    return "" if mounts[0] == mounts[1] else f"{layer} is on another file system"


def _mount_of(path: str) -> str:
    from ..files import mount_holding

    mount = mount_holding(os.path.realpath(path))
    return mount.source if mount else ""


def snapshot(layer: str, folder: str, name: str) -> None:
    """Make `folder`/`name` a writable snapshot of a subvolume. Raises OSError."""
    source = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    into = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # struct btrfs_ioctl_vol_args; more than 1,024 bytes must be a buffer that ioctl may change
        fcntl.ioctl(into, _SNAP_CREATE, bytearray(pack("=q4088s", source, os.fsencode(name))))
    finally:
        os.close(source)
        os.close(into)
