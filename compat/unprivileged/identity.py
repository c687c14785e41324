"""Ids, groups and capabilities of a thread in a container without privilege: kept by the tracer, by the kernel's rules.

Source: setresuid(2), setreuid(2), setuid(2), setgroups(2), capget(2), prctl(2), capabilities(7).
"""

from __future__ import annotations

import errno
from struct import pack, unpack

from ..tracing import ptrace
from ..tracing.errands import OWN
from ..users.identity import virtual_prctl
from ..users.mapping import UNCHANGED, Ids
from ..users.privileges import SETGID, SETUID, bit
from .person import Person
from .pretence import Pretence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..tracing.errands import Errand, Wanted, Work

_MOST_GROUPS = 65536
_CAPABILITY_VERSIONS = {0x19980330: 1, 0x20071026: 2, 0x20080522: 2}  # and how many records each has
_SETUID, _SETGID, _SETREUID, _SETREGID, _SETRESUID, _SETRESGID = 105, 106, 113, 114, 117, 119
_PRIO_USER = 2
_PRCTL, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 157, 22, 38


class Identity:
    def __init__(self, pretence: Pretence) -> None:
        self._pretence = pretence

    def calls(self) -> dict[int, Callable[[Errand], Work]]:
        out = {
            102: lambda person: person.uids[0], 107: lambda person: person.uids[1],
            104: lambda person: person.gids[0], 108: lambda person: person.gids[1],
        }  # fmt: skip
        return {
            **{number: self._told(what) for number, what in out.items()},
            118: self.get_three, 120: self.get_three, 115: self.get_groups, 116: self.set_groups,
            **dict.fromkeys((_SETUID, _SETREUID, _SETRESUID), self.set_uids),
            **dict.fromkeys((_SETGID, _SETREGID, _SETRESGID), self.set_gids),
            122: self.set_fsuid, 123: self.set_fsgid,
            125: self.get_capabilities, 126: self.set_capabilities, _PRCTL: self.prctl, 317: self.seccomp,
            140: self.priority, 141: self.priority,
        }  # fmt: skip

    def _told(self, what: Callable[[Person], int]) -> Callable[[Errand], Work]:
        def work(errand: Errand) -> Work:
            errand.result = what(self._pretence.of(errand.pid))
            return
            yield

        return work

    # --- what reads -------------------------------------------------------------------------------------------------

    def get_three(self, errand: Errand) -> Work:
        person = self._pretence.of(errand.pid)
        errand.result = 0
        for place, number in enumerate((person.uids if errand.number == 118 else person.gids)[:3]):
            if not ptrace.write(errand.pid, errand.argument(place), pack("<I", number)):
                errand.result = -errno.EFAULT
        return
        yield

    def get_groups(self, errand: Errand) -> Work:
        groups = self._pretence.of(errand.pid).groups
        size = errand.argument(0) & 0xFFFFFFFF
        errand.result = len(groups)
        if size and size < len(groups):
            errand.result = -errno.EINVAL
        elif size and not ptrace.write(errand.pid, errand.argument(1), pack(f"<{len(groups)}I", *groups)):
            errand.result = -errno.EFAULT
        return
        yield

    def priority(self, errand: Errand) -> Work:
        """getpriority(2) and setpriority(2) of a user's processes: the host's user."""
        if errand.argument(0) & 0xFFFFFFFF == _PRIO_USER and errand.argument(1) & 0xFFFFFFFF:
            errand.set_argument(1, self._pretence.container.host[0])
            yield OWN

    # --- what changes ids -------------------------------------------------------------------------------------------

    def set_uids(self, errand: Errand) -> Work:
        person = self._pretence.of(errand.pid)
        before = tuple(person.uids[:3])
        errand.result = self._set(errand, person.uids, person.privileges.has(SETUID), self._pretence.container.uids)
        if errand.result == 0:
            real, effective, saved = person.uids[:3]
            person.privileges.change_ids((before[0], before[1], before[2]), (real, effective, saved))
        return
        yield

    def set_gids(self, errand: Errand) -> Work:
        person = self._pretence.of(errand.pid)
        errand.result = self._set(errand, person.gids, person.privileges.has(SETGID), self._pretence.container.gids)
        return
        yield

    @staticmethod
    def _set(errand: Errand, ids: list[int], privileged: bool, there: Ids) -> int:
        """setuid, setreuid or setresuid of (real, effective, saved, of the file system); 0, or minus an errno."""
        given = [errand.argument(place) & 0xFFFFFFFF for place in range(3)]
        count = {_SETUID: 1, _SETGID: 1, _SETREUID: 2, _SETREGID: 2}.get(errand.number, 3)
        if not all(there.has(number) for number in given[:count]):
            return -errno.EINVAL
        real, effective, saved = ids[:3]
        new = [real, effective, saved]
        if errand.number in (_SETUID, _SETGID):
            wanted = given[0]
            if wanted == UNCHANGED:
                return -errno.EINVAL
            if privileged:
                new = [wanted] * 3
            elif wanted in (real, saved):
                new[1] = wanted
            else:
                return -errno.EPERM
        elif errand.number in (_SETREUID, _SETREGID):
            if given[0] != UNCHANGED:
                if not privileged and given[0] not in (real, effective):
                    return -errno.EPERM
                new[0] = given[0]
            if given[1] != UNCHANGED:
                if not privileged and given[1] not in (real, effective, saved):
                    return -errno.EPERM
                new[1] = given[1]
            if given[0] != UNCHANGED or (given[1] != UNCHANGED and given[1] != real):
                new[2] = new[1]
        else:
            for place, wanted in enumerate(given):
                if wanted != UNCHANGED:
                    if not privileged and wanted not in (real, effective, saved):
                        return -errno.EPERM
                    new[place] = wanted
        ids[:] = [*new, new[1]]
        return 0

    def set_groups(self, errand: Errand) -> Work:
        person = self._pretence.of(errand.pid)
        count = errand.argument(0) & 0xFFFFFFFF
        if not person.privileges.has(SETGID):
            errand.result = -errno.EPERM
        elif count > _MOST_GROUPS:
            errand.result = -errno.EINVAL
        else:
            groups = unpack(f"<{count}I", errand.read(errand.argument(1), 4 * count)) if count else ()
            known = all(gid != UNCHANGED and self._pretence.container.gids.has(gid) for gid in groups)
            errand.result = 0 if known else -errno.EINVAL
            person.groups = tuple(sorted(groups)) if known else person.groups
        return
        yield

    def set_fsuid(self, errand: Errand) -> Work:
        """It returns the former id, and fails for none."""
        person = self._pretence.of(errand.pid)
        before, wanted = person.uids[3], errand.argument(0) & 0xFFFFFFFF
        known = wanted != UNCHANGED and self._pretence.container.uids.has(wanted)
        if known and (person.privileges.has(SETUID) or wanted in person.uids):
            person.uids[3] = wanted
            person.privileges.change_fsuid(before, wanted)
        errand.result = before
        return
        yield

    def set_fsgid(self, errand: Errand) -> Work:
        person = self._pretence.of(errand.pid)
        before, wanted = person.gids[3], errand.argument(0) & 0xFFFFFFFF
        known = wanted != UNCHANGED and self._pretence.container.gids.has(wanted)
        if known and (person.privileges.has(SETGID) or wanted in person.gids):
            person.gids[3] = wanted
        errand.result = before
        return
        yield

    # --- capabilities -----------------------------------------------------------------------------------------------

    def get_capabilities(self, errand: Errand) -> Work:
        version, of = unpack("<Ii", errand.read(errand.argument(0), 8))
        records = _CAPABILITY_VERSIONS.get(version)
        if not records or not errand.argument(1):
            return  # the kernel tells which it knows
        person = self._pretence.known(of) if of else self._pretence.of(errand.pid)
        if person is None:
            yield OWN
            return
        known = person.privileges
        words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32)[:records]
                 for mask in (known.effective, known.permitted, known.inheritable)]  # fmt: skip
        written = ptrace.write(errand.pid, errand.argument(1), pack(f"<{len(words)}I", *words))
        errand.result = 0 if written else -errno.EFAULT

    def set_capabilities(self, errand: Errand) -> Work:
        version, of = unpack("<Ii", errand.read(errand.argument(0), 8))
        records = _CAPABILITY_VERSIONS.get(version)
        if not records:
            yield OWN
            return
        if of not in (0, errand.pid):
            errand.result = -errno.EPERM
            return
        words = (*unpack(f"<{3 * records}I", errand.read(errand.argument(1), 12 * records)), 0, 0, 0)
        effective, permitted, inheritable = (words[place] | words[3 + place] << 32 for place in range(3))
        allowed = self._pretence.of(errand.pid).privileges.set(effective, permitted, inheritable)
        errand.result = 0 if allowed else -errno.EPERM

    def prctl(self, errand: Errand) -> Work:
        option, value = errand.argument(0) & 0xFFFFFFFF, errand.argument(1)
        if option == _PR_SET_SECCOMP:
            yield from self._confine(errand)
            return
        errand.result = virtual_prctl(self._pretence.of(errand.pid).privileges, option, value, errand.argument(2))
        return
        yield

    def seccomp(self, errand: Errand) -> Work:
        if errand.argument(0) & 0xFFFFFFFF <= 1:  # SECCOMP_SET_MODE_STRICT, SECCOMP_SET_MODE_FILTER
            yield from self._confine(errand)

    def _confine(self, errand: Errand) -> Generator[Wanted, int, None]:
        """A filter of the program's own. The memory that names are put into is made before: it may forbid mmap."""
        privileges = self._pretence.of(errand.pid).privileges
        if not privileges.no_new and not privileges.has(bit("SYS_ADMIN")):
            errand.result = -errno.EACCES
            return
        yield from self._pretence.room(errand)
        yield (_PRCTL, _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        yield OWN
