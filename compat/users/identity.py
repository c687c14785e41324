"""Ids, groups, capabilities and exec of a thread in an emulated user namespace.

What only reads is translated after the call. What changes ids is made with host ids and, where the thread may do it in
its namespace, with CAP_SETUID and CAP_SETGID for that one call; else the kernel decides by the ids alone.

An exec by a user that is not the host's root would take the permitted capabilities away (capabilities(7)): so its real
id is 0 for the time of the call, which leaves it the bounding set, and nothing of the new program has run when it has
its own id again. The mounts are nosuid; set-id bits are honoured here, for files whose owner is the container's.
"""

from __future__ import annotations

import errno
import os
import stat
from struct import pack, unpack

from ..tracing import ptrace
from ..tracing.errands import OWN
from .emulate import Broken, Credentials, Users
from .mapping import UNCHANGED, Ids
from .privileges import SETGID, SETPCAP, SETUID, Privileges, bit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..tracing.errands import Errand, Wanted, Work
    from .permissions import Permissions

SETRESUID, SETRESGID, PRCTL = 117, 119, 157
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SECCOMP_TSYNC = 1
_MOST_GROUPS = 65536
_NO_ID = -1
# <linux/auxvec.h>
_AT_UID, _AT_EUID, _AT_GID, _AT_EGID, _AT_SECURE = 11, 12, 13, 14, 23
_CAPABILITY_VERSIONS = {0x19980330: 1, 0x20071026: 2, 0x20080522: 2}  # and how many records each has


