"""Members of Linux software RAID: RAID-1 is read from one, other levels are named. Source: <linux/raid/md_p.h>."""

from __future__ import annotations

from struct import unpack_from

from .blocks import Blocks, DiskError

_MAGIC = 0xA92B4EFC
_SECTOR = 512
_REBUILDING = 2  # MD_FEATURE_RECOVERY_OFFSET
_MOST_MEMBERS = 1920


class Member:
    """`identity` of its array, `events` counted so far, and the array's bytes as this member has them."""

    def __init__(self, identity: str, events: int, name: str, blocks: Blocks) -> None:
        self.identity = identity
        self.events = events
        self.name = name
        self.blocks = blocks


def member(name: str, volume: Blocks) -> Member | None:
    """What a volume is of an array, or None. Raises DiskError for levels other than RAID-1."""
    for at in (0, 4096, (volume.size // _SECTOR - 16) // 8 * 8 * _SECTOR):
        if at >= 0 and (found := _version1(name, volume, at)):
            return found
    return _version0(name, volume)


def _version1(name: str, volume: Blocks, at: int) -> Member | None:
    block = volume.read(at, 256)
    if len(block) < 256 or unpack_from("<II", block, 0) != (_MAGIC, 1):
        return None
    place = unpack_from("<Q", block, 144)[0]  # super_offset: where it says it is
    if place * _SECTOR != at:
        return None
    level = unpack_from("<i", block, 72)[0]
    if not _in_use(volume, at, block):
        raise DiskError(f"{name} is a spare of a RAID array, or not in step with it: it does not hold the array's data")
    size = unpack_from("<Q", block, 80)[0] * _SECTOR
    offset = unpack_from("<Q", block, 128)[0] * _SECTOR
    _check(name, level)
    if offset + size > volume.size or not size:
        raise DiskError(f"{name}: its RAID super block says that data lie beyond its end")
    title = block[32:64].split(b"\0")[0].decode("utf-8", "replace")
    return Member(block[16:32].hex(), unpack_from("<Q", block, 200)[0], title, volume.part(offset, size))


def _in_use(volume: Blocks, at: int, block: bytes) -> bool:
    """Whether a member holds the array's data: it has a role, and is not being rebuilt."""
    features, number, count = (int(unpack_from("<I", block, place)[0]) for place in (8, 160, 220))
    if features & _REBUILDING:
        return False
    if number >= min(count, _MOST_MEMBERS):
        return count == 0
    role = volume.read(at + 256 + 2 * number, 2)
    return len(role) == 2 and int.from_bytes(role, "little") < 0xFFFD


def _version0(name: str, volume: Blocks) -> Member | None:
    at = volume.size // 65536 * 65536 - 65536
    block = volume.read(at, 4096) if at >= 0 else b""
    if len(block) < 4096 or unpack_from("<I", block, 0)[0] != _MAGIC or unpack_from("<I", block, 4)[0] != 0:
        return None
    words = unpack_from("<42I", block, 0)
    level = unpack_from("<i", block, 28)[0]
    _check(name, level)
    identity = block[20:24].hex() + block[52:64].hex()
    events = words[39] | words[40] << 32
    return Member(identity, events, f"md{words[11]}", volume.part(0, min(words[8] * 1024, at)))


def _check(name: str, level: int) -> None:
    if level != 1:
        raise DiskError(
            f"{name} is a member of a RAID array of level {level}; joey reads level 1",
            "assemble the array on a machine that has it, and give joey that device or an image of it",
        )
