"""Addresses of sockets that are files, and ids in messages, in a container without privilege."""

from __future__ import annotations

import os
import re
from struct import pack, unpack

from ..tracing import ptrace
from ..tracing.errands import OWN
from ..tracing.naming import AT_FDCWD, BIND, CONNECT, MADE, TARGET_W, path_of_address, signed
from ..users.mapping import OVERFLOW
from ..users.messages import control_of, credentials_of
from .named import Names
from .pretence import Pretence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..tracing.errands import Errand, Wanted, Work

_SOL_SOCKET, _SO_PEERCRED, _AF_UNIX = 1, 17, 1
_ACCEPT, _ACCEPT4, _SENDTO, _SENDMSG, _RECVMSG, _SENDMMSG, _RECVMMSG = 43, 288, 44, 46, 47, 307, 299
_GETSOCKNAME, _GETPEERNAME, _GETSOCKOPT = 51, 52, 55
_OPEN, _CLOSE = 2, 3
_LONGEST = 107  # bytes of a path in struct sockaddr_un
_MOST_MESSAGES, _HEADER, _MESSAGE = 1024, 56, 64
_MOST_NAMES = 4096
_SOCKET = re.compile(r"socket:\[(\d+)\]$")


class Sockets:
    def __init__(self, pretence: Pretence, names: Names) -> None:
        self._pretence = pretence
        self._names = names

    def calls(self) -> dict[int, Callable[[Errand], Work]]:
        return {
            BIND: self.named, CONNECT: self.named, _SENDTO: self.send_to, _SENDMSG: self.send_message,
            _GETSOCKNAME: self.tell, _GETPEERNAME: self.tell, _ACCEPT: self.tell, _ACCEPT4: self.tell,
            _GETSOCKOPT: self.peer, _RECVMSG: self.receive, _RECVMMSG: self.receive_many,
            _SENDMMSG: self.send_messages,
        }  # fmt: skip

    # --- addresses ----------------------------------------------------------------------------------------------------

    def named(self, errand: Errand) -> Work:
        """bind(2) and connect(2)."""
        path = _path_at(errand, errand.argument(1), errand.argument(2))
        if path:
            errand.result = yield from self._with_address(errand, path, 1, 2)

    def send_to(self, errand: Errand) -> Work:
        path = _path_at(errand, errand.argument(4), errand.argument(5)) if errand.argument(4) else b""
        if path:
            errand.result = yield from self._with_address(errand, path, 4, 5)

    def _with_address(self, errand: Errand, path: bytes, index: int, size: int) -> Generator[Wanted, int, int]:
        """Make the thread's call with the host's name of a socket; by a descriptor of its directory where that is too
        long."""
        makes = errand.number == BIND
        found = self._names.place(errand, AT_FDCWD, path, follow=not makes)
        self._names.check(errand, found, MADE if makes else TARGET_W)
        host = os.fsencode(found.host)
        room = yield from self._pretence.room(errand)
        if room < 0:
            return room
        folder = -1
        if len(host) > _LONGEST:
            parent, _, name = host.rpartition(b"/")
            ptrace.write(errand.pid, room, parent + b"\0")
            folder = yield (_OPEN, room, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
            if folder < 0:
                return folder
            host = b"/proc/self/fd/%d/%s" % (folder, name)
        ptrace.write(errand.pid, room, pack("<H", _AF_UNIX) + host + b"\0")
        errand.set_argument(index, room)
        errand.set_argument(size, 3 + len(host))
        result = yield OWN
        if folder >= 0:
            yield (_CLOSE, folder)
        if makes and result == 0:
            self._names.is_made(errand.pid, found.host)
            self._remember(errand, found.guest)
        return result

    def _remember(self, errand: Errand, guest: str) -> None:
        """Have a bound socket tell the container's name of it."""
        if inode := _inode(errand.pid, signed(errand.argument(0))):
            known = self._pretence.sockets
            while len(known) >= _MOST_NAMES:
                known.pop(next(iter(known)))
            known[inode] = guest

    def tell(self, errand: Errand) -> Work:
        """getsockname(2), getpeername(2), accept(2): the container's name in an address."""
        address, size = errand.argument(1), errand.argument(2)
        given = unpack("<I", errand.read(size, 4))[0] if address and size else 0
        result = yield OWN
        if result < 0 or not given:
            return
        told = unpack("<I", errand.read(size, 4))[0]
        path = path_of_address(ptrace.read(errand.pid, address, min(told, given, 110)))
        if not path:
            return
        guest = ""
        if errand.number == _GETSOCKNAME:
            guest = self._pretence.sockets.get(_inode(errand.pid, signed(errand.argument(0))), "")
        guest = guest or self._pretence.guest_path(errand.pid, os.fsdecode(path))
        if guest:
            data = pack("<H", _AF_UNIX) + os.fsencode(guest)[:_LONGEST] + b"\0"
            ptrace.write(errand.pid, address, data[:given])
            ptrace.write(errand.pid, size, pack("<I", len(data)))

    # --- messages -----------------------------------------------------------------------------------------------------

    def peer(self, errand: Errand) -> Work:
        """getsockopt(2), SO_PEERCRED: pid, uid, gid."""
        if (errand.argument(1) & 0xFFFFFFFF, errand.argument(2) & 0xFFFFFFFF) != (_SOL_SOCKET, _SO_PEERCRED):
            return
        if (yield OWN) == 0:
            self._show(errand, errand.argument(3))

    def _show(self, errand: Errand, address: int) -> None:
        """Put into a struct ucred who the kernel's pid believes to be."""
        data = ptrace.read(errand.pid, address, 12)
        if len(data) == 12:
            pid, uid, _ = unpack("<iII", data)
            known = self._pretence.known(pid)
            ours = uid == self._pretence.container.host[0]
            shown = (known.uids[1], known.gids[1]) if known else (0, 0) if ours else (OVERFLOW, OVERFLOW)
            ptrace.write(errand.pid, address + 4, pack("<II", *shown))

    def receive(self, errand: Errand) -> Work:
        if control_of(errand, errand.argument(1)) and (yield OWN) >= 0:
            for address in credentials_of(errand, errand.argument(1)):
                self._show(errand, address)

    def receive_many(self, errand: Errand) -> Work:
        count = yield OWN
        for place in range(max(0, min(count, _MOST_MESSAGES))):
            for address in credentials_of(errand, errand.argument(1) + place * _MESSAGE):
                self._show(errand, address)

    def send_messages(self, errand: Errand) -> Work:
        count = min(errand.argument(2) & 0xFFFFFFFF, _MOST_MESSAGES)
        former = [part for place in range(count) for part in self._real(errand, errand.argument(1) + place * _MESSAGE)]
        if former:
            yield OWN
        _put_back(errand, former)

    def send_message(self, errand: Errand) -> Work:
        """sendmsg(2): to the host's name of a socket; the kernel is told the ids that it knows."""
        header = errand.argument(1)
        former = self._real(errand, header)
        data = ptrace.read(errand.pid, header, 16)
        path = b""
        if len(data) == 16:
            name, size = unpack("<QI", data[:12])
            path = _path_at(errand, name, size) if name else b""
        if path:
            errand.result = yield from self._to_name(errand, path)
        elif former:
            yield OWN
        _put_back(errand, former)

    def _to_name(self, errand: Errand, path: bytes) -> Generator[Wanted, int, int]:
        found = self._names.place(errand, AT_FDCWD, path, follow=True)
        self._names.check(errand, found, TARGET_W)
        host = os.fsencode(found.host)
        header = errand.read(errand.argument(1), _HEADER)
        room = yield from self._pretence.room(errand)
        if room < 0:
            return room
        folder = -1
        if len(host) > _LONGEST:
            parent, _, name = host.rpartition(b"/")
            ptrace.write(errand.pid, room, parent + b"\0")
            folder = yield (_OPEN, room, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
            if folder < 0:
                return folder
            host = b"/proc/self/fd/%d/%s" % (folder, name)
        address = pack("<H", _AF_UNIX) + host + b"\0"
        ptrace.write(errand.pid, room, pack("<QI", room + 64, len(address)) + header[12:])
        ptrace.write(errand.pid, room + 64, address)
        errand.set_argument(1, room)
        result = yield OWN
        if folder >= 0:
            yield (_CLOSE, folder)
        return result

    def _real(self, errand: Errand, header: int) -> list[tuple[int, bytes]]:
        """Put the host's ids into a message's credentials; what was there."""
        former = []
        for address in credentials_of(errand, header):
            former.append((address + 4, ptrace.read(errand.pid, address + 4, 8)))
            ptrace.write(errand.pid, address + 4, pack("<II", *self._pretence.container.host))
        return former


def _put_back(errand: Errand, former: list[tuple[int, bytes]]) -> None:
    for address, data in former:
        ptrace.write(errand.pid, address, data)


def _path_at(errand: Errand, address: int, size: int) -> bytes:
    return path_of_address(ptrace.read(errand.pid, address, min(size & 0xFFFFFFFF, 110)))


def _inode(pid: int, fd: int) -> int:
    try:
        found = _SOCKET.match(os.readlink(f"/proc/{pid}/fd/{fd}"))
    except OSError:
        return 0
    return int(found[1]) if found else 0
