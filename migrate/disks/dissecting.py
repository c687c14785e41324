"""Reading a guest without mounting it, by the dissect libraries: for plain users, and for what this kernel can't mount.

They are an extra (`pip install 'joey[dissect]'`), since their licence is the AGPL. What they do not read is told as a
loss: no journal of XFS and btrfs is replayed, and attributes that XFS keeps outside of its inodes are not read. Source:
the kernel's documents of ext4, XFS and btrfs for what is decoded here: times, devices, ACLs, attributes.
"""

from __future__ import annotations

import os
import stat
import subprocess
from functools import lru_cache
from importlib.util import find_spec
from struct import pack, unpack_from
from typing import TYPE_CHECKING, Any

from ...compat.errors import JoeyError
from ...compat.files import find_program
from ..trees.entry import Entry, TreeError, shown, text
from ..trees.folder import MAX_DEPTH
from ..trees.paths import resolve
from . import guest
from .blocks import Blocks, DiskError, Extent
from .mounting import copy, is_system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..trees.entry import Content
    from .volumes import Volume

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
_HINT = "the disk may be damaged; or: --reader mount"
_NO_DISSECT = DiskError("the dissect libraries are not in this Python", "pip install 'joey[dissect]'")


def is_here() -> bool:
    """Whether the libraries are installed."""
    return find_spec("dissect") is not None and find_spec("dissect.extfs") is not None


class _Stream:
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


class _System:
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


class _Ext(_System):
    def __init__(self, stream: _Stream) -> None:
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


class _Xfs(_System):
    def __init__(self, stream: _Stream) -> None:
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


class _Btrfs(_System):
    def __init__(self, stream: _Stream, subvolume: str) -> None:
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
        entry = Entry(path, node.mode, node.uid, node.gid, node.mtime_ns)
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


class DissectTree:
    """The joined file systems of a guest. `mounts` are path -> system, the root at b""."""

    def __init__(self, mounts: dict[bytes, _System]) -> None:
        self.losses: list[str] = []  # complete when the walk is
        self._mounts = mounts
        self._listing: Callable[[bytes], tuple[dict[bytes, Any], _System]] = lru_cache(64)(self._list)

    def entries(self) -> Iterator[Entry]:
        """Every entry, in order. Raises TreeError for what the libraries can't read."""
        seen: dict[tuple[int, int], bytes] = {}
        root = self._mounts[b""]
        yield self._made(root, root.root(), b"", seen)
        stack = [(b"", root, iter(sorted(self._listing(b"")[0].items())))]
        while stack:
            folder, system, children = stack[-1]
            name, node = next(children, (b"", None))
            if node is None:
                stack.pop()
                continue
            path = folder + b"/" + name if folder else name
            inside = self._mounts.get(path)
            if inside is not None:
                node = inside.root()
            entry = self._made(inside or system, node, path, seen)
            yield entry
            if entry.kind == "directory":
                if len(stack) >= MAX_DEPTH:
                    raise TreeError(f"{shown(path)} is more than {MAX_DEPTH} directories deep")
                stack.append((path, inside or system, iter(sorted(self._listing(path)[0].items()))))
        found = [item for system in self._mounts.values() for item in system.losses.items()]
        self.losses[:] = [f"{what} of {count} entries: not read" for what, count in found]

    def _made(self, system: _System, node: Any, path: bytes, seen: dict[tuple[int, int], bytes] | None) -> Entry:
        try:
            entry, links = system.entry(node, path)
        except Exception as error:  # each library has its own
            raise TreeError(f"{shown(path)} can't be read: {error}", _HINT) from None
        if seen is not None and links > 1 and entry.kind != "directory":
            first = seen.setdefault((id(system), node.inum), path)
            entry.first = b"" if first == path else first
        if entry.open is not None:
            entry.open = _opener(node, path)
        return entry

    def _list(self, path: bytes) -> tuple[dict[bytes, Any], _System]:
        """The children of a directory by their names, and the file system that it is in. Raises KeyError."""
        if path in self._mounts:
            system = self._mounts[path]
            node = system.root()
        else:
            folder, _, name = path.rpartition(b"/")
            siblings, system = self._listing(folder)
            node = siblings[name]
        try:
            return dict(system.children(node)), system
        except Exception as error:  # each library has its own
            raise TreeError(f"{shown(path)} can't be listed: {error}", _HINT) from None

    def _find(self, path: bytes) -> tuple[_System, Any] | None:
        if path in self._mounts:
            return self._mounts[path], self._mounts[path].root()
        folder, _, name = path.rpartition(b"/")
        try:
            siblings, system = self._listing(folder)
        except (KeyError, NotADirectoryError, TreeError):
            return None
        return (system, siblings[name]) if name in siblings else None

    def status(self, path: bytes) -> Entry | None:
        found = self.resolve(path)
        place = self._find(found)
        return self._made(*place, found, None) if place is not None else None

    def names(self, path: bytes) -> list[bytes]:
        try:
            return sorted(self._listing(self.resolve(path))[0])
        except (KeyError, NotADirectoryError, TreeError):
            return []

    def resolve(self, path: bytes) -> bytes:
        return resolve(path, self._link)

    def _link(self, path: bytes) -> bytes | None:
        place = self._find(path)
        if place is None:
            return None
        entry = self._made(*place, path, None)
        return entry.target if entry.kind == "link" else None


