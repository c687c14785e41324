"""The format of a disk image by its content, and the files it names: none of them is opened on an image's word alone.

Source: qemu's docs/interop/qcow2.txt; the VMDK, VDI, VHD and VHDX specifications.
"""

from __future__ import annotations

import os
import re
import stat
from struct import error as struct_error
from struct import unpack_from
from typing import NamedTuple

from .blocks import DiskError

_DESCRIPTOR = b"# Disk DescriptorFile"
_LARGEST_DESCRIPTOR = 1 << 20
# a line of a descriptor that names a part: exactly so, or the descriptor is refused
_EXTENT = re.compile(r'(RW|RDONLY) (\d{1,15}) (FLAT|SPARSE|VMFS) "([^"/\\]{1,255})"(?: (\d{1,15}))?')
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9_.]*\s*=.*")
_KINDS = ("monolithicSparse", "streamOptimized")  # what the descriptor inside a sparse file may say
_DATA_FILE = 4  # qcow2's incompatible feature: the clusters are in another file
_NAMES = {"qcow2": "qcow2", "vmdk": "VMDK", "vdi": "VDI", "vpc": "VHD", "vhdx": "VHDX", "raw": "raw"}


class Part(NamedTuple):
    """A part of a split or flat VMDK: `kind` FLAT, VMFS or SPARSE, `sectors` in all, from `offset` sectors on."""

    kind: str
    sectors: int
    path: str
    offset: int


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
    parts: tuple[Part, ...] = ()  # of a VMDK whose descriptor is a file of its own

    @property
    def title(self) -> str:
        return _NAMES[self.format]


def inspect(path: str, take_backing: bool = False) -> DiskImage:
    """The format of an image file or block device. Raises DiskError: for one that joey does not read, that names files
    elsewhere, or that is a difference to another image while `take_backing` is not set.
    """
    try:
        return _inspect(path, take_backing)
    except OSError as error:
        raise DiskError(f"can't read {path}: {error.strerror}") from None
    except (struct_error, ValueError, OverflowError) as error:
        raise DiskError(f"{path} is a damaged disk image: {error}") from None


def _inspect(path: str, take_backing: bool) -> DiskImage:
    status = os.stat(path)
    if stat.S_ISBLK(status.st_mode):
        return DiskImage(path, "raw", "", (path,))
    if not stat.S_ISREG(status.st_mode):
        raise DiskError(f"{path} is not a file", "a disk image, an OVA or OVF; or see: joey migrate --help")
    with open(path, "rb") as file:
        head = file.read(4096)
        file.seek(max(0, status.st_size - 512))
        tail = file.read(512)
    if not status.st_size:
        raise DiskError(f"{path} is empty")
    if head.startswith(b"QFI\xfb"):
        return _qcow2(path, head, take_backing)
    if head.startswith((b"KDMV", _DESCRIPTOR)) or head.lstrip(b"\r\n \t").startswith(_DESCRIPTOR):
        return _vmdk(path, head, take_backing)
    if head[0x40:0x44] == b"\x7f\x10\xda\xbe":
        if unpack_from("<I", head, 0x4C)[0] not in (1, 2):
            raise DiskError(f"{path} is a VDI of a differencing kind", "clone the disk: VBoxManage clonemedium")
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
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            head = file.read(min(size, 4096))
        if head.startswith(b"KDMV"):
            if _parent(_embedded(path, head, offset)):
                raise DiskError(f"{path}: a disk in it is a difference to another image")
            return DiskImage(path, "vmdk", "", (path,), offset, size)
        if head.startswith(b"QFI\xfb"):
            found = _qcow2(path, head, take_backing=False)
            return found._replace(offset=offset, size=size)
    except (struct_error, ValueError, OverflowError) as error:
        raise DiskError(f"{path}: a damaged disk in it: {error}") from None
    _refuse_others(path, head)
    return DiskImage(path, "raw", "", (path,), offset, size)


