"""Disk quota of each mounted file system that could have it."""

from __future__ import annotations

import ctypes
import os
from functools import partial

from ...compat import files
from ...compat.errors import errno_name
from ..catalog import Answer, Answered, Group, Works
from ..trying import call

GROUP = Group("quota", "disk quota")

KINDS = {"user": 0, "group": 1, "project": 2}
Q_GETFMT = 0x800004
Q_XGETQSTAT = (ord("X") << 8) + 5


def _block_mounts() -> list[files.Mount]:
    seen = set()
    found = []
    for mount in files.mounts():
        if (
            mount.source.startswith("/dev/")
            and mount.source not in seen
            and mount.fstype not in ("fuseblk", "devtmpfs")
        ):
            seen.add(mount.source)
            found.append(mount)
    return found


def _state(mount: files.Mount, kind: int) -> str:
    """ "on", "off" or the errno's name for one file system and one kind of quota."""
    device = mount.source.encode()
    if mount.fstype == "xfs":
        buffer = ctypes.create_string_buffer(256)
        result = call("quotactl", Q_XGETQSTAT << 8 | kind, device, 0, ctypes.addressof(buffer))
        if result < 0:
            return errno_name(-result)
        flags = int.from_bytes(buffer.raw[2:4], "little")
        return "on" if flags & (0x03, 0x0C, 0x30)[kind] == (0x03, 0x0C, 0x30)[kind] else "off"
    number = ctypes.c_uint32(0)
    result = call("quotactl", Q_GETFMT << 8 | kind, device, 0, ctypes.addressof(number))
    if result == 0:
        return "on"
    return "off" if result == -3 else errno_name(-result)  # ESRCH: known, not turned on


def _probe(kind: str) -> Answer:
    states = {mount.target: _state(mount, KINDS[kind]) for mount in _block_mounts()}
    on = [target for target, state in states.items() if state == "on"]
    detail = {"filesystems": states}
    if on:
        return Works("on at " + ", ".join(on), detail)
    text = ", ".join(f"{target} {state}" for target, state in states.items()) or "no disk file system is mounted"
    raise Answered("absent", text, detail)


for _kind in KINDS:
    GROUP.probe(
        f"quota.{_kind}", f"quotactl() for {_kind} quota", "a directory's size is limited by a loop image", alone=False
    )(partial(_probe, _kind))


@GROUP.probe("quota.btrfs-qgroup", "btrfs quota groups", "no quota on btrfs", alone=False)
def btrfs() -> Answer:
    found = [mount for mount in files.mounts() if mount.fstype == "btrfs"]
    if not found:
        raise Answered("absent", "no btrfs is mounted")
    for name in os.listdir("/sys/fs/btrfs"):
        if os.path.isdir(f"/sys/fs/btrfs/{name}/qgroups"):
            return f"on at {found[0].target}"
    raise Answered("absent", "quota is off: btrfs quota enable " + found[0].target)


@GROUP.probe("quota.project-ids", "FS_IOC_FSGETXATTR on /", "files carry no project id", alone=False)
def project_ids() -> Answer:
    import fcntl

    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        data = fcntl.ioctl(fd, 0x801C581F, bytes(28))
    finally:
        os.close(fd)
    return f"project {int.from_bytes(data[12:16], 'little')}"
