"""The format of a disk image by its content, and the files it names: none of them is opened on an image's word alone.

Source: qemu's docs/interop/qcow2.txt; the VMDK, VDI, VHD and VHDX specifications.
"""

from __future__ import annotations

import os
import re
from struct import unpack_from
from typing import NamedTuple

from .blocks import DiskError

_DESCRIPTOR = b"# Disk DescriptorFile"
_LARGEST_DESCRIPTOR = 1 << 20
_EXTENT = re.compile(r'^(?:RW|RDONLY|NOACCESS)\s+(\d+)\s+(\w+)(?:\s+"([^"]*)")?', re.MULTILINE)
_DATA_FILE = 4  # qcow2's incompatible feature: the clusters are in another file
_NAMES = {"qcow2": "qcow2", "vmdk": "VMDK", "vdi": "VDI", "vpc": "VHD", "vhdx": "VHDX", "raw": "raw"}


class DiskImage(NamedTuple):
    """`format` is qemu's name; `backing` the path of the image that this one is a difference to, or ""; `files` all
    that hold the disk.
    """

    path: str
    format: str
    backing: str
    files: tuple[str, ...]
    offset: int = 0  # where the image begins in its file, and its size there: 0 for all of it
    size: int = 0

    @property
    def title(self) -> str:
        return _NAMES[self.format]


def inspect(path: str, take_backing: bool = False) -> DiskImage:
    """The format of an image file. Raises DiskError: for one that joey does not read, that names files elsewhere, or
    that is a difference to another image while `take_backing` is not set.
    """
    try:
        if not os.path.isfile(path):
            raise DiskError(f"{path} is not a file", "a disk image, an OVA or OVF; or see: joey migrate --help")
        with open(path, "rb") as file:
            head = file.read(4096)
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - 512))
            tail = file.read(512)
    except OSError as error:
        raise DiskError(f"can't read {path}: {error.strerror}") from None
    if not size:
        raise DiskError(f"{path} is empty")
    if head.startswith(b"QFI\xfb"):
        return _qcow2(path, head, take_backing)
    if head.startswith((b"KDMV", _DESCRIPTOR)) or head.lstrip(b"\r\n \t").startswith(_DESCRIPTOR):
        return _vmdk(path, head, take_backing)
    if head[0x40:0x44] == b"\x7f\x10\xda\xbe":
        if unpack_from("<I", head, 0x4C)[0] not in (1, 2):
            raise DiskError(
                f"{path} is a VDI of a differencing kind", "clone the disk in VirtualBox: VBoxManage clonemedium"
            )
        return DiskImage(path, "vdi", "", (path,))
    if head.startswith(b"vhdxfile"):
        return DiskImage(path, "vhdx", "", (path,))
    if head.startswith(b"conectix") or tail.startswith(b"conectix"):
        footer = head if head.startswith(b"conectix") else tail
        if unpack_from(">I", footer, 60)[0] not in (2, 3):
            raise DiskError(f"{path} is a VHD of a differencing kind", "merge it with its parent first")
        return DiskImage(path, "vpc", "", (path,))
    _refuse_others(path, head)
    return DiskImage(path, "raw", "", (path,))


def inspect_part(path: str, offset: int, size: int) -> DiskImage:
    """The format of an image that lies in a larger file, an OVA. Raises DiskError."""
    with open(path, "rb") as file:
        file.seek(offset)
        head = file.read(min(size, 4096))
    if head.startswith(b"KDMV"):
        place, length = unpack_from("<QQ", head, 28)
        if length > _LARGEST_DESCRIPTOR >> 9 or (place + length) * 512 > size:
            raise DiskError(f"{path}: the descriptor of its disk has {length} sectors")
        with open(path, "rb") as file:
            file.seek(offset + place * 512)
            text = file.read(length * 512).split(b"\0", 1)[0].decode("utf-8", "replace")
        if _parent(text):
            raise DiskError(f"{path}: a disk in it is a difference to another image")
        return DiskImage(path, "vmdk", "", (path,), offset, size)
    if head.startswith(b"QFI\xfb"):
        found = _qcow2(path, head, take_backing=False)
        return found._replace(offset=offset, size=size)
    _refuse_others(path, head)
    return DiskImage(path, "raw", "", (path,), offset, size)


def _parent(text: str) -> bool:
    """Whether a VMDK's descriptor says that it is a difference to another."""
    found = re.search(r'(?im)^parentCID\s*=\s*"?([0-9a-f]+)', text)
    return bool(found and found[1].lower() != "ffffffff")


