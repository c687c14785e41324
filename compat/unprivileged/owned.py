"""Owners, modes and device nodes as a thread of a container without privilege sees and changes them."""

from __future__ import annotations

import errno
import os
import stat
from struct import pack

from ..tracing import ptrace
from ..tracing.errands import OWN
from ..tracing.naming import MKNOD, signed
from ..users.mapping import UNCHANGED
from ..users.privileges import CHOWN, FSETID, bit
from .named import Names, status_of
from .owners import HIDDEN, Owner, disk_mode
from .person import WRITE
from .pretence import Pretence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..tracing.errands import Errand, Wanted, Work
    from .tree import Place

    Target = tuple[str, os.stat_result, bool]  # path, status, whether the path is a link of the kernel's

_AT_EACCESS = 0x200
_BUFFER_OF = {4: 1, 5: 1, 6: 1, 262: 2, 332: 4}  # argument of the struct stat, or statx
_STATX, _MKNODAT, _FACCESSAT2 = 332, 259, 439
_SETS_ATTRIBUTE, _GETS_ATTRIBUTE, _LISTS, _REMOVES = (188, 189, 190), (191, 192, 193), (194, 195, 196), (197, 198, 199)


class Owned:
    def __init__(self, pretence: Pretence, names: Names) -> None:
        self._pretence = pretence
        self._names = names
        self._owners = pretence.container.owners

    def calls(self) -> dict[int, Callable[[Errand], Work]]:
        out: dict[int, Callable[[Errand], Work]] = dict.fromkeys(_BUFFER_OF, self.status)
        out.update(dict.fromkeys((92, 93, 94, 260), self.chown))
        out.update(dict.fromkeys((90, 91, 268, 452), self.chmod))
        out.update(dict.fromkeys((132, 235, 261, 280), self.utime))
        out.update(dict.fromkeys((21, 269, _FACCESSAT2), self.access))
        out.update(dict.fromkeys((MKNOD, _MKNODAT), self.mknod))
        out.update(dict.fromkeys((*_SETS_ATTRIBUTE, *_GETS_ATTRIBUTE, *_REMOVES), self.attribute))
        out.update(dict.fromkeys(_LISTS, self.attributes))
        return out

    # --- what a call is about -----------------------------------------------------------------------------------------

    def _target(self, errand: Errand, places: list[tuple[int, int, int, Place]]) -> Target:
        """The file of a call with one path, or with a descriptor. Raises OSError."""
        if places:
            found = places[0][3]
            status = status_of(found)
            if status is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            return found.host.rstrip("/") or "/", status, found.magic
        path = f"/proc/{errand.pid}/fd/{signed(errand.argument(0))}"
        try:
            return path, os.stat(path), True
        except OSError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def _places(self, errand: Errand) -> list[tuple[int, int, int, Place]]:
        return self._names.places(errand) if errand.number not in (5, 91, 93, 190, 193, 196, 199) else []

    # --- what tells ---------------------------------------------------------------------------------------------------

    def status(self, errand: Errand) -> Work:
        """stat(2) and its kin."""
        places = self._places(errand)
        if places:
            result = yield from self._names.attempt(errand, places)
            errand.result = result
        else:
            if errand.number == 262 and signed(errand.argument(0)) == -100:
                return  # the working directory: root's or not, it is told by its path
            result = yield OWN
        if result:
            return
        try:
            path, status, follow = self._target(errand, places)
        except OSError:
            return
        owner = self._owners.of(path, status, follow)
        address = errand.argument(_BUFFER_OF[errand.number])
        if errand.number == _STATX:
            ptrace.write(errand.pid, address + 20, pack("<II", owner.uid, owner.gid))
            rest = errand.read(address + 30, 2)
            ptrace.write(errand.pid, address + 28, pack("<H", owner.mode) + rest)
            if owner.is_device:
                ptrace.write(errand.pid, address + 128, pack("<II", *owner.device))
        else:
            ptrace.write(errand.pid, address + 24, pack("<III", owner.mode, owner.uid, owner.gid))
            if owner.is_device:
                ptrace.write(errand.pid, address + 40, pack("<Q", os.makedev(*owner.device)))

    def access(self, errand: Errand) -> Work:
        """access(2): judged by what is written down."""
        index = 1 if errand.number == 21 else 2
        places = self._names.places(errand)
        found = places[0][3]
        status = status_of(found)
        if errand.argument(index) & 0xFFFFFFF8:
            errand.result = -errno.EINVAL
            return
        bits = errand.argument(index) & 7
        if status is None or status.st_uid != self._pretence.container.host[0]:
            errand.result = yield from self._names.attempt(errand, places)
            return
        if bits & WRITE and self._pretence.container.tree.bind_of(found.guest).read_only:
            errand.result = -errno.EROFS
            return
        real = not (errand.number == _FACCESSAT2 and errand.argument(3) & _AT_EACCESS)
        owner = self._owners.of(found.host.rstrip("/") or "/", status, found.magic)
        may = self._pretence.of(errand.pid).may(owner, bits, real)
        if found.is_directory and not stat.S_ISDIR(status.st_mode):
            errand.result = -errno.ENOTDIR
        else:
            errand.result = 0 if may or not bits else -errno.EACCES

    # --- what changes -------------------------------------------------------------------------------------------------

    def _change(self, errand: Errand, change: Callable[[Target, Owner], int]) -> Work:
        """A change of what is written down, of a file that is the user's."""
        places = self._places(errand)
        if not places and errand.number in (268, 452, 260) and not errand.argument(1):
            errand.result = -errno.EFAULT
            return
        target = self._target(errand, places)
        guest = "" if places else self._pretence.container.tree.guest_of(_real(target[0]))
        if guest and self._pretence.container.tree.bind_of(guest).read_only:
            errand.result = -errno.EROFS
            return
        if target[1].st_uid != self._pretence.container.host[0]:
            errand.result = -errno.EPERM
            return
        errand.result = change(target, self._owners.of(*target))
        return
        yield

    def chown(self, errand: Errand) -> Work:
        """The chown(2) family."""
        first = 2 if errand.number == 260 else 1
        uid, gid = (errand.argument(first + index) & 0xFFFFFFFF for index in (0, 1))
        person = self._pretence.of(errand.pid)
        container = self._pretence.container
        if not container.uids.has(uid) or not container.gids.has(gid):
            errand.result = -errno.EINVAL
            return

        def change(target: Target, owner: Owner) -> int:
            path, status, follow = target
            if not person.privileges.has(CHOWN):
                own = person.uids[3] == owner.uid
                if not own or uid not in (UNCHANGED, owner.uid):
                    return -errno.EPERM
                if gid not in (UNCHANGED, owner.gid, person.gids[3], *person.groups):
                    return -errno.EPERM
            owner.uid = owner.uid if uid == UNCHANGED else uid
            owner.gid = owner.gid if gid == UNCHANGED else gid
            if not stat.S_ISDIR(owner.mode) and owner.mode & 0o111:
                owner.mode &= ~(stat.S_ISUID | (stat.S_ISGID if owner.mode & stat.S_IXGRP else 0))
            self._write(path, status, owner, follow)
            return 0

        yield from self._change(errand, change)

    def chmod(self, errand: Errand) -> Work:
        """The chmod(2) family."""
        mode = errand.argument(2 if errand.number in (268, 452) else 1) & 0o7777
        person = self._pretence.of(errand.pid)

        def change(target: Target, owner: Owner) -> int:
            path, status, follow = target
            if stat.S_ISLNK(status.st_mode):
                return -errno.EOPNOTSUPP
            if not person.owns(owner):
                return -errno.EPERM
            groups = (person.gids[3], *person.groups)
            wanted = mode
            if owner.gid not in groups and not person.privileges.has(FSETID) and not stat.S_ISDIR(owner.mode):
                wanted &= ~stat.S_ISGID
            owner.mode = stat.S_IFMT(owner.mode) | wanted
            self._write(path, status, owner, follow)
            return 0

        return self._change(errand, change)

    def _write(self, path: str, status: os.stat_result, owner: Owner, follow: bool) -> None:
        """Write it down, and give the file what it can have of it. Raises OSError."""
        if not stat.S_ISLNK(status.st_mode):
            wanted = disk_mode(owner.mode if not owner.is_device else stat.S_IFREG | stat.S_IMODE(owner.mode))
            if wanted != stat.S_IMODE(status.st_mode):
                os.chmod(path, wanted)
                status = os.stat(path) if follow else os.lstat(path)
        self._owners.set(path, status, owner, follow)

    def utime(self, errand: Errand) -> Work:
        """The utimes(2) family."""
        places = self._names.places(errand)
        try:
            owner = self._owners.of(*self._target(errand, places))
        except OSError:
            owner = None  # the kernel says what is wrong with it
        person = self._pretence.of(errand.pid)
        now = not errand.argument({132: 1, 235: 1}.get(errand.number, 2))
        if owner and not person.owns(owner) and not (now and person.may(owner, WRITE)):
            errand.result = -errno.EACCES if now else -errno.EPERM
        elif places:
            errand.result = yield from self._names.attempt(errand, places)
        else:
            yield OWN

    def mknod(self, errand: Errand) -> Work:
        """Device nodes are written down; what stands for them is an empty file."""
        places = self._places(errand)
        found = places[0][3]
        first = 0 if errand.number == MKNOD else 1
        mode, device = errand.argument(first + 1) & 0xFFFFFFFF, errand.argument(first + 2) & 0xFFFFFFFF
        person = self._pretence.of(errand.pid)
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        if is_device and not person.privileges.has(bit("MKNOD")):
            errand.result = -errno.EPERM
            return
        kind = stat.S_IFREG if is_device else stat.S_IFMT(mode)
        result = yield from self._names.attempt(errand, places, {first + 1: kind | stat.S_IMODE(mode) & 0o1777})
        errand.result = result
        if result:
            return
        if not is_device:
            self._names.is_made(errand.pid, found.host, mode & 0o6000 if kind in (0, stat.S_IFREG) else 0)
            return
        status = os.lstat(found.host)
        owner = Owner(person.uids[3], person.gids[3], stat.S_IFMT(mode) | stat.S_IMODE(status.st_mode),
                      (os.major(device), os.minor(device)))  # fmt: skip
        self._write(found.host, status, owner, follow=False)

    # --- attributes ---------------------------------------------------------------------------------------------------

    def attribute(self, errand: Errand) -> Work:
        """Those that owners are written down in are not there."""
        name = ptrace.read_string(errand.pid, errand.argument(1), 256)
        if name.decode("utf-8", "replace") in HIDDEN:
            errand.result = -errno.EPERM if errand.number in _SETS_ATTRIBUTE else -errno.ENODATA
            return
        if errand.number in (*_SETS_ATTRIBUTE, *_REMOVES):
            target = self._target(errand, self._places(errand))
            if not self._pretence.of(errand.pid).may(self._owners.of(*target), WRITE):
                errand.result = -errno.EACCES
                return
        yield from self._with_paths(errand)

    def attributes(self, errand: Errand) -> Work:
        """listxattr(2)."""
        result = yield from self._with_paths(errand)
        if result <= 0 or not errand.argument(2):
            return  # the size that is asked for may be larger than what is told then
        data = errand.read(errand.argument(1), result)
        hidden = [os.fsencode(name) for name in HIDDEN]
        left = b"".join(name + b"\0" for name in data.split(b"\0")[:-1] if name not in hidden)
        if len(left) < len(data):
            ptrace.write(errand.pid, errand.argument(1), left)
            errand.result = len(left)

    def _with_paths(self, errand: Errand) -> Generator[Wanted, int, int]:
        places = self._places(errand)
        result: int
        if places:
            result = yield from self._names.attempt(errand, places)
        else:
            result = yield OWN
        errand.result = result
        return result


def _real(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return path
