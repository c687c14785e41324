"""What a host says of its files: the listing of GNU find, and the mounts of its disks. Source: find(1), proc(5)."""

from __future__ import annotations

import stat
from typing import IO, NamedTuple

from ...compat import files
from ...compat.files import Mount
from ...runtime.tables import plain
from ..trees.entry import Entry
from ..trees.paths import in_order
from .ssh import SshError

FORMAT = "%y\\0%m\\0%U\\0%G\\0%s\\0%b\\0%T@\\0%C@\\0%D:%i\\0%n\\0%l\\0%p\\0"
_FIELDS = 12
_KINDS = {
    "f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
}  # fmt: skip
_DISKS = frozenset("ext2 ext3 ext4 xfs btrfs reiserfs jfs f2fs overlay rootfs zfs".split())
_NETWORK = frozenset("nfs nfs4 cifs smb3 smbfs 9p ceph glusterfs lustre gfs2 ocfs2 afs".split())
_CHUNK = 1 << 20


class Row(NamedTuple):
    """A line of the listing: what tells whether a path is as it was (`state`), and its entry."""

    state: bytes
    entry: Entry


def states(path: str) -> dict[bytes, bytes]:
    with open(path, "rb") as file:
        fields = file.read().split(b"\0")
    return dict(zip(fields[0::2], fields[1::2], strict=False))


def write_states(path: str, found: dict[bytes, bytes]) -> None:
    with open(path, "wb") as file:
        for name, state in found.items():
            file.write(name + b"\0" + state + b"\0")


def mounts(table: bytes) -> tuple[list[str], list[str]]:
    """The mount points of disks in a table (mountinfo, or /proc/mounts of kernels before 2.6.26), each file system
    once, where most of it is; notes of what is not read.
    """
    found: dict[tuple[str, str], Mount] = {}
    notes = []
    for mount in _table(table.decode("utf-8", "surrogateescape")):
        place, kind, device = mount.target, mount.fstype, mount.source
        where = f"{plain(place)} ({kind})"
        volume = next((option for option in mount.options if option.startswith("subvol=")), "")
        if place == "/" or kind in _DISKS:
            known = found.get((device, volume))
            if known is None or place == "/" or (len(mount.root) < len(known.root) and known.target != "/"):
                found[device, volume] = mount
        elif kind in _NETWORK or kind.startswith("fuse.ssh") or device.startswith("//"):
            notes.append(f"{where} comes from the network: its files are not in the image")
        elif (device.startswith("/dev/") or kind.startswith("fuse.")) and not device.startswith("/dev/loop"):
            notes.append(f"{where} is not read: its files are not in the image")
    return list(dict.fromkeys(["/", *(mount.target for mount in found.values())])), notes


def _table(text: str) -> list[Mount]:
    if found := files.mounts(text):
        return found
    rows = [line.split(" ") for line in text.splitlines()]
    return [
        Mount(files.unescape(row[1]), row[2], files.unescape(row[0]), tuple(row[3].split(",")), "")
        for row in rows
        if len(row) >= 4
    ]


def rows(stream: IO[bytes]) -> dict[bytes, Row]:
    """A listing's rows by path. Raises SshError."""
    found: dict[bytes, Row] = {}
    first: dict[bytes, bytes] = {}
    rest = b""
    pending: list[bytes] = []
    while data := stream.read(_CHUNK):
        parts = (rest + data).split(b"\0")
        rest = parts.pop()
        pending += parts
        whole = len(pending) // _FIELDS * _FIELDS
        for at in range(0, whole, _FIELDS):
            _row(pending[at : at + _FIELDS], found)
        del pending[:whole]
    ordered = sorted(found, key=in_order)
    for path in ordered:
        row = found[path]
        inode = row.state.split(b" ")[-1]
        if row.entry.kind == "file" and row.entry.device:
            row.entry.device = 0
            row.entry.first = first.setdefault(inode, path)
            if row.entry.first == path:
                row.entry.first = b""
    for path in ordered:  # a folder that another mount covers is not listed, and what is in it may be
        folder = path.rpartition(b"/")[0]
        while folder not in found:
            found[folder] = Row(b"", Entry(folder, stat.S_IFDIR | 0o755, 0, 0, 0))
            folder = folder.rpartition(b"/")[0]
    return {path: found[path] for path in sorted(found, key=in_order)}


def _row(fields: list[bytes], rows: dict[bytes, Row]) -> None:
    kind, mode, uid, gid, size, blocks, mtime, ctime, inode, links, target, path = fields
    path = b"/".join(part for part in path.split(b"/") if part not in (b"", b"."))
    form = _KINDS.get(kind.decode("ascii", "replace"))
    if form is None or b".." in path.split(b"/"):
        return
    try:
        seconds, _, fraction = mtime.partition(b".")
        when = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0")
        entry = Entry(path, form | int(mode, 8), int(uid), int(gid), when)
        if form == stat.S_IFREG:
            entry.size = int(size)
            entry.holes = max(0, entry.size - int(blocks) * 512)
            entry.device = int(links) > 1  # until the first name is known
        elif form == stat.S_IFLNK:
            entry.target = target
    except ValueError:
        raise SshError(f"a line of the listing makes no sense: {fields!r}"[:300], "find must be GNU's") from None
    rows[path] = Row(b" ".join((kind, mode, uid, gid, size, mtime, ctime, target.replace(b" ", b"%"), inode)), entry)