def _refuse_others(path: str, head: bytes) -> None:
    for magic, name, hint in (
        (b"COWD", "an old VMware sparse disk (COWD)", "convert it on its host: vmkfstools -i"),
        (b"\x1f\x8b", "compressed by gzip", "decompress it first"),
        (b"\xfd7zXZ", "compressed by xz", "decompress it first"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd", "decompress it first"),
        (b"BZh", "compressed by bzip2", "decompress it first"),
        (b"PK\x03\x04", "a zip archive", "unpack it first"),
        (b"QED\0", "a QED image", "convert it: qemu-img convert -f qed -O qcow2"),
        (b"<<< ", "a VirtualBox medium of an old kind", "clone it in VirtualBox"),
    ):
        if head.startswith(magic):
            raise DiskError(f"{path} is {name}", hint)


def _qcow2(path: str, head: bytes, take_backing: bool) -> DiskImage:
    version, backing_at, backing_size = unpack_from(">IQI", head, 4)
    if version not in (2, 3):
        raise DiskError(f"{path} is a qcow2 image of version {version}; joey reads 2 and 3")
    if unpack_from(">I", head, 32)[0]:
        raise DiskError(f"{path} is an encrypted qcow2 image", "decrypt it first: qemu-img convert")
    if version == 3 and unpack_from(">Q", head, 72)[0] & _DATA_FILE:
        raise DiskError(f"{path} keeps its data in another file", "make one image of it: qemu-img convert -O qcow2")
    if not backing_at:
        return DiskImage(path, "qcow2", "", (path,))
    if backing_size > 1023:
        raise DiskError(f"{path}: the name of its backing file has {backing_size} bytes")
    with open(path, "rb") as file:
        file.seek(backing_at)
        name = file.read(backing_size)
    return DiskImage(path, "qcow2", _beside(path, name, take_backing), (path,))


def _beside(path: str, name: bytes, take: bool) -> str:
    """The path of an image that another names: only when asked for, and only in the same folder or below it."""
    word = name.decode("utf-8", "replace")
    shown = word if word.isprintable() else ascii(word)[1:-1]
    if not take:
        raise DiskError(
            f"{path} is a difference to another image, {shown}",
            "--backing reads that one too, if it is in the same folder; or flatten it: qemu-img convert",
        )
    folder = os.path.realpath(os.path.dirname(path) or ".")
    found = os.path.realpath(os.path.join(folder, word))
    if "\0" in word or not found.startswith(folder.rstrip("/") + "/"):
        raise DiskError(f"{path}: its backing file {shown} is not in the folder {folder}", "move it there")
    if not os.path.isfile(found):
        raise DiskError(f"{path}: its backing file {shown} does not exist", f"it belongs in {folder}")
    return found


def _vmdk(path: str, head: bytes, take_backing: bool) -> DiskImage:
    embedded = head.startswith(b"KDMV")
    if embedded:
        at, size = unpack_from("<QQ", head, 28)
        if size > _LARGEST_DESCRIPTOR >> 9:
            raise DiskError(f"{path}: its descriptor has {size} sectors")
        with open(path, "rb") as file:
            file.seek(at * 512)
            data = file.read(size * 512) if at else b""
    else:
        if os.path.getsize(path) > _LARGEST_DESCRIPTOR:
            raise DiskError(f"{path}: a VMDK descriptor of more than {_LARGEST_DESCRIPTOR} bytes")
        with open(path, "rb") as file:
            data = file.read()
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace")
    if _parent(text):
        hint = re.search(r'(?im)^parentFileNameHint\s*=\s*"([^"]*)"', text)
        backing = _beside(path, (hint[1] if hint else "").encode(), take_backing)
    else:
        backing = ""
    if embedded:
        return DiskImage(path, "vmdk", backing, (path,))
    folder = os.path.dirname(path)
    files = []
    for _, kind, name in _EXTENT.findall(text):
        if kind.upper() == "ZERO":
            continue
        place = os.path.join(folder, name)
        if not name or "/" in name or "\\" in name or name in (".", "..") or os.path.islink(place):
            raise DiskError(f'{path}: it names "{ascii(name)[1:-1]}" as a part; parts are files in the same folder')
        if not os.path.isfile(place):
            raise DiskError(f"{path}: its part {name} is missing", f"it belongs in {folder or '.'}")
        if kind.upper() not in ("FLAT", "SPARSE", "VMFS"):
            raise DiskError(f"{path}: a part of kind {kind}, which joey does not read")
        files.append(place)
    if not files:
        raise DiskError(f"{path}: a VMDK descriptor without parts")
    return DiskImage(path, "vmdk", backing, (path, *files))
