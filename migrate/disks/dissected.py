"""File systems as the dissect libraries read them, and what joey decodes itself because they do not, or not rightly:
times and ACLs of ext4, attributes of XFS and btrfs, device numbers.

Source: the kernel's documents of ext4, XFS and btrfs; <linux/posix_acl_xattr.h>, <linux/kdev_t.h>.
"""

from __future__ import annotations

import os
import stat
from struct import pack, unpack_from
from typing import TYPE_CHECKING, Any

from ..trees.entry import Entry
from .blocks import DiskError

if TYPE_CHECKING:
    from .blocks import Blocks

_POSIX = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
    7: b"system.",
}
_NAMED = (0x02, 0x08)  # ACL_USER, ACL_GROUP
_XATTR_ITEM = 24
_SIGN = 1 << 63


class Stream:
    """A volume as the file that the libraries read."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._blocks.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        data = self._blocks.read(self._at, self._blocks.size - self._at if size < 0 else size)
        self._at += len(data)
        return data


class System:
    """One file system: nodes are the library's; `losses` what it did not give."""

    def __init__(self) -> None:
        self.losses: dict[str, int] = {}

    def root(self) -> Any:
        raise NotImplementedError

    def children(self, node: Any) -> list[tuple[bytes, Any]]:
        """(name, node) of a directory, without . and .."""
        found = [(child.filename.encode("utf-8", "surrogateescape"), child) for child in node.iterdir()]
        return [(name, child) for name, child in found if name not in (b".", b"..", b"")]

    def entry(self, node: Any, path: bytes) -> tuple[Entry, int]:
        """(entry, number of names) of a node."""
        raise NotImplementedError

    def _loses(self, what: str) -> None:
        self.losses[what] = self.losses.get(what, 0) + 1


class Ext(System):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        from dissect.extfs.extfs import ExtFS

        self._fs = ExtFS(stream)
        self._large = self._fs.sb.s_inode_size > 128

    def root(self) -> Any:
        return self._fs.root

    def entry(self, node: Any, path: bytes) -> tuple[Entry, int]:
        inode = node.inode
        seconds = inode.i_mtime - (1 << 32) if inode.i_mtime >= 1 << 31 else inode.i_mtime
        rest = 0
        if self._large and inode.i_extra_isize >= 8:
            seconds += (inode.i_mtime_extra & 3) << 32
            rest = inode.i_mtime_extra >> 2
        uid = inode.i_uid | _high(inode, "i_uid_high") << 16
        gid = inode.i_gid | _high(inode, "i_gid_high") << 16
        entry = Entry(path, inode.i_mode, uid, gid, seconds * 1_000_000_000 + rest)
        entry.xattrs = tuple(sorted(_ext_attribute(each) for each in node.xattr))
        kind = stat.S_IFMT(inode.i_mode)
        if kind == stat.S_IFREG:
            entry.size = node.size
            entry.open = node.open
        elif kind == stat.S_IFLNK:
            entry.target = node.link.encode("utf-8", "surrogateescape")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            entry.device = _ext_device(*unpack_from("<II", bytes(inode.i_block)))
        return entry, inode.i_links_count


def _ext_device(old: int, new: int) -> int:
    """A device's number in its two forms. Source: <linux/kdev_t.h>."""
    if old:
        return os.makedev(old >> 8 & 0xFF, old & 0xFF)
    return os.makedev((new & 0xFFF00) >> 8, new & 0xFF | new >> 12 & 0xFFF00)


def _high(inode: Any, name: str) -> int:
    return int(getattr(inode, name, 0))


def _ext_attribute(found: Any) -> tuple[bytes, bytes]:
    prefix = _POSIX.get(found.entry.e_name_index, b"unknown.")
    name = bytes(found.entry.e_name)
    value = bytes(found.value)
    if found.entry.e_name_index in (2, 3):
        return prefix, _ext_acl(value)
    return prefix + name, value


def _ext_acl(value: bytes) -> bytes:
    """The disk's form of an ACL as xattr's. Source: fs/ext4/acl.h, <linux/posix_acl_xattr.h>."""
    out = pack("<I", 2)
    at = 4
    while at + 4 <= len(value):
        tag, rights = unpack_from("<HH", value, at)
        at += 4
        identity = 0xFFFFFFFF
        if tag in _NAMED:
            identity = unpack_from("<I", value, at)[0]
            at += 4
        out += pack("<HHI", tag, rights, identity)
    return out