def _embedded(path: str, head: bytes, offset: int) -> str:
    """The descriptor in a sparse VMDK. Raises DiskError for one that qemu would take as naming other files."""
    capacity, place, length = unpack_from("<Q", head, 12)[0], *unpack_from("<QQ", head, 28)
    if not capacity:
        raise DiskError(f"{path}: a VMDK that says its disk has no size")
    if length > _LARGEST_DESCRIPTOR >> 9 or place >= 1 << 40:
        raise DiskError(f"{path}: its descriptor has {length} sectors")
    if not place:
        return ""
    with open(path, "rb") as file:
        file.seek(offset + place * 512)
        text = file.read(length * 512).split(b"\0", 1)[0].decode("utf-8", "replace")
    kind = re.search(r'(?im)^createType\s*=\s*"(\w*)"', text)
    if not kind or kind[1] not in _KINDS:
        raise DiskError(
            f"{path}: a sparse VMDK of kind {kind[1] if kind else 'unknown'}; joey reads {', '.join(_KINDS)}"
        )
    return text


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
    found = "" if "\0" in word else os.path.realpath(os.path.join(folder, word))
    if not found.startswith(folder.rstrip("/") + "/"):
        raise DiskError(f"{path}: its backing file {shown} is not in the folder {folder}", "move it there")
    if not os.path.isfile(found):
        raise DiskError(f"{path}: its backing file {shown} does not exist", f"it belongs in {folder}")
    return found


def _vmdk(path: str, head: bytes, take_backing: bool) -> DiskImage:
    if head.startswith(b"KDMV"):
        text = _embedded(path, head, 0)
        backing = ""
        if _parent(text):
            named = re.search(r'(?im)^parentFileNameHint\s*=\s*"([^"]*)"', text)
            backing = _beside(path, (named[1] if named else "").encode(), take_backing)
        return DiskImage(path, "vmdk", backing, (path,))
    if os.path.getsize(path) > _LARGEST_DESCRIPTOR:
        raise DiskError(f"{path}: a VMDK descriptor of more than {_LARGEST_DESCRIPTOR} bytes")
    with open(path, "rb") as file:
        text = file.read().split(b"\0", 1)[0].decode("utf-8", "replace")
    if _parent(text):
        raise DiskError(f"{path} is a difference to another image, in parts", "flatten it: qemu-img convert")
    parts = []
    for number, line in enumerate(text.splitlines()):
        word = line.strip()
        found = _EXTENT.fullmatch(word)
        if found:
            parts.append(_part(path, found))
        elif word and not word.startswith("#") and not _SETTING.fullmatch(word):
            hint = "parts are files in the same folder, of kind FLAT, SPARSE or VMFS"
            raise DiskError(f"{path}: line {number + 1} of its descriptor is not one that joey takes", hint)
    if not parts:
        raise DiskError(f"{path}: a VMDK descriptor without parts")
    return DiskImage(path, "vmdk", "", (path, *(part.path for part in parts)), parts=tuple(parts))


def _part(path: str, found: re.Match[str]) -> Part:
    folder, name = os.path.dirname(os.path.abspath(path)), found[4]
    place = os.path.join(folder, name)
    if name in (".", "..") or os.path.islink(place) or not place.isprintable() or '"' in place:
        raise DiskError(f"{path}: it names {name!a} as a part; parts are files in the same folder")
    if not os.path.isfile(place):
        raise DiskError(f"{path}: its part {name} is missing", f"it belongs in {folder}")
    if found[3] == "SPARSE":
        with open(place, "rb") as file:
            head = file.read(512)
        if not head.startswith(b"KDMV") or len(head) < 512 or not unpack_from("<Q", head, 12)[0]:
            raise DiskError(f"{path}: its part {name} is no sparse extent")
    return Part(found[3], int(found[2]), place, int(found[5] or 0))


def descriptor(image: DiskImage) -> str:
    """A descriptor of joey's own for an image in parts: qemu reads no word of the one that came with it."""
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=fffffffe",
        "parentCID=ffffffff",
        'createType="twoGbMaxExtentSparse"',
    ]
    for part in image.parts:
        tail = "" if part.kind == "SPARSE" else f" {part.offset}"
        lines.append(f'RW {part.sectors} {part.kind} "{part.path}"{tail}')
    return "\n".join(lines) + "\n"