class Identity:
    """`past` gets an exec past permissions, as root may."""

    def __init__(self, users: Users, past: Permissions) -> None:
        self._users = users
        self._past = past
        self._uids = users.rules.uids
        self._gids = users.rules.gids

    def calls(self) -> dict[int, Callable[[Errand], Work]]:
        return {
            59: self.execute, 322: self.execute,
            102: self.get_uid, 107: self.get_uid, 104: self.get_gid, 108: self.get_gid,
            118: self.get_uids, 120: self.get_gids, 115: self.get_groups, 116: self.set_groups,
            105: self.set_uids, 113: self.set_uids, 117: self.set_uids,
            106: self.set_gids, 114: self.set_gids, 119: self.set_gids,
            122: self.set_fsuid, 123: self.set_fsgid,
            125: self.get_capabilities, 126: self.set_capabilities, 157: self.prctl, 317: self.seccomp,
            140: self.priority, 141: self.priority,
        }  # fmt: skip

    # --- what reads -------------------------------------------------------------------------------------------------

    def get_uid(self, errand: Errand) -> Work:
        found = yield OWN
        if found >= 0:  # a filter of the program's own may refuse it
            errand.result = self._uids.shown(found)

    def get_gid(self, errand: Errand) -> Work:
        found = yield OWN
        if found >= 0:
            errand.result = self._gids.shown(found)

    def get_uids(self, errand: Errand) -> Work:
        if (yield OWN) == 0:
            self._write_three(errand, [self._uids.shown(uid) for uid in Credentials(errand.pid).uids[:3]])

    def get_gids(self, errand: Errand) -> Work:
        if (yield OWN) == 0:
            self._write_three(errand, [self._gids.shown(gid) for gid in Credentials(errand.pid).gids[:3]])

    @staticmethod
    def _write_three(errand: Errand, ids: list[int]) -> None:
        for place, number in enumerate(ids):
            ptrace.write(errand.pid, errand.argument(place), pack("<I", number))

    def get_groups(self, errand: Errand) -> Work:
        count = yield OWN
        if count > 0 and errand.argument(0) & 0xFFFFFFFF:
            groups = unpack(f"<{count}I", errand.read(errand.argument(1), 4 * count))
            shown = [self._gids.shown(gid) for gid in groups]
            ptrace.write(errand.pid, errand.argument(1), pack(f"<{count}I", *shown))

    def priority(self, errand: Errand) -> Work:
        """getpriority(2) and setpriority(2) of a user's processes."""
        if errand.argument(0) & 0xFFFFFFFF == 2 and errand.argument(1) & 0xFFFFFFFF:
            outside = self._uids.outside(errand.argument(1) & 0xFFFFFFFF)
            if outside < 0:
                errand.result = -errno.ESRCH
                return
            errand.set_argument(1, outside)
            yield OWN

    # --- what changes ids -----------------------------------------------------------------------------------------

    @staticmethod
    def _translate(errand: Errand, ids: Ids) -> bool:
        """The ids in a call's arguments; False for one that is not mapped."""
        for place in range({105: 1, 106: 1, 113: 2, 114: 2}.get(errand.number, 3)):
            number = errand.argument(place) & 0xFFFFFFFF
            if number != UNCHANGED:
                outside = ids.outside(number)
                if outside < 0:
                    errand.result = -errno.EINVAL
                    return False
                errand.set_argument(place, outside)
        return True

    def _as(self, errand: Errand, capability: int) -> Generator[Wanted, int, int]:
        """Make the thread's call, with the capability where it believes to have it; never with more after it."""
        privileges = self._users.of(errand.pid)
        if privileges.confined or not privileges.has(capability):
            return (yield OWN)
        yield from self._users.raise_ids(errand)
        result = yield OWN
        yield from self._users.settle(errand)
        return result

    def set_uids(self, errand: Errand) -> Work:
        if not self._translate(errand, self._uids):
            return
        privileges = self._users.of(errand.pid)
        before = Credentials(errand.pid)
        result = yield from self._as(errand, SETUID)
        after = self._users.check_ids(errand.pid)
        if result == 0:
            held = self._users.held(privileges)
            privileges.change_ids(self._three(before.uids), self._three(after.uids))
            if before.uids[1] != after.uids[1]:
                privileges.death_signal = 0
            if self._users.held(privileges) != held:
                yield from self._settle_if_free(errand, privileges)

    def _settle_if_free(self, errand: Errand, privileges: Privileges) -> Generator[Wanted, int, None]:
        if not privileges.confined:
            yield from self._users.settle(errand)

    def _three(self, uids: tuple[int, int, int, int]) -> tuple[int, int, int]:
        real, effective, saved, _ = (self._uids.inside(uid) for uid in uids)
        return real, effective, saved

    def set_gids(self, errand: Errand) -> Work:
        if self._translate(errand, self._gids):
            yield from self._as(errand, SETGID)
            self._users.check_ids(errand.pid)

    def set_groups(self, errand: Errand) -> Work:
        count, address = errand.argument(0) & 0xFFFFFFFF, errand.argument(1)
        privileges = self._users.of(errand.pid)
        if not privileges.has(SETGID) or privileges.confined:
            errand.result = -errno.EPERM
            return
        if count > _MOST_GROUPS:
            errand.result = -errno.EINVAL
            return
        former = ptrace.read(errand.pid, address, 4 * count) if count else b""
        if len(former) < 4 * count:
            errand.result = -errno.EFAULT
            return
        groups = [self._gids.outside(gid) for gid in unpack(f"<{count}I", former)]
        if any(gid < 0 for gid in groups):
            errand.result = -errno.EINVAL
            return
        ptrace.write(errand.pid, address, pack(f"<{count}I", *groups))
        yield from self._as(errand, SETGID)
        ptrace.write(errand.pid, address, former)
        self._users.check_ids(errand.pid)

    def set_fsuid(self, errand: Errand) -> Work:
        """It returns the former id, and fails for none."""
        privileges = self._users.of(errand.pid)
        wanted = self._uids.outside(errand.argument(0) & 0xFFFFFFFF)
        errand.set_argument(0, wanted & UNCHANGED)
        before = Credentials(errand.pid).uids[3]
        yield from self._as(errand, SETUID)
        after = self._users.check_ids(errand.pid).uids[3]
        privileges.change_fsuid(self._uids.inside(before), self._uids.inside(after))
        errand.result = self._uids.shown(before)

    def set_fsgid(self, errand: Errand) -> Work:
        before = Credentials(errand.pid).gids[3]
        errand.set_argument(0, self._gids.outside(errand.argument(0) & 0xFFFFFFFF) & UNCHANGED)
        yield from self._as(errand, SETGID)
        self._users.check_ids(errand.pid)
        errand.result = self._gids.shown(before)

    # --- capabilities -----------------------------------------------------------------------------------------------

    def get_capabilities(self, errand: Errand) -> Work:
        version, of = unpack("<Ii", errand.read(errand.argument(0), 8))
        records = _CAPABILITY_VERSIONS.get(version)
        if not records or not errand.argument(1):
            return
        result = yield OWN
        if result or (of and of != (yield (186,))):  # gettid(2): its own
            errand.result = result
            return
        privileges = self._users.of(errand.pid)
        sets = (privileges.effective, privileges.permitted, privileges.inheritable)
        words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32)[:records] for mask in sets]
        ptrace.write(errand.pid, errand.argument(1), pack(f"<{len(words)}I", *words))
        errand.result = 0

    def set_capabilities(self, errand: Errand) -> Work:
        version, of = unpack("<Ii", errand.read(errand.argument(0), 8))
        records = _CAPABILITY_VERSIONS.get(version)
        if not records:
            return  # the kernel tells which it knows
        if of and of != (yield (186,)):
            errand.result = -errno.EPERM
            return
        words = (*unpack(f"<{3 * records}I", errand.read(errand.argument(1), 12 * records)), 0, 0, 0)
        effective, permitted, inheritable = (words[place] | words[3 + place] << 32 for place in range(3))
        privileges = self._users.of(errand.pid)
        held = self._users.held(privileges)
        allowed = privileges.set(effective, permitted, inheritable)
        errand.result = 0 if allowed else -errno.EPERM
        if self._users.held(privileges) != held:
            yield from self._settle_if_free(errand, privileges)

    def prctl(self, errand: Errand) -> Work:
        option, value = errand.argument(0) & 0xFFFFFFFF, errand.argument(1)
        privileges = self._users.of(errand.pid)
        if option == PR_SET_PDEATHSIG:
            if (yield OWN) == 0:
                privileges.death_signal = value
        elif option == 22:  # PR_SET_SECCOMP
            yield from self._confine(errand, everybody=False)
        else:
            errand.result = virtual_prctl(privileges, option, value, errand.argument(2))

    def seccomp(self, errand: Errand) -> Work:
        if errand.argument(0) & 0xFFFFFFFF <= 1:  # SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER
            yield from self._confine(errand, everybody=bool(errand.argument(1) & _SECCOMP_TSYNC))

    def _confine(self, errand: Errand, everybody: bool) -> Generator[Wanted, int, None]:
        """A filter of the program's own: from then on no call is made in its name, which the filter might punish."""
        privileges = self._users.of(errand.pid)
        if privileges.no_new or privileges.has(bit("SYS_ADMIN")):
            yield PRCTL, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0
        result = yield OWN
        if result == 0:
            for known in self._users.threads(errand.pid) if everybody else [privileges]:
                known.confined = True

    # --- exec -------------------------------------------------------------------------------------------------------

    def execute(self, errand: Errand) -> Work:
        privileges = self._users.of(errand.pid)
        before = Credentials(errand.pid)
        if privileges.confined:
            yield OWN
            if errand.executed:
                self._users.keep(errand.pid, privileges)
                real, effective, _ = self._three(before.uids)
                privileges.execute(real, effective, changed=False)
            return
        yield from self._users.raise_ids(errand)
        yield SETRESUID, 0, _NO_ID, _NO_ID
        yield from self._users.settle(errand)
        result = yield from self._past.attempt(errand, before)
        if errand.executed:
            self._users.keep(errand.pid, privileges)
            yield from self._begin(errand, before)
            return
        yield from self._users.raise_ids(errand)
        yield SETRESUID, before.uids[0], _NO_ID, _NO_ID
        yield from self._users.settle(errand)
        self._users.check_ids(errand.pid)
        errand.result = result

    def _begin(self, errand: Errand, before: Credentials) -> Generator[Wanted, int, None]:
        """A new program, of which nothing has run: give it its ids, capabilities and auxiliary vector."""
        users, pid = self._users, errand.pid
        privileges = users.of(pid)
        file = os.stat(f"/proc/{pid}/exe")
        uid, gid = before.uids[1], before.gids[1]
        if not privileges.no_new and users.rules.set_id(os.readlink(f"/proc/{pid}/exe")):
            if file.st_mode & stat.S_ISUID and self._uids.inside(file.st_uid) >= 0:
                uid = file.st_uid
            both = stat.S_ISGID | stat.S_IXGRP
            if file.st_mode & both == both and self._gids.inside(file.st_gid) >= 0:
                gid = file.st_gid
        changed = (uid, gid) != (before.uids[1], before.gids[1])
        real, real_gid = before.uids[0], before.gids[0]
        secure = real != uid or real_gid != gid
        if secure or changed or Credentials(pid).uids[:3] != (0, uid, uid):
            yield from users.raise_ids(errand)
            yield SETRESGID, real_gid, gid, gid
            yield SETRESUID, real, uid, uid
        else:
            yield SETRESUID, uid, uid, uid
        privileges.execute(self._uids.inside(real), self._uids.inside(uid), changed)
        yield from users.settle(errand)
        now = users.check_ids(pid)
        if now.uids != (real, uid, uid, uid) or now.gids != (real_gid, gid, gid, gid):
            raise Broken("its ids could not be set")
        if secure:
            privileges.death_signal = 0
        else:
            if _is_readable(file, now):
                yield PRCTL, PR_SET_DUMPABLE, 1, 0, 0, 0
            if privileges.death_signal:
                yield PRCTL, PR_SET_PDEATHSIG, privileges.death_signal, 0, 0, 0
        shown = {_AT_UID: self._uids.shown(real), _AT_EUID: self._uids.shown(uid), _AT_GID: self._gids.shown(real_gid),
                 _AT_EGID: self._gids.shown(gid), _AT_SECURE: int(secure)}  # fmt: skip
        tell(pid, errand.frame[ptrace.RSP], shown)
        errand.result = 0


