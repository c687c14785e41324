"""Who owns the files of a container that a user without privilege runs: written down, for all are that user's.

For files and directories in attributes of their own: `user.rootlesscontainers`, which umoci and `joey image unpack`
write too (the message Resource of rootlesscontainers.proto: uint32 uid = 1, gid = 2), and `user.joey.mode` for a mode
that the file can't have, and a device node's numbers. Whatever can't have attributes (links, pipes, sockets, files of
2.6.32's tmpfs) is in a table: lines with a checksum that are only ever appended, so that a killed joey loses the last
one at most. Where neither says anything, a file of the user's is root's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from binascii import crc32

from .. import files, xattrs
from ..errors import KernelError
from ..users.mapping import OVERFLOW

OWNER, MODE = "user.rootlesscontainers", "user.joey.mode"
HIDDEN = (OWNER, MODE)
_NO_ATTRIBUTE = (errno.ENODATA, errno.ENOTSUP, errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP)
_GARBAGE = 1000  # lines that mean nothing any more, before the table is written anew


class Owner:
    """What a file looks like: ids, the whole st_mode, and a device node's number (major, minor)."""

    __slots__ = ("device", "gid", "mode", "uid")

    def __init__(self, uid: int, gid: int, mode: int, device: tuple[int, int] = (0, 0)) -> None:
        self.uid = uid
        self.gid = gid
        self.mode = mode
        self.device = device

    @property
    def is_device(self) -> bool:
        return stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)


def table_of(root: str) -> str:
    """Where the table of a root file system is."""
    return f"{root.rstrip('/')}.joey-owners"


def disk_mode(mode: int) -> int:
    """The permission bits a file really gets: all that its user needs to act as root does, and no set-id bits, which
    would be the host's."""
    return mode & 0o1777 | (0o700 if stat.S_ISDIR(mode) else 0o600)


class Owners:
    """`uid`, `gid`: the host's ids of the user. `table`: its file; `home`: a directory of the file system whose number
    may be another one tomorrow."""

    def __init__(self, uid: int, gid: int, table: str, home: str) -> None:
        self._uid = uid
        self._gid = gid
        self._table = _Table(table)
        self._home = os.stat(home).st_dev
        self._without: set[int] = set()  # file systems without attributes

    def of(self, path: str, status: os.stat_result, follow: bool = False) -> Owner:
        """What a file of this status looks like. `follow`: the path is a link of the kernel's."""
        if status.st_uid != self._uid:
            gid = 0 if status.st_gid == self._gid else OVERFLOW
            return Owner(OVERFLOW, gid, status.st_mode, (os.major(status.st_rdev), os.minor(status.st_rdev)))
        found = self._table.get(self._key(status))
        mode = status.st_mode
        numbers = (os.major(status.st_rdev), os.minor(status.st_rdev))
        made = Owner(0, 0, mode, numbers)
        if found and _fits(found.mode, mode):
            made.uid, made.gid = found.uid, found.gid
            _take_mode(found.mode, found.device, made)
            return made
        if self._can_have_attributes(status):
            if data := self._get(path, OWNER, follow, status):
                made.uid, made.gid = decode(data)
            if data := self._get(path, MODE, follow, status):
                _read_mode(data, made)
        return made

    def set(self, path: str, status: os.stat_result, owner: Owner, follow: bool = False) -> None:
        """Write down what a file of the user's is to look like. Raises OSError."""
        plain = owner.mode == status.st_mode and not owner.is_device
        if self._can_have_attributes(status):
            try:
                self._attribute(path, OWNER, encode(owner.uid, owner.gid) if owner.uid or owner.gid else b"", follow)
                self._attribute(path, MODE, b"" if plain else _written_mode(owner), follow)
                self._table.drop(self._key(status))
                return
            except KernelError as error:
                if error.errno != errno.ENOTSUP:
                    raise OSError(error.errno, os.strerror(error.errno)) from None
                self._without.add(status.st_dev)
        if plain and not owner.uid and not owner.gid:
            self._table.drop(self._key(status))
        else:
            self._table.put(self._key(status), owner)

    def gone(self, status: os.stat_result, always: bool = False) -> None:
        """A file that had this status has lost a name. `always`: whatever names it has."""
        if always or status.st_nlink <= 1 or stat.S_ISDIR(status.st_mode):
            self._table.drop(self._key(status))

    @property
    def has_table(self) -> bool:
        return self._table.is_used()

    def _key(self, status: os.stat_result) -> str:
        place = "root" if status.st_dev == self._home else f"{status.st_dev:x}"
        return f"{place}:{status.st_ino}"

    def _can_have_attributes(self, status: os.stat_result) -> bool:
        kind = stat.S_IFMT(status.st_mode)
        return kind in (stat.S_IFREG, stat.S_IFDIR) and status.st_dev not in self._without

    def _get(self, path: str, name: str, follow: bool, status: os.stat_result) -> bytes:
        try:
            return xattrs.get_at(path, name, follow)
        except KernelError as error:
            if error.errno == errno.ENOTSUP:
                self._without.add(status.st_dev)
            if error.errno in _NO_ATTRIBUTE:
                return b""
            raise OSError(error.errno, os.strerror(error.errno)) from None

    @staticmethod
    def _attribute(path: str, name: str, value: bytes, follow: bool) -> None:
        if value:
            xattrs.set_at(path, name, value, follow)
            return
        try:
            xattrs.remove_at(path, name, follow)
        except KernelError as error:
            if error.errno != errno.ENODATA:
                raise


