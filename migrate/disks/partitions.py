"""Partition tables: MBR with extended partitions, GPT with its second copy. Source: UEFI specification, 5 and 5.2.3."""

from __future__ import annotations

import uuid
import zlib
from struct import unpack_from
from typing import NamedTuple

from .blocks import Blocks, DiskError

_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
_MOST = 256  # partitions of a table that is to be believed
_GPT = b"EFI PART"


class Partition(NamedTuple):
    """`number` as Linux counts, `offset` and `size` in bytes, `uuid` the PARTUUID, `label` the PARTLABEL of GPT."""

    number: int
    offset: int
    size: int
    uuid: str
    label: str


def partitions(disk: Blocks) -> list[Partition] | None:
    """The partitions of a disk, or None where it has no table. Raises DiskError for a table that makes no sense."""
    boot = disk.read(0, 512)
    if len(boot) < 512 or boot[510:] != b"\x55\xaa":
        return _gpt(disk)
    entries = [_entry(boot, place) for place in range(4)]
    if any(kind == _PROTECTIVE for kind, _, _ in entries):
        found = _gpt(disk)
        if found is None:
            raise DiskError("the disk says it has a GPT, but neither copy of it is intact")
        return found
    # a boot sector of a file system ends the same way: the entries must look like some
    used = [(boot[446 + 16 * place], *entry) for place, entry in enumerate(entries) if entry[0]]
    if not used or any(flag not in (0, 0x80) for flag, _, _, _ in used):
        return None
    if any(not start or not count or start * 512 >= disk.size for _, _, start, count in used):
        return None
    return _mbr(disk, boot, entries)


def _entry(sector: bytes, place: int) -> tuple[int, int, int]:
    """(type, first sector, sectors) of an entry."""
    at = 446 + 16 * place
    start, count = unpack_from("<II", sector, at + 8)
    return sector[at + 4], start, count


def _mbr(disk: Blocks, boot: bytes, entries: list[tuple[int, int, int]]) -> list[Partition]:
    identity = unpack_from("<I", boot, 440)[0]

    def partition(number: int, start: int, count: int) -> Partition:
        return Partition(number, start * 512, count * 512, f"{identity:08x}-{number:02x}", "")

    found = []
    for place, (kind, start, count) in enumerate(entries):
        if kind in _EXTENDED:
            found += [partition(5 + index, *where) for index, where in enumerate(_logical(disk, start))]
        elif kind:
            found.append(partition(place + 1, start, count))
    return sorted(found)


def _logical(disk: Blocks, base: int) -> list[tuple[int, int]]:
    """(first sector, sectors) of the logical partitions: a chain of tables, each of which names the next."""
    found: list[tuple[int, int]] = []
    seen = set()
    at = base
    while True:
        if at in seen:
            raise DiskError("the extended partition's tables go round in a circle")
        seen.add(at)
        sector = disk.read(at * 512, 512)
        if at == base and not any(sector):
            return found  # an extended partition in which nothing was made yet
        if len(sector) < 512 or sector[510:] != b"\x55\xaa":
            raise DiskError(f"the extended partition's table in sector {at} is damaged")
        kind, start, count = _entry(sector, 0)
        if kind and count:
            found.append((at + start, count))
        kind, start, count = _entry(sector, 1)
        if kind not in _EXTENDED or not count:
            return found
        if len(found) > _MOST:
            raise DiskError(f"more than {_MOST} logical partitions")
        at = base + start


def _gpt(disk: Blocks) -> list[Partition] | None:
    """The partitions of the first GPT copy that is intact, for sectors of 512 and of 4096 bytes."""
    for sector in (512, 4096):
        for at in (sector, disk.size - sector):
            found = _gpt_at(disk, at, sector)
            if found is not None:
                return found
    return None


def _gpt_at(disk: Blocks, at: int, sector: int) -> list[Partition] | None:
    head = disk.read(at, 512) if at > 0 else b""
    if len(head) < 92 or not head.startswith(_GPT):
        return None
    size, checksum = unpack_from("<II", head, 12)
    if not 92 <= size <= 512 or zlib.crc32(head[:16] + bytes(4) + head[20:size]) != checksum:
        return None
    table, count, width, table_checksum = unpack_from("<QIII", head, 72)
    if not count <= 1024 or width not in (128, 256, 512):
        return None
    data = disk.read(table * sector, count * width)
    if zlib.crc32(data) != table_checksum:
        return None
    found = []
    for place in range(count):
        entry = data[place * width : place * width + 128]
        if not any(entry[:16]):
            continue
        first, last = unpack_from("<QQ", entry, 32)
        if last < first:
            raise DiskError(f"GPT partition {place + 1} ends before it begins")
        label = entry[56:128].decode("utf-16-le", "replace").split("\0")[0]
        identity = str(uuid.UUID(bytes_le=bytes(entry[16:32])))
        found.append(Partition(place + 1, first * sector, (last - first + 1) * sector, identity, label))
    return found
