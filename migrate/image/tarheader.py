"""The header of an entry in a layer, made by hand: `tarfile` takes ten times as long.

ustar, with pax records for what does not fit: nanoseconds, long or other than ASCII names, large numbers, extended
attributes. Source: POSIX pax(1); `SCHILY.xattr.` as GNU tar, Go's archive/tar and the image-spec's readers take it.
"""

from __future__ import annotations

import os
import stat

from ..trees.entry import Entry

BLOCK = 512
_NUMBERS = 0o7777777  # what seven octal digits hold
_SECONDS = 0o77777777777
_XATTR = b"SCHILY.xattr."
_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
END = bytes(2 * BLOCK)


def header(entry: Entry) -> bytes:
    """The blocks before an entry's content. The root of the tree is "./". Raises KeyError for a socket."""
    kind = stat.S_IFMT(entry.mode)
    type_flag = _TYPES[kind]
    path = entry.path or b"."
    if kind == stat.S_IFDIR:
        path += b"/"
    link = entry.target
    size = entry.size if kind == stat.S_IFREG else 0
    if entry.first:
        type_flag, link, size = b"1", entry.first, 0
    records: list[tuple[bytes, bytes]] = []

    prefix, name = b"", path
    if len(path) > 100 or not path.isascii():
        prefix, name = _split(path) if path.isascii() else (b"", b"")
        if not name:
            records.append((b"path", path))
            name = path[:100]
    if len(link) > 100 or not link.isascii():
        records.append((b"linkpath", link))
        link = link[:100]
    uid, gid = entry.uid, entry.gid
    if uid > _NUMBERS:
        records.append((b"uid", b"%d" % uid))
        uid = 0
    if gid > _NUMBERS:
        records.append((b"gid", b"%d" % gid))
        gid = 0
    size_field = size
    if size > _SECONDS:
        records.append((b"size", b"%d" % size))
        size_field = 0
    seconds, rest = divmod(entry.mtime, 1_000_000_000)
    if rest or not 0 <= seconds <= _SECONDS:
        records.append((b"mtime", _time(entry.mtime)))
        seconds = min(max(seconds, 0), _SECONDS)
    if not entry.first:
        records += [(_XATTR + key, value) for key, value in entry.xattrs]

    major = minor = 0
    if entry.device:
        major, minor = os.major(entry.device), os.minor(entry.device)
    block = _block(name, prefix, entry.mode & 0o7777, uid, gid, size_field, seconds, type_flag, link, major, minor)
    return _extended(records, name) + block if records else block


def padding(size: int) -> bytes:
    """What follows content of a size up to the next block."""
    return bytes(-size % BLOCK)


def _block(
    name: bytes,
    prefix: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    seconds: int,
    type_flag: bytes,
    link: bytes,
    major: int,
    minor: int,
) -> bytes:
    head = b"%-100b%07o\0%07o\0%07o\0%011o\0%011o\0" % (b"", mode, uid, gid, size, seconds)
    head = name.ljust(100, b"\0") + head[100:]
    tail = b"%b%b" % (type_flag, link.ljust(100, b"\0")) + b"ustar\00000" + bytes(64)
    tail += b"%07o\0%07o\0" % (major, minor) + prefix.ljust(167, b"\0")
    total = sum(head) + sum(tail) + 256  # eight spaces stand for the sum while it is made
    return head + b"%06o\0 " % total + tail


def _split(path: bytes) -> tuple[bytes, bytes]:
    """A long path as ustar's two fields, joined by a slash; empty where it does not fit."""
    cut = path.rfind(b"/", 0, min(156, len(path) - 1))
    if cut <= 0 or len(path) - cut - 1 > 100:
        return b"", b""
    return path[:cut], path[cut + 1 :]


def _time(nanoseconds: int) -> bytes:
    seconds, rest = divmod(abs(nanoseconds), 1_000_000_000)
    sign = b"-" if nanoseconds < 0 else b""
    return b"%b%d.%09d" % (sign, seconds, rest) if rest else b"%b%d" % (sign, seconds)


def _extended(records: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    """A pax header block with its records."""
    if any(key in (b"path", b"linkpath") and not _is_utf8(value) for key, value in records):
        records.insert(0, (b"hdrcharset", b"BINARY"))
    body = b"".join(_record(key, value) for key, value in records)
    title = (b"PaxHeaders/" + name.rstrip(b"/").rpartition(b"/")[2])[:100]
    if not title.isascii():
        title = b"PaxHeaders/x"
    return _block(title, b"", 0o644, 0, 0, len(body), 0, b"x", b"", 0, 0) + body + padding(len(body))


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts its own digits."""
    bare = len(key) + len(value) + 3
    size = bare + len(str(bare))
    if len(str(size)) > len(str(bare)):
        size += 1
    return b"%d %b=%b\n" % (size, key, value)
