"""Ids that come to a thread in other ways than by stat(2) and getuid(2): credentials of peers, /proc/PID/status."""

from __future__ import annotations

import errno
import os
import re
from struct import iter_unpack, pack, unpack

from ..files import read_fd
from ..tracing import ptrace
from ..tracing.errands import OWN
from .emulate import Users
from .permissions import Permissions
from .privileges import SETGID, SETUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..tracing.errands import Errand, Wanted, Work

_SOL_SOCKET, _SO_PEERCRED, _SO_PEERGROUPS, _SCM_CREDENTIALS = 1, 17, 59, 2
_MOST_CONTROL = 1 << 16  # bytes of a message's control data that are looked at
_MOST_MESSAGES = 1024  # UIO_MAXIOV
_HEADER, _MESSAGE = 56, 64  # struct msghdr, struct mmsghdr
STATUS = re.compile(r"/proc/(\d+)(/task/\d+)?/status$")
_MAP = re.compile(r"/proc/\d+(/task/\d+)?/([ug])id_map$")
_MEMFD_CREATE, _PIPE, _DUP3, _CLOSE, _FCNTL, _GETPID = 319, 22, 292, 3, 72, 39
_O_CLOEXEC = 0o2000000


class Messages:
    """`past` gets an open past permissions, as root may."""

    def __init__(self, users: Users, past: Permissions) -> None:
        self._users = users
        self._past = past

    def calls(self) -> dict[int, Callable[[Errand], Work]]:
        return {
            55: self.peer, 47: self.receive, 299: self.receive_many, 46: self.send, 307: self.send_many,
            2: self.open, 85: self.open, 257: self.open, 437: self.open,
        }  # fmt: skip

    # --- credentials ----------------------------------------------------------------------------------------------

    def peer(self, errand: Errand) -> Work:
        """getsockopt(2), SO_PEERCRED: pid, uid, gid; SO_PEERGROUPS: gids."""
        level, option = errand.argument(1) & 0xFFFFFFFF, errand.argument(2) & 0xFFFFFFFF
        if level != _SOL_SOCKET or option not in (_SO_PEERCRED, _SO_PEERGROUPS):
            return
        if (yield OWN) != 0:
            return
        if option == _SO_PEERCRED:
            self._show(errand, errand.argument(3))
            return
        size = int.from_bytes(ptrace.read(errand.pid, errand.argument(4), 4), "little")
        data = ptrace.read(errand.pid, errand.argument(3), min(size, _MOST_CONTROL) & ~3)
        gids = [self._users.rules.gids.shown(gid) for (gid,) in iter_unpack("<I", data)]
        ptrace.write(errand.pid, errand.argument(3), pack(f"<{len(gids)}I", *gids))

    def _show(self, errand: Errand, address: int) -> None:
        """Translate a struct ucred."""
        data = ptrace.read(errand.pid, address + 4, 8)
        if len(data) == 8:
            rules = self._users.rules
            uid, gid = unpack("<II", data)
            ptrace.write(errand.pid, address + 4, pack("<II", rules.uids.shown(uid), rules.gids.shown(gid)))

    def receive(self, errand: Errand) -> Work:
        if control_of(errand, errand.argument(1)) and (yield OWN) >= 0:
            for address in credentials_of(errand, errand.argument(1)):
                self._show(errand, address)

    def receive_many(self, errand: Errand) -> Work:
        count = yield OWN
        for place in range(max(0, min(count, _MOST_MESSAGES))):
            for address in credentials_of(errand, errand.argument(1) + place * _MESSAGE):
                self._show(errand, address)

    def send(self, errand: Errand) -> Work:
        yield from self._send(errand, [errand.argument(1)])

    def send_many(self, errand: Errand) -> Work:
        count = min(errand.argument(2) & 0xFFFFFFFF, _MOST_MESSAGES)
        yield from self._send(errand, [errand.argument(1) + place * _MESSAGE for place in range(count)])

    def _send(self, errand: Errand, headers: list[int]) -> Generator[Wanted, int, None]:
        """The kernel is told host ids, and checks that they are the sender's."""
        rules = self._users.rules
        former = []
        for header in headers:
            for address in credentials_of(errand, header):
                data = ptrace.read(errand.pid, address + 4, 8)
                uid, gid = (known.outside(number) for known, number in
                            zip((rules.uids, rules.gids), unpack("<II", data), strict=True))  # fmt: skip
                if uid < 0 or gid < 0:
                    errand.result = -errno.EINVAL
                    break
                former.append((address + 4, data))
                ptrace.write(errand.pid, address + 4, pack("<II", uid, gid))
        if former and errand.result is None:
            errand.result = yield OWN
            privileges = self._users.of(errand.pid)
            may = privileges.has(SETUID) and privileges.has(SETGID) and not privileges.confined
            if errand.result == -errno.EPERM and may:  # root names others, too: unix(7)
                yield from self._users.raise_ids(errand)
                errand.result = yield OWN
                yield from self._users.settle(errand)
        for address, data in former:
            ptrace.write(errand.pid, address, data)

    # --- /proc/PID/status -----------------------------------------------------------------------------------------

    def open(self, errand: Errand) -> Work:
        fd = yield from self._past.attempt(errand)
        errand.result = fd
        if fd < 0 or self._users.of(errand.pid).confined:
            return
        try:
            name = os.readlink(f"/proc/{errand.pid}/fd/{fd}")
        except OSError:
            return
        if found := STATUS.search(name):
            yield from self._replace(errand, fd, int(found[1]))
        elif found := _MAP.search(name):
            lines = (self._users.rules.uids if found[2] == "u" else self._users.rules.gids).lines
            yield from put_in_place(errand, fd, "".join(f"{a:10} {b:10} {c:10}\n" for a, b, c in lines))

    def _replace(self, errand: Errand, fd: int, of: int) -> Generator[Wanted, int, None]:
        """Put a copy with the container's ids in the place of the kernel's file."""
        try:
            real = os.open(f"/proc/{errand.pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                text = read_fd(real, 1 << 20).decode("utf-8", "surrogateescape")
            finally:
                os.close(real)
        except OSError:
            return  # it has ended
        own = of == (yield (_GETPID,))
        yield from put_in_place(errand, fd, self._translated(errand, text, own))

    def _translated(self, errand: Errand, text: str, own: bool) -> str:
        rules = self._users.rules
        lines = []
        root = False
        for line in text.splitlines():
            name, _, rest = line.partition(":")
            if name in ("Uid", "Gid"):
                ids = [(rules.uids if name == "Uid" else rules.gids).shown(int(word)) for word in rest.split()]
                root = root or (name == "Uid" and ids[1] == 0)
                rest = "\t" + "\t".join(map(str, ids))
            elif name == "Groups":
                rest = "\t" + "".join(f"{rules.gids.shown(int(word))} " for word in rest.split())
            elif name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                rest = f"\t{self._sets(errand, own, root)[name]:016x}"
            elif name == "NoNewPrivs" and own:
                rest = f"\t{int(self._users.of(errand.pid).no_new)}"
            lines.append(f"{name}:{rest}")
        return "\n".join(lines) + "\n"

    def _sets(self, errand: Errand, own: bool, root: bool) -> dict[str, int]:
        """Capability sets: of another process what its user would begin with."""
        begin = self._users.rules.begin
        if own:
            known = self._users.of(errand.pid)
            return {"CapInh": known.inheritable, "CapPrm": known.permitted, "CapEff": known.effective,
                    "CapBnd": known.bounding, "CapAmb": known.ambient}  # fmt: skip
        has = begin.bounding if root else 0
        return {"CapInh": 0, "CapPrm": has, "CapEff": has, "CapBnd": begin.bounding, "CapAmb": 0}


def put_in_place(errand: Errand, fd: int, text: str) -> Generator[Wanted, int, None]:
    """Put a file of this text in the place of what a descriptor of the thread's is."""
    content = text.encode("utf-8", "surrogateescape")
    closing = _O_CLOEXEC if (yield _FCNTL, fd, 1) & 1 else 0
    made, _ = yield from errand.with_data(b"status\0\0", lambda at: (_MEMFD_CREATE, at, 1))
    if made >= 0:
        _write(f"/proc/{errand.pid}/fd/{made}", content)
    else:
        result, data = yield from errand.with_data(bytes(8), lambda at: (_PIPE, at))
        if result < 0:
            return
        made, into = unpack("<ii", data)
        _write(f"/proc/{errand.pid}/fd/{into}", content)
        yield _CLOSE, into
    yield _DUP3, made, fd, closing
    yield _CLOSE, made


def control_of(errand: Errand, header: int) -> bytes:
    """A message's control data, as much as is looked at."""
    data = ptrace.read(errand.pid, header, _HEADER)
    if len(data) < _HEADER:
        return b""
    address, size = unpack("<QQ", data[32:48])
    return ptrace.read(errand.pid, address, min(size, _MOST_CONTROL)) if size else b""


def credentials_of(errand: Errand, header: int) -> list[int]:
    """Where in a thread's memory a message has a struct ucred. Source: cmsg(3)."""
    data = ptrace.read(errand.pid, header, _HEADER)
    control = control_of(errand, header)
    out, at = [], 0
    while at + 16 <= len(control):
        size, level, kind = unpack("<Qii", control[at : at + 16])
        if size < 16 or size > len(control) - at:
            break
        if (level, kind) == (_SOL_SOCKET, _SCM_CREDENTIALS) and size >= 28:
            out.append(unpack("<Q", data[32:40])[0] + at + 16)
        at += (size + 7) & ~7
    return out


def _write(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
