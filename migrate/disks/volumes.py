"""From raw disks to volumes: partitions, RAID-1 arrays, LVM; each with the names that a guest may call it by."""

from __future__ import annotations

import os

from . import lvm, mdraid
from .blocks import Blocks, DiskError, Extent
from .filesystems import FileSystem, identify
from .partitions import partitions

_MOST = 512  # volumes of a machine


class Volume:
    """What may hold a file system. `names` are those after /dev/ ("vda1", "mapper/vg-root") and identities as in fstab
    ("PARTUUID=..."); `title` is for people; `error` says why it can't be read.
    """

    def __init__(self, title: str, blocks: Blocks, names: set[str], error: str = "") -> None:
        self.title = title
        self.blocks = blocks
        self.names = names
        self.error = error
        self.file_system: FileSystem | None = None if error else identify(blocks)
        if self.file_system:
            if self.file_system.uuid:
                self.names.add(f"UUID={self.file_system.uuid}")
            if self.file_system.label:
                self.names.add(f"LABEL={self.file_system.label}")

    @property
    def type(self) -> str:
        return self.file_system.type if self.file_system else "nothing known"


def volumes(disks: list[str]) -> list[Volume]:
    """The volumes of a machine's raw disks, given in its order. Raises DiskError, OSError."""
    bare: list[Volume] = []
    for index, path in enumerate(disks):
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)  # a block device has no size that stat tells
        blocks = Blocks([Extent(path, 0, size)])
        title = f"disk {index + 1}" if len(disks) > 1 else "the disk"
        found = partitions(blocks)
        if found is None:
            bare.append(Volume(title, blocks, _names(index, 0)))
            continue
        for part in found:
            names = _names(index, part.number)
            names.add(f"PARTUUID={part.uuid}")
            if part.label:
                names.add(f"PARTLABEL={part.label}")
            where = f"partition {part.number}" + (f" of {title}" if len(disks) > 1 else "")
            if part.offset >= blocks.size:
                bare.append(Volume(where, Blocks([]), names, "it begins beyond the end of the disk"))
            else:
                bare.append(Volume(where, blocks.part(part.offset, part.size), names))
    return _with_groups(_with_arrays(bare))


def _names(disk: int, number: int) -> set[str]:
    letter = chr(ord("a") + disk)
    part = str(number) if number else ""
    found = {f"{kind}{letter}{part}" for kind in ("sd", "vd", "hd", "xvd", "ubd")}
    return found | {f"nvme{disk}n1{'p' + part if part else ''}"}


def _with_arrays(bare: list[Volume]) -> list[Volume]:
    """The same with the members of each RAID-1 array made one volume: the member that saw the last write."""
    arrays: dict[str, list[mdraid.Member]] = {}
    rest = []
    for volume in bare:
        try:
            found = None if volume.error else mdraid.member(volume.title, volume.blocks)
        except DiskError as error:
            rest.append(Volume(volume.title, volume.blocks, volume.names, error.message))
            continue
        if found is None:
            rest.append(volume)
        else:
            arrays.setdefault(found.identity, []).append(found)
    for identity, members in arrays.items():
        newest = max(members, key=lambda each: each.events)
        short = newest.name.partition(":")[2] or newest.name
        names = {newest.name, f"md/{short}", f"md{short}", short, f"MD_UUID={identity}"} - {"", "md/"}
        rest.append(Volume(f"RAID-1 array {newest.name or identity}", newest.blocks, names))
    return rest


def _with_groups(found: list[Volume]) -> list[Volume]:
    """The same with LVM's physical volumes replaced by the logical ones."""
    physical, rest = [], []
    for volume in found:
        try:
            here = None if volume.error else lvm.physical_volume(volume.title, volume.blocks)
        except DiskError as error:
            rest.append(Volume(volume.title, volume.blocks, volume.names, error.message))
            continue
        if here is None:
            rest.append(volume)
        else:
            physical.append(here)
    for logical in lvm.logical_volumes(physical):
        dashed = f"{logical.group.replace('-', '--')}-{logical.name.replace('-', '--')}"
        names = {f"{logical.group}/{logical.name}", f"mapper/{dashed}"}
        rest.append(
            Volume(f"LVM volume {logical.group}/{logical.name}", logical.blocks or Blocks([]), names, logical.error)
        )
    if len(rest) > _MOST:
        raise DiskError(f"more than {_MOST} volumes")
    return rest
