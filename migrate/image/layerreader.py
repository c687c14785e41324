"""Reading a layer: a tar stream as entries, in its own order, nothing unpacked. Whatever it holds is taken as hostile.

ustar, pax and GNU's long names and large numbers. Names become plain paths; one that leads out of the root is an error.
Source: POSIX pax(1), GNU tar's manual (Standard, Extensions), image-spec layer.md.
"""

from __future__ import annotations

import io
import os
import stat
from base64 import b64decode
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from ..trees import acl
from ..trees.entry import Entry, shown
from . import compress
from .digest import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..trees.entry import Content
    from .compress import Stream

_BLOCK = 512
_LARGEST_HEADER = 8 << 20  # of pax records or a long name
_LONGEST_PATH = 4096
_LONGEST_NAME = 255
_XATTR = b"SCHILY.xattr."
_LISTS = {b"SCHILY.acl.access": b"system.posix_acl_access", b"SCHILY.acl.default": b"system.posix_acl_default"}
_OTHER_XATTR = b"LIBARCHIVE.xattr."  # names percent-encoded, values in base64
_KINDS = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"1": stat.S_IFREG,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}
_MOST_PIECES = 1 << 20
_FILES = (b"0", b"\0", b"7")
_SKIP = 1 << 18
_BEYOND_ALL_TIMES = (1 << 55) * 1_000_000_000  # in ns; ext4 ends in 2446, btrfs with 64 bits of seconds


class _Content:
    """The content of the entry that the reader stands at."""

    __slots__ = ("_reader",)

    def __init__(self, reader: LayerReader) -> None:
        self._reader = reader

    def readinto(self, buffer: memoryview, /) -> int:
        return self._reader.content(buffer)

    def close(self) -> None:
        pass


class Sparse(io.RawIOBase):
    """A file of pieces (place, length) that follow each other in a content; zeros are between them."""

    def __init__(self, content: Content, pieces: list[tuple[int, int]], size: int) -> None:
        self._content = content
        self._pieces = pieces
        self._size = size
        self._at = 0
        self._next = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start, length = self._pieces[self._next] if self._next < len(self._pieces) else (self._size, 0)
        if self._at < start:
            count = min(len(buffer), start - self._at)
            buffer[:count] = bytes(count)
        else:
            count = self._content.readinto(buffer[: start + length - self._at]) or 0
        self._at += count
        if length and self._at == start + length:
            self._next += 1
        return count

    def close(self) -> None:
        if not self.closed:
            self._content.close()
        super().close()