def encode(uid: int, gid: int) -> bytes:
    return b"\x08" + _varint(uid) + b"\x10" + _varint(gid)


def decode(data: bytes) -> tuple[int, int]:
    """uid and gid of the attribute; what can't be read is nobody's."""
    found = {1: 0, 2: 0}
    at = 0
    try:
        while at < len(data):
            tag, at = _read_varint(data, at)
            value, at = _read_varint(data, at)
            if tag & 7 or not 0 <= value <= 0xFFFFFFFE:
                return OVERFLOW, OVERFLOW
            found[tag >> 3] = value
    except IndexError:
        return OVERFLOW, OVERFLOW
    return found[1], found[2]


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80 or shift > 63:
            return value, at


def _written_mode(owner: Owner) -> bytes:
    return f"{owner.mode:o} {owner.device[0]}:{owner.device[1]}".encode()


def _read_mode(data: bytes, into: Owner) -> None:
    try:
        mode, _, device = data.decode("ascii").partition(" ")
        major, _, minor = device.partition(":")
        numbers = int(major), int(minor)
        whole = int(mode, 8)
    except ValueError:
        return
    if not 0 <= whole <= 0o177777 or not all(0 <= number < 1 << 20 for number in numbers):
        return
    if _fits(whole, into.mode):
        _take_mode(whole, numbers, into)


def _fits(written: int, found: int) -> bool:
    """Whether a mode can be that of a file whose mode is found: else it has the number of a former file."""
    kinds = (found, stat.S_IFCHR, stat.S_IFBLK) if stat.S_ISREG(found) else (found,)
    return stat.S_IFMT(written) in map(stat.S_IFMT, kinds)


def _take_mode(written: int, device: tuple[int, int], into: Owner) -> None:
    """The mode that was written down, unless somebody outside has changed the file's since."""
    if stat.S_IMODE(into.mode) in (disk_mode(written), stat.S_IMODE(written)):
        into.mode, into.device = written, device
    elif stat.S_IFMT(written) != stat.S_IFMT(into.mode):
        into.mode, into.device = stat.S_IFMT(written) | stat.S_IMODE(into.mode), device


class _Table:
    """Lines "KEY UID GID MODE MAJOR:MINOR CRC", and "KEY - CRC" for one that is no more. Several joeys may share it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._entries: dict[str, Owner] = {}
        self._read = 0  # bytes
        self._inode = 0
        self._lines = 0

    def is_used(self) -> bool:
        self._refresh()
        return bool(self._entries)

    def get(self, key: str) -> Owner | None:
        self._refresh()
        return self._entries.get(key)

    def put(self, key: str, owner: Owner) -> None:
        self._append(f"{key} {owner.uid} {owner.gid} {owner.mode:o} {owner.device[0]}:{owner.device[1]}")
        self._refresh()

    def drop(self, key: str) -> None:
        if self.get(key):
            self._append(f"{key} -")
            self._refresh()

    def _refresh(self) -> None:
        """Read what has been written since."""
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            if self._inode:
                self._entries, self._read, self._inode, self._lines = {}, 0, 0, 0
            return
        if status.st_ino != self._inode or status.st_size < self._read:
            self._entries, self._read, self._inode, self._lines = {}, 0, status.st_ino, 0
        if status.st_size == self._read:
            return
        with open(self._path, "rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data.rpartition(b"\n")[0] + b"\n" if b"\n" in data else b""
        self._read += len(whole)
        for line in whole.splitlines():
            self._lines += 1
            self._take(line)

    def _take(self, line: bytes) -> None:
        text, _, check = line.rpartition(b" ")
        if check != b"%08x" % crc32(text):
            return  # cut short by a kill
        words = text.decode("ascii", "replace").split()
        if words[1:] == ["-"]:
            self._entries.pop(words[0], None)
            return
        major, _, minor = words[4].partition(":")
        self._entries[words[0]] = Owner(int(words[1]), int(words[2]), int(words[3], 8), (int(major), int(minor)))

    def _append(self, text: str) -> None:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                status = os.fstat(fd)
                if not status.st_nlink:
                    continue  # somebody has written it anew
                size = status.st_size
                torn = size and os.pread(fd, 1, size - 1) != b"\n"
                line = text.encode() + b" %08x\n" % crc32(text.encode())
                files.write_all(fd, b"\n" * bool(torn) + line)
                self._refresh()
                if self._lines > 2 * len(self._entries) + _GARBAGE:
                    lines = [self._line(key, owner) for key, owner in self._entries.items()]
                    files.write_atomically(self._path, b"".join(lines))
                return
            finally:
                os.close(fd)

    @staticmethod
    def _line(key: str, owner: Owner) -> bytes:
        text = f"{key} {owner.uid} {owner.gid} {owner.mode:o} {owner.device[0]}:{owner.device[1]}".encode()
        return text + b" %08x\n" % crc32(text)
