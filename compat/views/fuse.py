"""A read-only FUSE file system of a few files, by the kernel's protocol and nothing else: old hosts have no libfuse.

Speaks protocol 7.13, which is Linux 2.6.32's; later kernels speak it too. Source: <linux/fuse.h>, fuse(4).
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from struct import pack, unpack_from

from .. import libc
from ..constants import MS_NODEV, MS_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_INIT, _OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _DESTROY, _BATCH_FORGET = 26, 27, 28, 29, 36, 38, 42
_ACCESS, _FLUSH = 34, 25
_MAJOR, _MINOR = 7, 13
_MAX_WRITE = 4096
_BUFFER = 1 << 16
_ROOT = 1
_DIRECT_IO = 1
_FRESH = 60  # seconds for which names and attributes are good
_MOMENT = 0.05  # seconds
_OPEN_FILES = 1024  # snapshots that are kept; whoever has more open reads the newest content instead


def mount(target: str, fd: int) -> None:
    """Mount a file system that is to be served on `fd` (of /dev/fuse), for everybody to read. Raises KernelError."""
    data = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc.mount("joey-views", target, "fuse", MS_NOSUID | MS_NODEV, data)


class Server:
    """Serves files that `read` gives the content of, made anew at each open. `fd` is of /dev/fuse."""

    def __init__(self, fd: int, names: list[str], read: Callable[[str], bytes]) -> None:
        self._fd = fd
        self._names = sorted(names)
        self._read = read
        self._open: dict[int, bytes] = {}
        self._next = 1
        self._recent: dict[int, tuple[float, bytes]] = {}  # when it was made, and the content
        self._born = int(time.time())

    def wait(self, seconds: float) -> bool:
        """Answer a request that comes within some seconds; False once the file system is unmounted. Raises OSError."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return True
        try:
            request = os.read(self._fd, _BUFFER + _MAX_WRITE)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):  # it was taken back meanwhile
                return True
            if error.errno == errno.ENODEV:
                return False
            raise
        size, operation, unique, node = unpack_from("=IIQQ", request)
        if size < 40 or len(request) < 40:
            return True
        if operation in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return True  # these have no answer
        try:
            answer = self._answer(operation, node, request[40:])
            number = 0
        except OSError as error:
            answer, number = b"", -(error.errno or errno.EIO)
        except Exception:  # a figure that could not be read; the file system goes on
            answer, number = b"", -errno.EIO
        try:
            os.write(self._fd, pack("=IiQ", 16 + len(answer), number, unique) + answer)
        except OSError as error:
            if error.errno != errno.ENOENT:  # who asked has ended
                return bool(error.errno != errno.ENODEV)
        return bool(operation != _DESTROY)

    def _answer(self, operation: int, node: int, body: bytes) -> bytes:
        if operation == _INIT:
            minor = min(_MINOR, int(unpack_from("=I", body, 4)[0]))
            return pack("=IIIIHHI", _MAJOR, minor, 0, 0, 0, 0, _MAX_WRITE)
        if operation == _LOOKUP:
            name = os.fsdecode(body.split(b"\0", 1)[0])
            if node != _ROOT or name not in self._names:
                raise OSError(errno.ENOENT, "")
            number = self._names.index(name) + 2
            return pack("=QQQQII", number, 0, _FRESH, _FRESH, 0, 0) + self._attributes(number)
        if operation == _GETATTR:
            return pack("=QII", _FRESH, 0, 0) + self._attributes(node)
        if operation == _OPEN:
            return self._opened(node, int(unpack_from("=I", body)[0]))
        if operation == _READ:
            handle, offset, count = unpack_from("=QQI", body)
            content = self._open.get(handle)
            return (self._content(node) if content is None else content)[offset : offset + count]
        if operation == _RELEASE:
            self._open.pop(int(unpack_from("=Q", body)[0]), None)
            return b""
        if operation == _READDIR:
            return self._entries(*unpack_from("=QQI", body)[1:])
        if operation == _OPENDIR:
            return pack("=QII", 0, 0, 0)
        if operation == _STATFS:
            return pack("=QQQQQIIII24x", 0, 0, 0, len(self._names), 0, 4096, 255, 4096, 0)
        if operation in (_RELEASEDIR, _DESTROY, _FLUSH, _ACCESS):
            return b""
        raise OSError(errno.ENOSYS, "")

    def _content(self, node: int) -> bytes:
        """What a file has now; the same for a moment, so that it is as long as its size was told to be."""
        made, content = self._recent.get(node, (0.0, b""))
        if not made or not 0 <= time.monotonic() - made < _MOMENT:
            content = self._read(self._names[self._place(node)])
            self._recent[node] = time.monotonic(), content
        return content

    def _place(self, node: int) -> int:
        if not 2 <= node < len(self._names) + 2:
            raise OSError(errno.ENOENT, "")
        return node - 2

    def _opened(self, node: int, flags: int) -> bytes:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EACCES, "")
        handle = self._next
        self._next += 1
        content = self._content(node)
        if len(self._open) < _OPEN_FILES:
            self._open[handle] = content
        return pack("=QII", handle, _DIRECT_IO, 0)

    def _attributes(self, node: int) -> bytes:
        """struct fuse_attr: inode, size, blocks, three times, their nanoseconds, mode, links, owner, device, block.

        sendfile(2), tail(1) and wc(1) go by the size.
        """
        if node == _ROOT:
            mode, links, size = stat.S_IFDIR | 0o555, 2, 0
        else:
            mode, links, size = stat.S_IFREG | 0o444, 1, len(self._content(node))
        times = (self._born,) * 3
        return pack("=QQQQQQIIIIIIIIII", node, size, 0, *times, 0, 0, 0, mode, links, 0, 0, 0, 4096, 0)

    def _entries(self, offset: int, size: int) -> bytes:
        """struct fuse_dirent for what is behind an offset: inode, next offset, length, type, name, padded to eight."""
        entries = [(_ROOT, ".", stat.S_IFDIR), (_ROOT, "..", stat.S_IFDIR)]
        entries += [(number, name, stat.S_IFREG) for number, name in enumerate(self._names, 2)]
        out = b""
        for place, (node, name, kind) in enumerate(entries[offset:], offset + 1):
            text = os.fsencode(name)
            entry = pack("=QQII", node, place, len(text), kind >> 12) + text + bytes(-len(text) % 8)
            if len(out) + len(entry) > size:
                break
            out += entry
        return out
