"""OVF and OVA: which disks a virtual appliance has, and where. Source: DMTF DSP0243, 5 to 9.

An OVA is a tar of the OVF and its disks; those are read where they lie in it. A name in an OVF is that of a file beside
it and nothing else.
"""

from __future__ import annotations

import os
from typing import NamedTuple
from xml.parsers import expat

from ..image.digest import ImageError
from ..image.layerreader import LayerReader
from .blocks import DiskError

_LARGEST = 4 << 20
_MOST_MEMBERS = 200
_DEPTH = 50
_DISKS = (".vmdk", ".vhd", ".vhdx", ".img", ".vdi", ".qcow2")


class Part(NamedTuple):
    """A disk of an appliance: `size` bytes at `offset` of the file `path`."""

    path: str
    offset: int
    size: int


def is_appliance(path: str) -> bool:
    """Whether a file is an OVF or OVA, by its name and first bytes."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return False
    if path.lower().endswith(".ovf"):
        return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<")
    if head[257:262] != b"ustar":
        return False
    try:
        names = _members(path)
    except (OSError, ImageError):
        return path.lower().endswith(".ova")
    beside = [name for name in names if "/" not in name]
    has_disks = path.lower().endswith(".ova") or any(name.lower().endswith(_DISKS) for name in beside)
    return has_disks and any(name.lower().endswith(".ovf") for name in beside)


def _members(path: str) -> list[str]:
    """The names of an archive's first members."""
    out = []
    with open(path, "rb") as file:
        reader = LayerReader(file, os.path.basename(path))
        for entry in reader:
            out.append(entry.path.decode("utf-8", "surrogateescape"))
            if entry.open is not None:
                reader.seek_over(file)
            if len(out) == _MOST_MEMBERS:
                break
    return out


def disks(path: str) -> list[Part]:
    """The disks of an appliance, in its order. Raises DiskError."""
    if path.lower().endswith(".ovf"):
        with open(path, "rb") as file:
            names = _names(file.read(_LARGEST + 1), path)
        folder = os.path.dirname(path)
        return [_beside(folder, name, path) for name in names]
    try:
        return _of_archive(path)
    except ImageError as error:
        raise DiskError(f"{path} is a damaged OVA: {error.message}") from None


def _of_archive(path: str) -> list[Part]:
    members: dict[str, Part] = {}
    text = b""
    with open(path, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        reader = LayerReader(file, os.path.basename(path), most_entries=_MOST_MEMBERS)
        for entry in reader:
            if entry.open is None:
                continue
            name = entry.path.decode("utf-8", "surrogateescape")
            offset = file.tell()
            if offset + entry.size > total:
                raise DiskError(f"{path} is a damaged OVA: it ends amid {name!r}")
            members[name] = Part(path, offset, entry.size)
            if not text and name.lower().endswith(".ovf"):
                text = os.pread(file.fileno(), min(entry.size, _LARGEST + 1), offset)
            reader.seek_over(file)
    found = []
    for name in _names(text, path):
        if name not in members:
            raise DiskError(f"{path}: the disk {name!r} that its OVF names is not in it")
        found.append(members[name])
    return found


def _beside(folder: str, name: str, path: str) -> Part:
    place = os.path.join(folder, name)
    if "/" in name or name in ("", ".", "..") or os.path.islink(place):
        raise DiskError(f"{path}: it names {name!r} as a disk; disks are files in the same folder")
    if not os.path.isfile(place):
        raise DiskError(f"{path}: its disk {name} is missing", f"it belongs in {folder or '.'}")
    return Part(place, 0, os.path.getsize(place))


def _names(data: bytes, path: str) -> list[str]:
    """The file names of the disks of an OVF. Raises DiskError."""
    if not data or len(data) > _LARGEST:
        raise DiskError(f"{path}: no OVF, or one of more than {_LARGEST >> 20} MiB")
    files: dict[str, tuple[str, str]] = {}
    wanted: list[str] = []
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEPTH or len(files) + len(wanted) > _MOST_MEMBERS:
            raise DiskError(f"{path}: an OVF that is nested too deeply or names too much")
        plain = {key.rpartition(":")[2]: value for key, value in attributes.items()}
        name = tag.rpartition(":")[2]
        if name == "File" and "id" in plain:
            files[plain["id"]] = plain.get("href", ""), plain.get("compression", "")
        elif name == "Disk" and "fileRef" in plain:
            wanted.append(plain["fileRef"])

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    def entity(*_: object) -> None:
        raise DiskError(f"{path}: an OVF has no entities of its own")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise DiskError(f"{path}: its OVF is not XML: {error}") from None
    found = []
    for reference in wanted:
        name, compression = files.get(reference, ("", ""))
        if compression not in ("", "identity"):
            raise DiskError(
                f"{path}: the disk {name!r} is compressed by {compression}", "unpack the OVA, decompress it"
            )
        found.append(name)
    if not found:
        raise DiskError(f"{path}: its OVF names no disk")
    return found
