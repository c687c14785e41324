"""Owners of files as a thread in an emulated user namespace sees and changes them.

Files are really owned by the container's host ids, so the kernel keeps its users apart by itself. Where a thread may
give files away the tracer does it, for files that are the container's, to ids that are.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from struct import pack, unpack

from ..tracing import ptrace
from ..tracing.errands import OWN
from ..tracing.naming import AT_FDCWD, AT_SYMLINK_NOFOLLOW, CWD, base_of, signed, text_of
from .emulate import Credentials, Users
from .mapping import UNCHANGED
from .paths import SEARCH, WRITE, Demand, Pinned, Place, place, reachable, searched
from .permissions import Permissions
from .privileges import CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..tracing.errands import Errand, Work

_AT_EACCESS = 0x200
_MKNOD = 133
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
# null, zero, full, random, urandom, tty. Not ptmx: before Linux 4.7 a node of it opens the host's terminals
_HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)}
_OWNER_AT = {4: (1, 28), 5: (1, 28), 6: (1, 28), 262: (2, 28), 332: (4, 20)}  # argument of the buffer, offset in it


class Ownership:
    """`past` makes calls past permissions, as root may."""

    def __init__(self, users: Users, past: Permissions) -> None:
        self._users = users
        self._rules = users.rules
        self._past = past

    def calls(self) -> dict[int, Callable[[Errand], Work]]:
        out: dict[int, Callable[[Errand], Work]] = dict.fromkeys(_OWNER_AT, self.status)
        out.update(dict.fromkeys((92, 93, 94, 260), self.chown))
        out.update(dict.fromkeys((90, 91, 268, 452), self.chmod))
        out.update(dict.fromkeys((132, 235, 261, 280), self.utime))
        out.update(dict.fromkeys((21, 269, 439), self.access))
        out.update(dict.fromkeys((_MKNOD, 259), self.mknod))
        return out

    def status(self, errand: Errand) -> Work:
        """stat(2) and its kin: the owner is the container's."""
        result = yield from self._past.attempt(errand)
        errand.result = result
        if result == 0:
            argument, offset = _OWNER_AT[errand.number]
            address = errand.argument(argument) + offset
            uid, gid = unpack("<II", errand.read(address, 8))
            ptrace.write(errand.pid, address, pack("<II", self._rules.uids.shown(uid), self._rules.gids.shown(gid)))

    def chown(self, errand: Errand) -> Work:
        """The chown(2) family: by the tracer where the thread may give files away, else by the kernel's rules."""
        first = 2 if errand.number == 260 else 1
        ids = []
        for index, known in ((first, self._rules.uids), (first + 1, self._rules.gids)):
            number = errand.argument(index) & 0xFFFFFFFF
            outside = -1 if number == UNCHANGED else known.outside(number)
            if outside < 0 and number != UNCHANGED:
                errand.result = -errno.EINVAL
                return
            ids.append(outside)
        if self._users.of(errand.pid).has(CHOWN):
            errand.result = self._changed(errand, lambda pinned: pinned.chown(*ids))
            if errand.result is not None:
                return
        errand.set_argument(first, ids[0])
        errand.set_argument(first + 1, ids[1])
        yield OWN

    def chmod(self, errand: Errand) -> Work:
        """The chmod(2) family: by the tracer where it is not the thread's own file, or the group of it not its own."""
        mode = errand.argument(2 if errand.number in (268, 452) else 1) & 0o7777
        yield from self._owned(errand, bool(mode & stat.S_ISGID), lambda pinned: pinned.chmod(mode))

    def utime(self, errand: Errand) -> Work:
        """The utimes(2) family, the same way."""
        times = _times(errand)
        yield from self._owned(errand, first=False, change=lambda pinned: pinned.utime(times))

    def _owned(self, errand: Errand, first: bool, change: Callable[[Pinned], None]) -> Work:
        """A change that an owner may make, and root. `first`: the kernel might make less of it than root may."""
        privileges = self._users.of(errand.pid)
        allowed = privileges.has(FOWNER)
        made = not (first and allowed and privileges.has(FSETID))
        if made and ((yield OWN) not in (-errno.EPERM, -errno.EACCES) or not allowed):
            return
        changed = self._changed(errand, change)
        if changed is not None:
            errand.result = changed
        elif not made:
            yield OWN  # the kernel says what is wrong with it

    def _pinned(self, errand: Errand) -> Pinned | None:
        """What the call's only path leads to; None where the container's root would not get there.

        Raises OSError: FileNotFoundError only where it would get there, and nothing is there.
        """
        ((base, path, follow, _),) = self._past.paths_of(errand)
        if path == CWD:
            return Pinned.of(f"/proc/{errand.pid}/fd/{signed(errand.argument(base))}")
        try:
            where = place(errand.pid, base_of(errand, base), text_of(errand, path), follow)
        except FileNotFoundError:
            return None
        try:
            if not reachable(searched(where), Credentials(errand.pid), self._rules):
                return None
            return Pinned(where.parent, where.name)
        finally:
            where.close()

    def _changed(self, errand: Errand, change: Callable[[Pinned], None]) -> int | None:
        """Change the call's file; its result, None where it is not the container's or can't be got to."""
        try:
            pinned = self._pinned(errand)
        except FileNotFoundError:
            return -errno.ENOENT
        except (OSError, ValueError):
            return None
        if pinned is None:
            return None
        try:
            status = pinned.status
            if self._rules.uids.inside(status.st_uid) < 0 or self._rules.gids.inside(status.st_gid) < 0:
                return None
            change(pinned)
            return 0
        except OSError as error:
            return -(error.errno or errno.EPERM)
        finally:
            pinned.close()

    def access(self, errand: Errand) -> Work:
        """access(2) goes by the real user id: root may do all, but execute what nobody may."""
        result = yield OWN
        privileges = self._users.of(errand.pid)
        if result != -errno.EACCES or not privileges.permitted & DAC_OVERRIDE:
            return
        base, path, mode = (CWD, 0, 1) if errand.number == 21 else (0, 1, 2)
        flags = errand.argument(3) if errand.number == 439 else 0
        who = Credentials(errand.pid)
        if self._rules.uids.inside(who.uids[1 if flags & _AT_EACCESS else 0]) != 0:
            return
        try:
            where = place(errand.pid, base_of(errand, base), text_of(errand, path),
                          not flags & AT_SYMLINK_NOFOLLOW)  # fmt: skip
        except (OSError, ValueError):
            return
        try:
            demands = searched(where)
            if where.status is None or not reachable(demands, who, self._rules):
                return
            if self._rules.uids.inside(where.status.st_uid) < 0:
                return
            executable = stat.S_ISDIR(where.status.st_mode) or where.status.st_mode & 0o111
            if not errand.argument(mode) & 1 or executable:
                errand.result = 0
        finally:
            where.close()

    def mknod(self, errand: Errand) -> Work:
        """Device nodes that do no harm are made by the tracer."""
        first = 0 if errand.number == _MKNOD else 1
        mode, device = errand.argument(first + 1) & 0xFFFFFFFF, errand.argument(first + 2) & 0xFFFFFFFF
        number = (os.major(device), os.minor(device))
        if not stat.S_ISCHR(mode) or number not in _HARMLESS or not self._users.of(errand.pid).has(MKNOD):
            errand.result = yield from self._past.attempt(errand)
            return
        who = Credentials(errand.pid)
        try:
            base = AT_FDCWD if first == 0 else signed(errand.argument(0))
            where = place(errand.pid, base, text_of(errand, first), follow=False)
        except OSError:
            yield OWN  # the kernel says what is wrong with it
            return
        try:
            errand.result = self._make_device(where, mode, device, who)
        finally:
            where.close()

    def _make_device(self, where: Place, mode: int, device: int, who: Credentials) -> int:
        demands = [*searched(where), Demand(os.fstat(where.parent), WRITE | SEARCH, where.parent)]
        if not reachable(demands, who, self._rules):
            return -errno.EACCES
        if where.status is not None or not where.name:
            return -errno.EEXIST
        before = os.umask(0)
        try:
            os.mknod(where.name, mode & ~who.umask, device, dir_fd=where.parent)
            made = Pinned(where.parent, where.name)
            if stat.S_ISCHR(made.status.st_mode) and made.status.st_rdev == device:
                made.chown(who.uids[3], who.gids[3])
            made.close()
            return 0
        except OSError as error:
            return -(error.errno or errno.EPERM)
        finally:
            os.umask(before)


def _times(errand: Errand) -> tuple[int, int] | None:
    """The times of a call, in nanoseconds; None for now. -1 for one that is left as it is."""
    index = {132: 1, 235: 1}.get(errand.number, 2)
    address = errand.argument(index)
    if not address:
        return None
    if errand.number == 132:
        access, change = unpack("<qq", errand.read(address, 16))
        return access * 10**9, change * 10**9
    seconds, fraction, of_change, its_fraction = unpack("<qqqq", errand.read(address, 32))
    if errand.number != 280:
        return seconds * 10**9 + fraction * 1000, of_change * 10**9 + its_fraction * 1000
    now = time.time_ns()
    parts = ((seconds, fraction), (of_change, its_fraction))
    access, change = ({_UTIME_NOW: now, _UTIME_OMIT: -1}.get(part, whole * 10**9 + part) for whole, part in parts)
    return access, change