class _Content:
    """A file's content; what the libraries make of a damaged one is a TreeError."""

    def __init__(self, node: Any, path: bytes) -> None:
        self._path = path
        try:
            self._stream = node.open()
        except Exception as error:
            raise self._bad(error) from None

    def readinto(self, buffer: memoryview) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except Exception as error:
            raise self._bad(error) from None

    def close(self) -> None:
        self._stream.close()

    def _bad(self, error: Exception) -> TreeError:
        return TreeError(f"{shown(self._path)} can't be read: {error}", _HINT)


def _opener(node: Any, path: bytes) -> Callable[[], Content]:
    return lambda: _Content(node, path)


def _open(volume: Volume, subvolume: str, work: str) -> _System:
    """A volume's file system. Raises DiskError."""
    assert volume.file_system
    kind = volume.file_system.type
    try:
        if kind.startswith("ext"):
            blocks = _replayed(volume, work) if volume.file_system.dirty else volume.blocks
            return _Ext(_Stream(blocks))
        if kind == "xfs":
            return _Xfs(_Stream(volume.blocks))
        return _Btrfs(_Stream(volume.blocks), subvolume)
    except ImportError:
        raise _NO_DISSECT from None
    except JoeyError:
        raise
    except Exception as error:
        raise DiskError(f"{volume.title} ({kind}) can't be read: {error}", "--reader mount") from None


def _replayed(volume: Volume, work: str) -> Blocks:
    """A copy of an ext volume with its journal replayed, by e2fsck, which takes no privilege. Raises DiskError."""
    tool = find_program("e2fsck")
    if not tool:
        raise DiskError(f"{volume.title} has a journal to replay, and there is no e2fsck here", "install e2fsprogs")
    path = os.path.join(work, f"journal-{os.getpid()}-{id(volume):x}.raw")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        copy(volume.blocks.extents, fd)
        done = subprocess.run(
            [tool, "-fy", "-E", "journal_only", path],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode > 2:
            raise DiskError(f"{volume.title}: its journal can't be replayed: {done.stderr.strip()[-200:]}")
        blocks = Blocks([Extent(path, 0, os.fstat(fd).st_size)])
        blocks.read(0, 1)  # opens it: the name is not needed any more
    finally:
        os.close(fd)
        os.unlink(path)
    return blocks


class DissectGuest:
    """A guest read by dissect, with the same parts as one that is mounted."""

    def __init__(self, tree: DissectTree, volume: Volume, layout: guest.Layout, notes: list[str]) -> None:
        self.tree = tree
        self.volume = volume
        self.layout = layout
        self.notes = notes

    def close(self) -> None:
        """Nothing is mounted."""


def read_guest(work: str, volumes: list[Volume], wanted: str, skipped: list[str]) -> DissectGuest:
    """Read a guest's volumes as its fstab says. `skipped` are mount points to do without. Raises DiskError."""
    found: list[tuple[Volume, _System]] = []
    for volume in guest.candidates(volumes, wanted):
        for subvolume in ("", "subvol=@", "subvol=root", "subvol=@rootfs") if volume.type == "btrfs" else ("",):
            try:
                system = _open(volume, subvolume, work)
            except DiskError:
                if subvolume:
                    continue
                raise
            if is_system(DissectTree({b"": system})):
                found.append((volume, system))
                break
    if not found:
        raise DiskError("no root file system on the disks given", guest.told(volumes))
    if len(found) > 1:
        raise DiskError(
            "more than one root file system: " + ", ".join(v.title for v, _ in found),
            "--root-volume NAME takes one of them",
        )
    volume, system = found[0]
    tree = DissectTree({b"": system})
    layout = guest.layout(guest.parse(text(tree, b"etc/fstab", 1 << 20)), volume, volumes)
    guest.check(layout, skipped)
    mounts = {b"": system}
    for mount in layout.mounts:
        if mount.target not in skipped:
            place = tree.resolve(mount.target.encode("utf-8", "surrogateescape"))
            mounts[place] = _open(mount.volume, mount.subvolume, work)
    used = dict.fromkeys([volume, *(mount.volume for mount in layout.mounts)])
    notes = [
        f"{each.title} ({each.type}): its journal is not replayed by this reader; a disk in use loses its last moments"
        for each in used
        if each.type in ("xfs", "btrfs")
    ]
    return DissectGuest(DissectTree(mounts), volume, layout, notes)
