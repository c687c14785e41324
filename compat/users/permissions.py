"""Root's way past permissions in an emulated user namespace: to files that are the container's, by their owners' ids.

A call that was denied is made again with the file system id of the owner who may (setfsuid(2)); where even that one's
mode bits are in the way they are added for the time of the call, as the owner could have done. Where the way has
several owners, and leads through a directory that only the thread's own user may search, bits are added for everybody:
nobody else gets there.

So a thread never has more than what one of the container's ids has, whatever its paths lead to the next moment.
"""

from __future__ import annotations

import errno
import os
import stat

from ..tracing.errands import OWN
from ..tracing.naming import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    BIND,
    CONNECT,
    CWD,
    FLAGS_OF,
    MADE,
    MKNOD,
    O_ACCMODE,
    O_NOFOLLOW,
    O_TRUNC,
    OPENAT,
    OPENAT2,
    OPENS,
    OWNED,
    PATHS,
    TAKEN,
    TARGET_R,
    TARGET_W,
    TARGET_X,
    Path,
    open_flags,
    signed,
    socket_path,
    text_of,
)
from .emulate import Broken, Credentials, Users
from .paths import READ, SEARCH, WRITE, Demand, Pinned, Place, place, searched
from .privileges import DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, Privileges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from ..tracing.errands import Errand, Wanted, Work

    Ask = tuple[list[Demand], list[Demand]]  # one path of a call: what its way asks, and what its end

SETFSUID, PRCTL, PR_SET_DUMPABLE, PR_SET_PDEATHSIG = 122, 157, 4, 1
_DENIED = (-errno.EACCES, -errno.EPERM)
_PAST_PERMISSIONS = DAC_OVERRIDE | DAC_READ_SEARCH | FOWNER
_LINKS = (86, 265)
_MAKES_OWN = (83, 258, MKNOD, 259, 88, 266, BIND, *OPENS)  # what is there after it belongs to who made it