class LayerReader:
    """A layer that is being read. `file` gives the tar stream, uncompressed; `name` is for messages.

    `unpacked` counts its bytes so far; more than `most` of them, or `most_entries` entries, are an error.
    """

    def __init__(self, file: Stream, name: str, most: int = 1 << 60, most_entries: int = 1 << 40) -> None:
        self._file = file
        self._name = name
        self._most = most
        self._most_entries = most_entries
        self._left = 0  # of the content at hand
        self.pieces: list[tuple[int, int]] | None = None  # of the file at hand, where holes of it are left out
        self._pad = 0
        self._errors = compress.errors()
        self.unpacked = 0
        self.entries = 0
        self.losses: list[str] = []  # what entries had and can't be told

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, in the layer's order; content is to be read before the next. Raises ImageError, OSError."""
        extra: dict[bytes, bytes] = {}
        common: dict[bytes, bytes] = {}
        headers = 0
        while True:
            self._skip()
            self.pieces = None
            head = self._exactly(_BLOCK, at_end=True)
            if not head:
                return
            if not any(head):
                self._drain()
                return
            self._check_sum(head)
            kind = head[156:157]
            size = self._number(head[124:136])
            if kind in (b"x", b"g", b"L", b"K"):
                headers += size
                if size < 0 or headers > _LARGEST_HEADER:
                    raise self._bad(f"entry {self.entries + 1} has headers of {headers} bytes")
                data = self._exactly(size)
                self._exactly(-size % _BLOCK)
                if kind == b"x":
                    extra.update(self._records(data))
                elif kind == b"g":
                    common.update(self._records(data))
                else:
                    extra[b"path" if kind == b"L" else b"linkpath"] = data.rstrip(b"\0")
                if sum(len(key) + len(value) for key, value in common.items()) > _LARGEST_HEADER:
                    raise self._bad(f"headers for all entries of more than {_LARGEST_HEADER} bytes")
                continue
            headers = 0
            self.entries += 1
            if self.entries > self._most_entries:
                raise self._bad(f"more than {self._most_entries} entries")
            yield self._entry(head, kind, size, {**common, **extra} if common else extra)
            extra = {}

    def content(self, buffer: memoryview) -> int:
        """Fill a buffer from the content at hand; 0 at its end."""
        want = min(len(buffer), self._left)
        if not want:
            return 0
        count = self._read_into(buffer[:want])
        if not count:
            raise self._bad("it ends amid a file")
        self._left -= count
        return count

    @property
    def stored(self) -> int:
        """How many bytes of the content at hand are still to come."""
        return self._left

    def seek_over(self, file: IO[bytes]) -> None:
        """Pass over the content at hand without reading it, in the file that the stream is."""
        file.seek(self._left + self._pad, 1)
        self._left = self._pad = 0

    def raw(self, buffer: memoryview) -> int:
        """The stream's own bytes, for who copies a layer and does not look into it."""
        return self._read_into(buffer)

    def _bad(self, what: str) -> ImageError:
        return ImageError(f"layer {self._name}: {what}")

    def _read_into(self, buffer: memoryview) -> int:
        try:
            count = self._file.readinto(buffer)
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._bad(f"its compressed stream is damaged: {error}") from None  # bz2 and gzip say it so
        except self._errors as error:
            raise self._bad(f"its compressed stream is damaged: {error or type(error).__name__}") from None
        self.unpacked += count
        if self.unpacked > self._most:
            raise self._bad(f"more than {self._most} bytes")
        return int(count)

    def _exactly(self, size: int, at_end: bool = False) -> bytes:
        """So many bytes; none, where `at_end`, at the end of the stream."""
        data = bytearray(size)
        view = memoryview(data)
        filled = 0
        while filled < size:
            count = self._read_into(view[filled:])
            if not count:
                if at_end and not filled:
                    return b""
                raise self._bad("it ends amid an entry")
            filled += count
        return bytes(data)

    def _skip(self) -> None:
        """Pass over what is left of the content at hand."""
        left = self._left + self._pad
        self._left = self._pad = 0
        if left <= _BLOCK:
            if left:
                self._exactly(left)
            return
        scratch = memoryview(bytearray(min(left, _SKIP)))
        while left:
            count = self._read_into(scratch[: min(left, _SKIP)])
            if not count:
                raise self._bad("it ends amid a file")
            left -= count

    def _drain(self) -> None:
        """Read what follows the end: zeros, as far as tar fills its last record."""
        scratch = memoryview(bytearray(_SKIP))
        while self._read_into(scratch):
            pass

    def _check_sum(self, head: bytes) -> None:
        total = sum(head) - sum(head[148:156]) + 256
        if self._number(head[148:156]) != total:
            raise self._bad(f"entry {self.entries + 1} has a header with a wrong check sum")

    def _number(self, field: bytes) -> int:
        """Octal digits, or GNU's base 256."""
        if field[0] & 0x80:
            value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
            if field[0] == 0xFF:  # negative, as two's complement
                value = int.from_bytes(field, "big", signed=True)
            return value
        digits = field.strip(b" \0")
        try:
            return int(digits, 8) if digits else 0
        except ValueError:
            raise self._bad(f"entry {self.entries + 1} has a header with a number that is none") from None

    def _records(self, data: bytes) -> dict[bytes, bytes]:
        found = {}
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + 20)
            digits = data[at:space] if space > 0 else b""
            size = int(digits) if digits.isdigit() else 0
            record = data[space + 1 : at + size]
            key, equals, value = record.partition(b"=")
            if size < 5 or at + size > len(data) or not equals or not value.endswith(b"\n"):
                raise self._bad(f"entry {self.entries + 1} has a damaged pax header")
            found[key] = value[:-1]
            at += size
        return found

    def _attributes(self, extra: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Extended attributes, of GNU tar, star and bsdtar."""
        out = {}
        for key, value in extra.items():
            if key.startswith(_OTHER_XATTR):
                try:
                    out[unquote_to_bytes(key[len(_OTHER_XATTR) :])] = b64decode(value + b"==")
                except ValueError:
                    raise self._bad(f"entry {self.entries} has an attribute that is not base64") from None
        for key, name in _LISTS.items():
            if key in extra:
                try:
                    out[name] = acl.from_text(extra[key])
                except ValueError as error:
                    self.losses.append(f"{self._name}, entry {self.entries}: its {key.decode()} is lost: {error}")
        out.update((key[len(_XATTR) :], value) for key, value in extra.items() if key.startswith(_XATTR))
        return out

    def _decimal(self, value: bytes, what: str) -> int:
        if not value.isdigit() or len(value) > 19:
            raise self._bad(f"a pax header with a {what} that is no number")
        return int(value)

    def _time(self, value: bytes) -> int:
        """Seconds with a fraction as nanoseconds."""
        sign = -1 if value.startswith(b"-") else 1
        whole, _, fraction = value.lstrip(b"-").partition(b".")
        if not (whole + fraction).isdigit() or len(whole) > 18:
            raise self._bad("a pax header with a time that is none")
        return sign * (int(whole or b"0") * 1_000_000_000 + int(fraction[:9].ljust(9, b"0")))

    def _entry(self, head: bytes, kind: bytes, size: int, extra: dict[bytes, bytes]) -> Entry:
        name = head[:100].split(b"\0", 1)[0]
        if head[257:263] == b"ustar\0" and head[345]:
            name = head[345:500].split(b"\0", 1)[0] + b"/" + name
        link = head[157:257].split(b"\0", 1)[0]
        uid, gid = self._number(head[108:116]), self._number(head[116:124])
        mtime = self._number(head[136:148]) * 1_000_000_000
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if extra:
            name = extra.get(b"path", name)
            link = extra.get(b"linkpath", link)
            name = extra.get(b"GNU.sparse.name", name)
            if b"size" in extra:
                size = self._decimal(extra[b"size"], "size")
            if b"uid" in extra:
                uid = self._decimal(extra[b"uid"], "user")
            if b"gid" in extra:
                gid = self._decimal(extra[b"gid"], "group")
            if b"mtime" in extra:
                mtime = self._time(extra[b"mtime"])
            xattrs = tuple(sorted(self._attributes(extra).items()))
        if any(b"\0" in key for key, _ in xattrs):
            raise self._bad(f"{shown(name)} has an attribute whose name no file can have")
        sparse = kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in extra)
        if kind == b"S":
            kind = b"0"
        if kind in (b"0", b"\0") and name.endswith(b"/"):
            kind = b"5"  # as very old archives have directories
        if kind not in _KINDS:
            raise self._bad(f"{shown(name)} is of a kind {kind!r}, which no layer should have")
        if size < 0 or not 0 <= uid < 1 << 32 or not 0 <= gid < 1 << 32 or abs(mtime) >= _BEYOND_ALL_TIMES:
            raise self._bad(f"{shown(name)} has a size, a time or an owner that can't be")
        path = self._plain(name)
        entry = Entry(path, _KINDS[kind] | (self._number(head[100:108]) & 0o7777), uid, gid, mtime, xattrs=xattrs)
        if kind == b"1":
            entry.first = self._plain(link)
            if not entry.first:
                raise self._bad(f"{shown(path)} is a link to the root")
        elif kind == b"2":
            if not link or len(link) > _LONGEST_PATH or b"\0" in link:
                raise self._bad(f"{shown(path)} is a symbolic link to nothing, or to too long a path")
            entry.target = link
        elif kind in (b"3", b"4"):
            major, minor = self._number(head[329:337]), self._number(head[337:345])
            if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
                raise self._bad(f"{shown(path)} is device {major}:{minor}, which can't be")
            entry.device = os.makedev(major, minor)
        elif kind in _FILES:
            entry.size = self._left = size
            self._pad = -size % _BLOCK
            entry.open = lambda: _Content(self)
            if sparse:
                self._sparse(entry, head, extra)
        return entry

    def _sparse(self, entry: Entry, head: bytes, extra: dict[bytes, bytes]) -> None:
        """A file whose holes were left out. Source: GNU tar's manual, Storing Sparse Files."""
        if b"GNU.sparse.major" in extra:
            size = self._decimal(extra.get(b"GNU.sparse.realsize", b""), "size")
            words = self._map_in_content()
        elif b"GNU.sparse.map" in extra:
            size = self._decimal(extra.get(b"GNU.sparse.size", b""), "size")
            words = extra[b"GNU.sparse.map"].split(b",")
        elif head[156:157] == b"S":
            size = self._number(head[483:495])
            words = self._map_in_headers(head)
        else:
            raise self._bad(f"{shown(entry.path)} is stored as a sparse file in a way that joey does not read")
        numbers = [self._decimal(word, "place") for word in words]
        pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
        ends = [0, *(at + length for at, length in pieces)]
        packed = sum(length for _, length in pieces)
        if (
            len(numbers) % 2
            or packed != self._left
            or ends[-1] > size
            or any(at < end for (at, _), end in zip(pieces, ends, strict=False))
        ):
            raise self._bad(f"{shown(entry.path)} is a sparse file whose pieces make no sense")
        entry.size, entry.holes = size, size - packed
        self.unpacked += entry.holes
        if self.unpacked > self._most:
            raise self._bad(f"more than {self._most} bytes")
        kept = self.pieces = [(at, length) for at, length in pieces if length]
        entry.open = lambda: Sparse(_Content(self), kept, size)

    def _map_in_headers(self, head: bytes) -> list[bytes]:
        out: list[bytes] = []
        block, first, count, more = head, 386, 4, 482
        while True:
            fields = [block[at : at + 12] for at in range(first, first + 24 * count, 12)]
            out += [b"%d" % self._number(field) for field in fields if field.strip(b"\0 ")]
            if not block[more]:
                return out
            if len(out) > 2 * _MOST_PIECES:
                raise self._bad("a sparse file of too many pieces")
            block, first, count, more = self._exactly(_BLOCK), 0, 21, 504

    def _map_in_content(self) -> list[bytes]:
        """Lines of decimals before the content: how many pieces, where each is and how long."""
        data = b""
        while True:
            lines = data.split(b"\n")
            if len(lines) > 1 and len(lines) > 1 + 2 * (count := self._decimal(lines[0], "count of pieces")):
                return lines[1 : 1 + 2 * count]
            if len(data) > 48 * _MOST_PIECES or self._left < _BLOCK:
                raise self._bad("a sparse file of too many pieces")
            data += self._exactly(_BLOCK)
            self._left -= _BLOCK

    def _plain(self, name: bytes) -> bytes:
        """A name as a path from the root. Raises ImageError for one that leads out of it."""
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." in parts or b"\0" in name:
            raise self._bad(f"the name {shown(name)} leads out of the root")
        if len(name) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in parts):
            raise self._bad(f"a name of {len(name)} bytes")
        return b"/".join(parts)
