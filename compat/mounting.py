"""Mounting on descriptors, and the ways to make a mount read-only, a tree of them, or a root."""

from __future__ import annotations

import errno
import os

from . import files, libc
from .constants import (
    AT_FDCWD,
    AT_RECURSIVE,
    MNT_DETACH,
    MS_BIND,
    MS_MOVE,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_SLAVE,
)
from .errors import KernelError
from .mountflags import ATTR_TO_FLAG

# statvfs(3) f_flag -> MS_*; the kernel's ST_* numbers, which C libraries don't all name.
_STATVFS_FLAGS = ((1, MS_RDONLY), (2, MS_NOSUID), (4, MS_NODEV), (8, MS_NOEXEC), (1024, MS_NOATIME),
                  (2048, MS_NODIRATIME), (4096, MS_RELATIME))  # fmt: skip


def at(fd: int) -> str:
    """The name by which mount(2) reaches exactly what `fd` is open on."""
    return f"/proc/self/fd/{fd}"


def present_flags(path: str) -> int:
    """The MS_* flags the mount at `path` has now."""
    now = os.statvfs(path).f_flag
    flags = 0
    for bit, flag in _STATVFS_FLAGS:
        if now & bit:
            flags |= flag
    return flags


def remount_by_bind(path: str, flags: int, clear: int = 0) -> None:
    """Change the per-mount flags of the bind mount at `path` (MS_REMOUNT|MS_BIND). Linux 2.6.26.

    A user namespace may not clear flags of mounts it inherited (they are locked): what is set stays set unless
    `clear` names it. Source: mount_namespaces(7), "Restrictions on mount namespaces".
    """
    kept = present_flags(path) & ~clear
    if flags & (MS_NOATIME | MS_RELATIME):
        kept &= ~(MS_NOATIME | MS_RELATIME)
    libc.mount("", path, "", MS_REMOUNT | MS_BIND | kept | flags)


def setattr_tree(path: str, attr_set: int, attr_clear: int) -> None:
    """Change attributes (MOUNT_ATTR_*) of every mount at and below `path` with mount_setattr(2). Linux 5.12."""
    libc.mount_setattr(AT_FDCWD, path, AT_RECURSIVE, libc.MountAttr(attr_set, attr_clear, 0, 0))


def remount_tree_one_by_one(path: str, attr_set: int, attr_clear: int) -> None:
    """What `setattr_tree` does, with one bind remount for each mount found below `path`. Any kernel."""
    flags = clear = 0
    for attribute, flag in ATTR_TO_FLAG.items():
        flags |= flag if attr_set & attribute else 0
        clear |= flag if attr_clear & attribute else 0
    top = os.readlink(path) if path.startswith("/proc/self/fd/") else path
    for mount in files.mounts():
        if mount.target == top or mount.target.startswith(top.rstrip("/") + "/"):
            remount_by_bind(mount.target, flags, clear)


def enter_by_pivot_root(new_root: str) -> None:
    """Make `new_root` (a mount) the root and drop the old one; the working directory becomes the new root.

    Old and new root are stacked on one place, so no directory for the old root is needed inside the new one.
    Source: pivot_root(2), 'pivot_root(".", ".")'.
    """
    old = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    new = os.open(new_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(new)
        libc.pivot_root(".", ".")
        os.fchdir(old)
        libc.mount("", ".", "", MS_SLAVE | MS_REC)
        libc.umount(".", MNT_DETACH)
        os.chdir("/")
    finally:
        os.close(old)
        os.close(new)


def enter_by_move_and_chroot(new_root: str) -> None:
    """Move `new_root` over `/` and chroot into it: for an old root that is the initial ramfs, or --no-pivot.

    Other mounts are detached first where the kernel lets go of them, so that /proc and /sys of the host can't be
    reached through the mount table. Source: the kernel's ramfs-rootfs-initramfs document; runc's msMoveRoot.
    """
    for mount in reversed(files.mounts()):
        inside = mount.target == new_root or mount.target.startswith(new_root + "/")
        if inside or mount.target == "/" or new_root.startswith(mount.target.rstrip("/") + "/"):
            continue
        if mount.fstype not in ("proc", "sysfs"):
            continue
        try:
            libc.mount("", mount.target, "", MS_SLAVE | MS_REC)
            libc.umount(mount.target, MNT_DETACH)
        except KernelError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.ENOENT):
                raise
            if error.errno != errno.ENOENT:
                libc.mount("tmpfs", mount.target, "tmpfs", 0)
    os.chdir(new_root)
    libc.mount(new_root, "/", "", MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def make_rootfs_parent_private(rootfs: str) -> None:
    """Make the mount that holds `rootfs` private: pivot_root refuses a shared parent (EINVAL)."""
    holding = files.mount_holding(rootfs)
    libc.mount("", holding.target if holding else "/", "", MS_PRIVATE)