class Permissions:
    """`users` has the rules and what each thread believes to have."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._rules = users.rules

    def calls(self) -> dict[int, Callable[[Errand], Work]]:
        out: dict[int, Callable[[Errand], Work]] = dict.fromkeys(PATHS, self.path)
        out.update(dict.fromkeys((BIND, CONNECT), self.address))
        return out

    def path(self, errand: Errand) -> Work:
        """Any call that names files."""
        errand.result = yield from self.attempt(errand)

    def address(self, errand: Errand) -> Work:
        """bind(2) and connect(2), of sockets that are files."""
        if socket_path(errand):
            errand.result = yield from self.attempt(errand)

    def attempt(self, errand: Errand, who: Credentials | None = None) -> Generator[Wanted, int, int]:
        """Make the thread's call; where permissions deny it and the thread is privileged, again as who may do it."""
        result = yield OWN
        privileges = self._users.of(errand.pid)
        if result not in _DENIED or privileges.confined or not privileges.has(_PAST_PERMISSIONS):
            return result
        who = who or Credentials(errand.pid)
        asks: list[Ask] = []
        places: list[Place] = []
        try:
            try:
                self._ask(errand, privileges, who, asks, places)
            except (OSError, ValueError):
                return result  # it leads nowhere
            for uid, lent in self._ways(who, asks):
                again = yield from self._as(errand, who, uid, lent)
                if again not in _DENIED:
                    if again >= 0 and errand.number in _MAKES_OWN and not errand.executed:
                        _give(places[-1], uid, who.uids[3])
                    return again
            if errand.number in _LINKS and privileges.has(FOWNER) and privileges.has(DAC_OVERRIDE):
                return self._link(who, asks, places, result)
        finally:
            for where in places:
                where.close()
        return result

    def _link(self, who: Credentials, asks: list[Ask], places: list[Place], result: int) -> int:
        """Make a hard link in a thread's name: nobody's id may both link the file and write to the directory, where the
        one is another's than the other. What is not the container's stays as it is: user_namespaces(7).
        """
        own = who.uids[3]
        rules = self._rules
        for way, end in asks:
            for demand in (*way, *end):
                status = demand.status
                ours = rules.uids.inside(status.st_uid) >= 0 and rules.gids.inside(status.st_gid) >= 0
                if not ours and (demand.owners or demand.refuses(who, own)):
                    return result
        source, target = places
        if not source.name or not target.name or source.status is None or target.status is not None:
            return result
        if rules.uids.inside(source.status.st_uid) < 0 or rules.gids.inside(source.status.st_gid) < 0:
            return result
        try:
            file = Pinned(source.parent, source.name)
        except OSError:
            return result
        try:
            if (file.status.st_dev, file.status.st_ino) == (source.status.st_dev, source.status.st_ino):
                file.link(target.parent, target.name)
                return 0
        except OSError as error:
            return -(error.errno or errno.EPERM)
        finally:
            file.close()
        return result

    def _ways(self, who: Credentials, asks: list[Ask]) -> Iterator[tuple[int, list[Demand]]]:
        """What can be expected to be let through: whose id is taken, and what is lent for it."""
        own = who.uids[3]
        demands = [demand for way, end in asks for demand in (*way, *end)]
        owners = [owner for demand in demands for owner in (demand.status.st_uid, *demand.owners)]
        for uid in dict.fromkeys([own, *owners]):
            refusals = [demand for demand in demands if demand.refuses(who, uid)]
            theirs = all(demand.lendable and demand.status.st_uid == uid for demand in refusals)
            if theirs and self._rules.uids.inside(uid) >= 0 and (uid != own or refusals):
                yield uid, refusals
        lent = [demand for way, end in asks for demand in self._in_private(who, way, end)]
        if all(demand.lendable for demand in lent):
            yield own, lent

    def _in_private(self, who: Credentials, way: list[Demand], end: list[Demand]) -> Iterator[Demand]:
        """What would refuse the thread as itself, all of it where nobody else gets to: so it can be lent to everybody.

        Where it is not so, what is given can't be lent.
        """
        own = who.uids[3]
        private = False
        for demand in (*way, *end):
            status = demand.status
            if demand.refuses(who, own):
                alone = stat.S_ISDIR(status.st_mode) or status.st_nlink == 1
                mine = status.st_uid == own or (private and alone and self._rules.uids.inside(status.st_uid) >= 0)
                yield demand if mine else Demand(status, demand.bits)
            private = private or (status.st_uid == own and not status.st_mode & stat.S_IXOTH)

    def _as(self, errand: Errand, who: Credentials, uid: int, demands: list[Demand]) -> Generator[Wanted, int, int]:
        """Make the thread's call with another file system id, and with what is lent for it."""
        pid, own = errand.pid, who.uids[3]
        tells = os.stat(f"/proc/{pid}").st_uid == who.uids[1]  # its memory is open to its user
        if uid != own:
            yield from self._users.raise_ids(errand)
            yield (SETFSUID, uid)
            yield from self._users.settle(errand)
        result = -errno.EACCES
        lent: list[tuple[int, int]] = []
        try:
            for fd, mode, bits in _lent(demands, who, uid):
                os.chmod(f"/proc/self/fd/{fd}", mode | bits)
                lent.append((fd, mode))
            result = yield OWN
        except OSError:
            pass  # a mount that is read-only: nothing can be lent there
        finally:
            for fd, mode in lent:
                os.chmod(f"/proc/self/fd/{fd}", mode)
        if uid != own and not errand.executed:
            yield (SETFSUID, own)
            if tells:
                yield PRCTL, PR_SET_DUMPABLE, 1, 0, 0, 0
            if signal := self._users.of(pid).death_signal:
                yield PRCTL, PR_SET_PDEATHSIG, signal, 0, 0, 0
            if Credentials(pid).uids[3] != own:
                raise Broken("its file system id could not be set back")
        return result

    def _ask(
        self, errand: Errand, privileges: Privileges, who: Credentials, out: list[Ask], places: list[Place]
    ) -> None:
        """What the call asks of each file on its ways. Raises OSError where one leads nowhere."""
        for base, path, follow, role in self.paths_of(errand):
            fd = signed(errand.argument(base)) if base != CWD else AT_FDCWD
            end: list[Demand] = []
            if path == CWD and role == OWNED:
                status = os.stat(f"/proc/{errand.pid}/fd/{fd}")
                out.append(([], [Demand(status, 0, owners=(status.st_uid,))]))
                continue
            if path == CWD:
                text = b"."
            else:
                text = socket_path(errand) if errand.number in (BIND, CONNECT) else text_of(errand, path)
            where = place(errand.pid, fd, text, follow)
            places.append(where)
            out.append((searched(where), end))
            if where.status is not None and role != TAKEN:
                end += _of_target(where, where.status, role, errand, who)
            made = role in (MADE, TAKEN) or (where.status is None and errand.number in OPENS)
            if made and where.name:
                end += _of_parent(where)
            if not privileges.has(FOWNER):
                end[:] = [demand for demand in end if not demand.owners]

    def paths_of(self, errand: Errand) -> tuple[tuple[int, int, bool, int], ...]:
        number = errand.number
        if number in (BIND, 42):
            return ((CWD, 1, number == 42, MADE if number == BIND else TARGET_W),)
        if number in OPENS:
            flags = open_flags(errand)
            follow = not flags & O_NOFOLLOW
            return ((0, 1, follow, TARGET_R),) if number in (OPENAT, OPENAT2) else ((CWD, 0, follow, TARGET_R),)
        found = PATHS.get(number, ())
        flag = FLAGS_OF.get(number)
        if flag is None or not errand.argument(flag) & AT_SYMLINK_NOFOLLOW:
            if flag is None or not errand.argument(flag) & AT_EMPTY_PATH:
                return _or_descriptor(errand, found)
            return ((found[0][0], CWD, True, found[0][3]),)  # it is about its descriptor
        return tuple((base, path, False, role) for base, path, _, role in found)


