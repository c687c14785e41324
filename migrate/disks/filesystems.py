"""What is on a volume, by its first blocks: file systems that joey reads, and others, which it names in its errors.

Source: the kernel's documents of ext4, XFS and btrfs; <linux/magic.h>; LUKS on-disk format; <linux/raid/md_p.h>.
"""

from __future__ import annotations

import uuid
from struct import unpack_from

from .blocks import Blocks

READABLE = ("ext2", "ext3", "ext4", "xfs", "btrfs")
# found by their first bytes: (offset, magic, name)
_OTHERS = (
    (0, b"LUKS\xba\xbe", "LUKS (encrypted)"),
    (3, b"-FVE-FS-", "BitLocker (encrypted)"),
    (0, b"hsqs", "squashfs"),
    (32769, b"CD001", "ISO 9660"),
    (1024, b"\x10\x20\xf5\xf2", "F2FS"),
    (32768, b"JFS1", "JFS"),
    (65588, b"ReIsEr", "ReiserFS"),
    (0, b"BCF", "bcachefs"),
)
_ZFS_LABEL = 0x20000  # its uberblocks begin here
_JOURNAL, _RECOVER, _JOURNAL_DEVICE = 4, 4, 8
_EXT4_ONLY = 0x40 | 0x80 | 0x200  # extents, 64bit, flex_bg


class FileSystem:
    """`type` is the kernel's name or, where joey can't read it, a name for people; `dirty`: a journal to replay first;
    `devices`: on how many volumes it is.

    `dirty` is None where only mounting tells (XFS).
    """

    def __init__(
        self, type: str, uuid: str = "", label: str = "", dirty: bool | None = False, devices: int = 1
    ) -> None:
        self.type = type
        self.uuid = uuid
        self.label = label
        self.dirty = dirty
        self.devices = devices

    @property
    def readable(self) -> bool:
        return self.type in READABLE


def identify(volume: Blocks) -> FileSystem | None:
    """What is on a volume, None for nothing known. Never raises for its content."""
    for probe in (_ext, _xfs, _btrfs, _swap, _of_the_pc):
        if found := probe(volume):
            return found
    for offset, magic, name in _OTHERS:
        if volume.read(offset, len(magic)) == magic:
            return FileSystem(name)
    if any(
        volume.read(_ZFS_LABEL + place * 1024, 8) in (b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c")
        for place in range(128)
    ):
        return FileSystem("ZFS")
    return None


def _uuid(data: bytes) -> str:
    return str(uuid.UUID(bytes=data)) if any(data) else ""


def _label(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")


def _ext(volume: Blocks) -> FileSystem | None:
    block = volume.read(1024, 1024)
    if len(block) < 1024 or block[56:58] != b"\x53\xef":
        return None
    compatible, incompatible = unpack_from("<II", block, 92)
    if incompatible & _JOURNAL_DEVICE:
        return FileSystem("a journal of ext3 or ext4 on a device of its own")
    name = "ext4" if incompatible & _EXT4_ONLY else "ext3" if compatible & _JOURNAL else "ext2"
    dirty = bool(incompatible & _RECOVER)
    return FileSystem(name, _uuid(block[104:120]), _label(block[120:136]), dirty)


def _xfs(volume: Blocks) -> FileSystem | None:
    block = volume.read(0, 512)
    if not block.startswith(b"XFSB"):
        return None
    return FileSystem("xfs", _uuid(block[32:48]), _label(block[108:120]), None)


def _btrfs(volume: Blocks) -> FileSystem | None:
    block = volume.read(0x10000, 4096)
    if block[0x40:0x48] != b"_BHRfS_M":
        return None
    dirty = unpack_from("<Q", block, 0x60)[0] != 0  # log_root
    devices = unpack_from("<Q", block, 0x88)[0]
    return FileSystem("btrfs", _uuid(block[0x20:0x30]), _label(block[0x12B:0x22B]), dirty, devices)


def _of_the_pc(volume: Blocks) -> FileSystem | None:
    """FAT, exFAT and NTFS, with the names that blkid(8) gives them. Source: their boot sectors' specifications."""
    block = volume.read(0, 512)
    if len(block) < 512:
        return None
    for magic_at, magic, name, serial_at, label_at in (
        (82, b"FAT32", "FAT", 67, 71), (54, b"FAT1", "FAT", 39, 43), (3, b"EXFAT   ", "exFAT", 100, 0),
    ):  # fmt: skip
        if block[magic_at : magic_at + len(magic)] == magic:
            low, high = unpack_from("<HH", block, serial_at)
            label = block[label_at : label_at + 11].decode("cp437").strip() if label_at else ""
            return FileSystem(name, f"{high:04X}-{low:04X}", "" if label == "NO NAME" else label)
    if block[3:11] == b"NTFS    ":
        return FileSystem("NTFS", f"{unpack_from('<Q', block, 72)[0]:016X}")
    return None


def _swap(volume: Blocks) -> FileSystem | None:
    for page in (4096, 8192, 16384, 65536):
        if volume.read(page - 10, 10) in (b"SWAPSPACE2", b"SWAP-SPACE"):
            head = volume.read(1024, 56)
            return FileSystem("swap", _uuid(head[12:28]), _label(head[28:44]))
    return None