class Xfs(System):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        from dissect.xfs.xfs import XFS

        self._fs = XFS(stream)

    def root(self) -> Any:
        return self._fs.root

    def entry(self, node: Any, path: bytes) -> tuple[Entry, int]:
        inode = node.inode
        entry = Entry(path, inode.di_mode, inode.di_uid, inode.di_gid, node.mtime_ns)
        kind = stat.S_IFMT(inode.di_mode)
        if inode.di_forkoff:
            entry.xattrs = self._attributes(node, inode)
        if kind == stat.S_IFREG:
            entry.size = node.size
            entry.open = node.open
        elif kind == stat.S_IFLNK:
            entry.target = node.link.encode("utf-8", "surrogateescape")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            word = int.from_bytes(node.datafork().read(4), "big")
            entry.device = os.makedev(word >> 18, word & 0x3FFFF)
        return entry, inode.di_nlink or inode.di_onlink

    def _attributes(self, node: Any, inode: Any) -> tuple[tuple[bytes, bytes], ...]:
        """Those in the inode itself. Source: XFS Algorithms and Data Structures, "Shortform Attributes"."""
        if inode.di_aformat != 1:  # XFS_DINODE_FMT_LOCAL
            self._loses("attributes that XFS keeps outside of an inode")
            return ()
        data = node.attrfork().read()
        count, at, found = data[2] if len(data) > 3 else 0, 4, []
        for _ in range(count):
            name_size, value_size, flags = data[at : at + 3]
            name = data[at + 3 : at + 3 + name_size]
            value = data[at + 3 + name_size : at + 3 + name_size + value_size]
            at += 3 + name_size + value_size
            if flags & 2 and name in (b"SGI_ACL_FILE", b"SGI_ACL_DEFAULT"):
                found.append((_POSIX[2 if name.endswith(b"FILE") else 3], _xfs_acl(value)))
            else:
                found.append(((b"trusted." if flags & 2 else b"security." if flags & 4 else b"user.") + name, value))
        return tuple(sorted(found))


def _xfs_acl(value: bytes) -> bytes:
    out = pack("<I", 2)
    for index in range(unpack_from(">I", value)[0]):
        tag, identity, rights = unpack_from(">IIH", value, 4 + 12 * index)
        out += pack("<HHI", tag, rights, identity if tag in _NAMED else 0xFFFFFFFF)
    return out


class Btrfs(System):
    def __init__(self, stream: Stream, subvolume: str) -> None:
        super().__init__()
        from dissect.btrfs.btrfs import Btrfs

        self._fs = Btrfs(stream)
        kind, _, word = subvolume.partition("=")
        found = self._fs.default_subvolume
        if kind == "subvol":
            found = self._fs.find_subvolume(word.strip("/"))
        elif kind == "subvolid":
            found = self._fs.open_subvolume(int(word))
        if found is None:
            raise DiskError(f"there is no subvolume {word}")
        self._root = found.root

    def root(self) -> Any:
        return self._root

    def children(self, node: Any) -> list[tuple[bytes, Any]]:
        found = [(name.encode("utf-8", "surrogateescape"), child) for name, child in node.iterdir()]
        return [(name, child) for name, child in found if name not in (b".", b"..", b"")]

    def entry(self, node: Any, path: bytes) -> tuple[Entry, int]:
        mtime = node.mtime_ns
        if mtime >= _SIGN * 1_000_000_000:  # its seconds are signed, before 1970
            mtime -= 2 * _SIGN * 1_000_000_000
        entry = Entry(path, node.mode, node.uid, node.gid, mtime)
        kind = stat.S_IFMT(node.mode)
        attributes = []
        for _, data in node.subvolume.tree.cursor().iter(node.inum, _XATTR_ITEM, 0, ignore_offset=True):
            at = 0
            while at + 30 <= len(data):
                value_size, name_size = unpack_from("<HH", data, at + 25)
                name = bytes(data[at + 30 : at + 30 + name_size])
                attributes.append((name, bytes(data[at + 30 + name_size : at + 30 + name_size + value_size])))
                at += 30 + name_size + value_size
        entry.xattrs = tuple(sorted(attributes))
        if kind == stat.S_IFREG:
            entry.size = node.size
            entry.open = node.open
        elif kind == stat.S_IFLNK:
            entry.target = node.link.encode("utf-8", "surrogateescape")
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            entry.device = os.makedev(node.inode.rdev >> 20, node.inode.rdev & 0xFFFFF)
        return entry, node.inode.nlink