def _give(where: Place, maker: int, owner: int) -> None:
    """What was made as somebody else is the thread's."""
    if maker == owner or where.status is not None:
        return
    try:
        made = Pinned(where.parent, where.name)
        if made.status.st_uid == maker:
            made.chown(owner, -1)
        made.close()
    except OSError:
        return  # it is gone again


def _or_descriptor(errand: Errand, found: tuple[Path, ...]) -> tuple[Path, ...]:
    """utimensat(2) without a path is about its descriptor."""
    if errand.number in (280, 261) and not errand.argument(1):
        return ((0, CWD, True, OWNED),)
    return found


def _of_target(where: Place, status: os.stat_result, role: int, errand: Errand, who: Credentials) -> list[Demand]:
    kind = stat.S_IFMT(status.st_mode)
    if errand.number in OPENS:
        flags = open_flags(errand)
        bits = {0: READ, 1: WRITE}.get(flags & O_ACCMODE, READ | WRITE) | (WRITE if flags & O_TRUNC else 0)
    elif role == OWNED:
        return [Demand(status, 0, owners=(status.st_uid,))]
    elif errand.number in _LINKS:
        # /proc/sys/fs/protected_hardlinks: the owner, or who may read and write a regular file
        if status.st_uid == who.uids[3]:
            return []
        if kind != stat.S_IFREG:
            return [Demand(status, 0, owners=(status.st_uid,))]
        bits = READ | WRITE
    else:
        bits = {TARGET_X: SEARCH, TARGET_R: READ, TARGET_W: WRITE}.get(role, 0)
    if role == TARGET_X and kind == stat.S_IFREG and not status.st_mode & 0o111:
        return [Demand(status, 0, owners=(-1,))]  # nobody may execute it
    if not bits:
        return []
    fd = -1
    if where.held >= 0 and kind in (stat.S_IFREG, stat.S_IFDIR):
        fd = where.keep(os.dup(where.held))
    elif where.name and kind in (stat.S_IFREG, stat.S_IFDIR):
        fd = where.keep(os.open(where.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK,
                                dir_fd=where.parent))  # fmt: skip
        status = os.stat(f"/proc/self/fd/{fd}")
    return [Demand(status, bits, fd)]


def _lent(demands: list[Demand], who: Credentials, uid: int) -> list[tuple[int, int, int]]:
    """For each file its descriptor, its mode, and the bits that are to be there beside."""
    out: dict[tuple[int, int], tuple[int, int, int]] = {}
    for demand in demands:
        key = (demand.status.st_dev, demand.status.st_ino)
        fd, mode, bits = out.get(key, (demand.fd, stat.S_IMODE(demand.status.st_mode), 0))
        out[key] = (fd, mode, bits | demand.bits << demand.shift(who, uid))
    return list(out.values())


def _of_parent(where: Place) -> list[Demand]:
    """To make or take a name, the directory's write permission; in a sticky one, to own it or what is there."""
    folder = os.fstat(where.parent)
    out = [Demand(folder, WRITE | SEARCH, where.parent)]
    if folder.st_mode & stat.S_ISVTX and where.status is not None:
        out.append(Demand(where.status, 0, owners=(where.status.st_uid, folder.st_uid)))
    return out