def virtual_prctl(privileges: Privileges, option: int, value: int, third: int) -> int | None:
    """The result of a prctl(2) that is about privileges; None for another. Source: prctl(2)."""
    denied = -errno.EPERM
    if option == PR_SET_NO_NEW_PRIVS and value == 1:
        privileges.no_new = True
        return 0
    if option == 39:  # PR_GET_NO_NEW_PRIVS
        return int(privileges.no_new)
    if option in (23, 24) and value < 64:  # PR_CAPBSET_READ, PR_CAPBSET_DROP
        if value > 40:
            return None
        if option == 23:
            return privileges.bounding >> value & 1
        if not privileges.has(SETPCAP):
            return denied
        privileges.bounding &= ~(1 << value)
        return 0
    if option == 7:  # PR_GET_KEEPCAPS
        return privileges.securebits >> 4 & 1
    if option == 8 and value <= 1:  # PR_SET_KEEPCAPS
        privileges.securebits = privileges.securebits & ~0x10 | value << 4
        return 0
    if option == 27:  # PR_GET_SECUREBITS
        return privileges.securebits
    if option == 28:  # PR_SET_SECUREBITS
        if not privileges.has(SETPCAP):
            return denied
        privileges.securebits = value & 0xFF
        return 0
    if option == 47:  # PR_CAP_AMBIENT
        return _ambient(privileges, value, third)
    return None


