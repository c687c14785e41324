"""Which volumes make up a guest's root file system: its fstab, matched against the volumes that are there.

Source: fstab(5), blkid(8) for the tags.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ...runtime.tables import plain
from .blocks import DiskError
from .volumes import Volume

_KERNEL_TYPES = frozenset(
    "proc sysfs devpts tmpfs ramfs devtmpfs cgroup cgroup2 debugfs tracefs securityfs usbfs binfmt_misc mqueue "
    "hugetlbfs rpc_pipefs nfsd configfs fusectl pstore efivarfs selinuxfs swap none ignore".split()
)
_NETWORK_TYPES = frozenset("nfs nfs4 cifs smbfs smb3 glusterfs ceph 9p lustre afs sshfs fuse.sshfs gfs2 ocfs2".split())
_REMOVABLE_TYPES = frozenset("iso9660 udf auto floppy vfat msdos".split())
_TAG = re.compile(r"(UUID|LABEL|PARTUUID|PARTLABEL|ID)=")
_LARGEST_FSTAB = 1 << 20
_MOST_LINES = 1000


class Line(NamedTuple):
    """A line of an fstab, escapes undone."""

    device: str
    target: str
    type: str
    options: tuple[str, ...]


class Mount(NamedTuple):
    """A volume to be mounted at a path of the guest; `subvolume` is "", or an option of btrfs."""

    volume: Volume
    target: str
    subvolume: str


def parse(text: str) -> list[Line]:
    """The lines of an fstab that say something; those with fewer than two fields are passed over, as mount does."""
    found = []
    for line in text[:_LARGEST_FSTAB].splitlines()[:_MOST_LINES]:
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#"):
            continue
        device, target, *rest = (_unescaped(field) for field in fields)
        options = rest[1].split(",") if len(rest) > 1 else []
        found.append(Line(_unquoted(device), target, rest[0] if rest else "auto", tuple(options)))
    return found


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8) & 0xFF), field)


def _unquoted(device: str) -> str:
    """`UUID="..."` and `UUID=...` are the same."""
    tag, equals, value = device.partition("=")
    return f"{tag}={value.strip(chr(34))}" if equals and tag.isupper() else device


def find(device: str, volumes: list[Volume]) -> Volume | None:
    """The volume that an fstab's first field names, or None."""
    tag, equals, value = device.partition("=")
    if equals and tag in ("UUID", "LABEL", "PARTUUID", "PARTLABEL"):
        wanted = f"{tag}={value}"
    elif device.startswith("/dev/disk/by-"):
        kind, _, value = device.removeprefix("/dev/disk/by-").partition("/")
        wanted = f"{kind.upper()}={_unhexed(value)}" if kind in ("uuid", "label", "partuuid", "partlabel") else ""
    else:
        wanted = device.removeprefix("/dev/")
    if not wanted:
        return None
    folded = wanted.lower() if "UUID=" in wanted else wanted
    return next((v for v in volumes if folded in {n.lower() if "UUID=" in n else n for n in v.names}), None)


def _unhexed(value: str) -> str:
    """udev writes a slash or a space in a label as \\x2f, \\x20."""
    return re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), value)


def kind_of(line: Line) -> str:
    """ "kernel" for what the kernel makes, "network", "bind" or "disk"."""
    if line.type in _KERNEL_TYPES:
        return "kernel"
    remote = ":" in line.device and not line.device.startswith("/dev") and not _TAG.match(line.device)
    if line.type in _NETWORK_TYPES or remote or line.device.startswith("//"):
        return "network"
    return "bind" if {"bind", "rbind"} & set(line.options) else "disk"


_FIRMWARE = ("/boot/efi", "/efi")
_FIRMWARE_TYPES = ("vfat", "msdos")


class Layout(NamedTuple):
    """`mounts` in the order to be made, the root not among them; `missing`: lines whose volume is not there; `notes`:
    lines that an image has no use for, a sentence each.
    """

    mounts: list[Mount]
    missing: list[tuple[Line, str]]
    notes: list[str]


def layout(lines: list[Line], root: Volume, volumes: list[Volume]) -> Layout:
    """What of an fstab is to be mounted below the root."""
    mounts: list[Mount] = []
    missing: list[tuple[Line, str]] = []
    notes: list[str] = []
    taken: set[str] = set()
    for line in lines:
        target = "/" + "/".join(part for part in line.target.split("/") if part not in ("", "."))
        where = f"fstab: {plain(line.device)} on {plain(target)}"
        kind = kind_of(line)
        if target == "/" or not line.target.startswith("/") or kind == "kernel":
            continue
        if kind == "network":
            notes.append(f"{where} ({line.type}) comes from the network: its files are not in the image")
        elif kind == "bind":
            notes.append(f"{where} is a bind mount: its files are in the image where they lie")
        elif target in taken:
            notes.append(f"{where}: a second mount at the same place is not read")
        elif target in _FIRMWARE or (target == "/boot" and line.type in _FIRMWARE_TYPES):
            notes.append(f"{where} is for the firmware, and not read")
        elif (volume := find(line.device, volumes)) is None:
            if line.type in _REMOVABLE_TYPES and "noauto" in line.options:
                continue  # a CD drive
            missing.append((line, "none of the disks given has it"))
        elif volume.error:
            missing.append((line, f"{volume.title} can't be read: {volume.error}"))
        elif not volume.file_system or not volume.file_system.readable:
            missing.append((line, f"{volume.title} holds {volume.type}"))
        else:
            subvolume = next((o for o in line.options if o.startswith(("subvol=", "subvolid="))), "")
            mounts.append(Mount(volume, target, subvolume))
            taken.add(target)
    mounts.sort(key=lambda mount: mount.target.count("/"))
    return Layout(mounts, missing, notes)


def is_one(volume: Volume, other: Volume) -> bool:
    """Whether two volumes are devices of one file system (btrfs)."""
    one, two = volume.file_system, other.file_system
    return one is not None and two is not None and one.devices > 1 and (one.type, one.uuid) == (two.type, two.uuid)


def candidates(volumes: list[Volume], wanted: str) -> list[Volume]:
    """The volumes that the root may be on: all that joey reads, or the one that is wanted. Raises DiskError."""
    readable = [v for v in volumes if v.file_system and v.file_system.readable and not v.error]
    readable = [v for place, v in enumerate(readable) if not any(is_one(v, other) for other in readable[:place])]
    if wanted:
        word = wanted.removeprefix("/dev/")
        readable = [v for v in readable if word in v.names or word == v.title]
        if not readable:
            raise DiskError(f"there is no volume {wanted} with a file system that joey reads", told(volumes))
    return readable


def check(found: Layout, skipped: list[str]) -> None:
    """Raises DiskError for a mount that can't be made, is not `noauto`, and is not among those to do without."""
    for line, why in found.missing:
        if line.target not in skipped and "noauto" not in line.options:
            hint = f"give that disk too, or --skip-mount {line.target}"
            raise DiskError(f"fstab mounts {line.device} at {line.target}: {why}", hint)


def told(volumes: list[Volume]) -> str:
    """The volumes in one line, for a hint."""
    return (
        "volumes: " + "; ".join(f"{v.title}: {v.error or v.type}" for v in volumes) if volumes else "no volumes at all"
    )