def _ambient(privileges: Privileges, operation: int, number: int) -> int | None:
    if operation == 4:
        privileges.ambient = 0
        return 0
    if number > 40 or operation not in (1, 2, 3):
        return None
    one = 1 << number
    if operation == 1:
        return int(bool(privileges.ambient & one))
    if operation == 2:
        if not privileges.permitted & privileges.inheritable & one:
            return -errno.EPERM
        privileges.ambient |= one
    else:
        privileges.ambient &= ~one
    return 0


def _is_readable(file: os.stat_result, who: Credentials) -> bool:
    """Whether a program's file may be read by who runs it: else its memory may not be either."""
    if file.st_uid == who.uids[3]:
        return bool(file.st_mode & stat.S_IRUSR)
    if file.st_gid in (who.gids[3], *who.groups):
        return bool(file.st_mode & stat.S_IRGRP)
    return bool(file.st_mode & stat.S_IROTH)


def tell(pid: int, stack: int, values: dict[int, int]) -> None:
    """Change entries of a new program's auxiliary vector, behind its arguments and its environment."""
    address = stack + 8 * (ptrace.peek(pid, stack) + 2)  # argc, argv and its null
    while word := ptrace.peek(pid, address):
        if word == ptrace.NO_CALL:
            raise Broken("its stack can't be read")
        address += 8
    address += 8
    while kind := ptrace.peek(pid, address):
        if kind == ptrace.NO_CALL:
            raise Broken("its stack can't be read")
        if kind in values:
            ptrace.write(pid, address + 8, pack("<Q", values[kind]))
        address += 16
