"""Calls that name files, in a container without privilege: made with the host's names.

What the thread may do is judged by the owners and modes that are written down. Where the kernel denies its user what
root may do with files of that user's, the mode is written down and the file given the bits; then the call is made
again.
"""

from __future__ import annotations

import errno
import os
import stat

from ..tracing import ptrace
from ..tracing.errands import OWN
from ..tracing.naming import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
    CREAT,
    CWD,
    FLAGS_OF,
    MADE,
    O_ACCMODE,
    O_CREAT,
    O_EXCL,
    O_NOFOLLOW,
    O_TRUNC,
    OPENAT,
    OPENS,
    PATHS,
    REACH,
    TAKEN,
    TARGET_R,
    TARGET_W,
    TARGET_X,
    Path,
    base_of,
    open_flags,
    text_of,
)
from ..users.messages import STATUS, put_in_place
from ..users.privileges import FSETID, bit
from .owners import Owner, disk_mode
from .person import READ, SEARCH, WRITE, Person
from .pretence import Pretence
from .tree import MAGIC, Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..tracing.errands import Errand, Wanted, Work

_MKDIRS, _SYMLINKS = (83, 258), (88, 266)
_CHROOT, _GETCWD, _READLINK, _READLINKAT, _LINKAT = 161, 79, 89, 267, 265
_WRITES = (76, 132, 235, 261, 280, 188, 189, 197, 198, 90, 268, 452, 92, 94, 260)  # of what is at the end
_TAKES = (84, 87, 263, 82, 264, 316)  # calls after which a name is gone
_SET_ID = 0o6000
_HOST_DEVICES = {(1, 3): "null", (1, 5): "zero", (1, 7): "full", (1, 8): "random", (1, 9): "urandom", (5, 0): "tty"}


class Names:
    """Also what the other modules find files by."""

    def __init__(self, pretence: Pretence) -> None:
        self._pretence = pretence
        self._tree = pretence.container.tree
        self._owners = pretence.container.owners

    def calls(self) -> dict[int, Callable[[Errand], Work]]:
        named = [number for number, paths in PATHS.items() if any(path[1] != CWD for path in paths)]
        out: dict[int, Callable[[Errand], Work]] = dict.fromkeys(named, self.path)
        out.update(dict.fromkeys((number for number in OPENS if number != 437), self.open))
        out.update(dict.fromkeys((*_MKDIRS, *_SYMLINKS), self.make))
        out.update(dict.fromkeys(_TAKES, self.take))
        out[76] = self.truncate
        out.update({_GETCWD: self.getcwd, _READLINK: self.readlink, _READLINKAT: self.readlink, _CHROOT: self.chroot})
        return out

    # --- where a path leads -------------------------------------------------------------------------------------------

    def place(self, errand: Errand, base: int, text: bytes, follow: bool, taken: bool = False) -> Place:
        """The place of a path of the thread's; `base` is the descriptor (or AT_FDCWD) that it is relative to. A
        directory on the way that only root may search is opened for its user first. Raises OSError."""
        pid = errand.pid
        viewer = self._pretence.viewer(pid)
        name = os.fsdecode(text)
        start = "/"
        if not name.startswith("/"):
            link = f"/proc/{pid}/cwd" if base == AT_FDCWD else f"/proc/{pid}/fd/{base}"
            try:
                start = self._tree.guest_of(os.readlink(link))
            except FileNotFoundError:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None
            if not start:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        for _ in range(64):
            try:
                found = self._tree.resolve(name, start, viewer, follow, taken)
                break
            except PermissionError as error:
                if not error.filename or not self._adopt(os.path.dirname(os.fsdecode(error.filename))):
                    raise
        else:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        self._check_way(self._pretence.of(pid), found)
        return found

    def _check_way(self, person: Person, found: Place) -> None:
        if person.privileges.has(bit("DAC_READ_SEARCH") | bit("DAC_OVERRIDE")):
            return
        for folder in found.way:
            if not person.may(self.owner(folder), SEARCH):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def owner(self, path: str, follow: bool = False) -> Owner:
        """What a file looks like. Raises OSError."""
        return self._owners.of(path, os.stat(path) if follow else os.lstat(path), follow)

    def places(self, errand: Errand) -> list[tuple[int, int, int, Place]]:
        """For each path of a call: the arguments of its directory and of itself, what it is to the call, its place."""
        out = []
        for base, index, follow, role in paths_of(errand):
            found = self.place(errand, base_of(errand, base), text_of(errand, index), follow, role == TAKEN)
            self._check(errand, found, role)
            out.append((base, index, role, found))
        return out

    def _check(self, errand: Errand, found: Place, role: int) -> None:
        """Raises OSError where the thread may not do that."""
        person = self._pretence.of(errand.pid)
        number = errand.number
        status = status_of(found)
        bits = 0
        if number in OPENS:
            flags = open_flags(errand)
            bits = {0: READ, 1: WRITE}.get(flags & O_ACCMODE, READ | WRITE) | (WRITE if flags & O_TRUNC else 0)
            if flags & os.O_PATH == os.O_PATH:
                bits = 0
            if status is None and flags & O_CREAT:
                role = MADE
        changes = role in (MADE, TAKEN) or (bits & WRITE) or number in _WRITES
        if changes and self._tree.bind_of(found.guest).read_only:
            special = status is not None and not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode)
            if not (number in OPENS and special):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if found.magic:
            return
        if role in (MADE, TAKEN):
            self._check_parent(person, found, role, status)
        elif status is not None:
            bits = bits or {TARGET_X: SEARCH, TARGET_R: READ, TARGET_W: WRITE}.get(role, 0)
            owner = self._owners.of(found.host, status)
            if bits and not stat.S_ISLNK(status.st_mode) and not person.may(owner, bits):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    def _check_parent(self, person: Person, found: Place, role: int, status: os.stat_result | None) -> None:
        folder = self._tree.host_of(found.guest.rpartition("/")[0] or "/")
        try:
            parent = self.owner(folder)
        except OSError:
            return  # the kernel says it
        if status is not None and role == MADE:
            return  # it is there already
        if not person.may(parent, WRITE | SEARCH):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        if status is not None and parent.mode & stat.S_ISVTX:
            owner = self._owners.of(found.host, status)
            if not person.owns(owner) and person.uids[3] != parent.uid:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    # --- making the call ----------------------------------------------------------------------------------------------

    def path(self, errand: Errand) -> Work:
        """Any call that names files."""
        if not paths_of(errand):
            return
        errand.result = yield from self.attempt(errand, self.places(errand))

    def attempt(
        self, errand: Errand, places: list[tuple[int, int, int, Place]], others: dict[int, int] | None = None
    ) -> Generator[Wanted, int, int]:
        """Make the thread's call with the host's names, and `others` of its arguments; again where what denied it can
        be opened."""
        result = yield from self._with_names(errand, places, others)
        if result == -errno.EACCES and any(self._open_up(found) for _, _, _, found in places):
            result = yield from self._with_names(errand, places, others)
        return result

    def _with_names(
        self, errand: Errand, places: list[tuple[int, int, int, Place]], others: dict[int, int] | None
    ) -> Generator[Wanted, int, int]:
        names = [os.fsencode(found.host) + b"\0" for _, _, _, found in places]
        if any(len(name) > 4096 for name in names):
            return -errno.ENAMETOOLONG
        room = yield from self._pretence.room(errand)
        if room < 0:
            return room
        at = room
        for (base, index, _, _), name in zip(places, names, strict=True):
            errand.set_argument(index, at)
            if base != CWD:
                errand.set_argument(base, AT_FDCWD)
            at += len(name)
        ptrace.write(errand.pid, room, b"".join(names))
        for index, value in (others or {}).items():
            errand.set_argument(index, value)
        return (yield OWN)

    def _open_up(self, found: Place) -> bool:
        """Give what is on a way, and at its end, the bits that its user needs. False where nothing was missing."""
        done = False
        for path in (*found.way, os.path.dirname(found.host.rstrip("/")), found.host.rstrip("/")):
            done = self._adopt(path) or done
        return done

    def _adopt(self, path: str) -> bool:
        """Write a file's mode down, and give it the bits that its user needs to act as root."""
        try:
            status = os.lstat(path)
            if status.st_uid != self._pretence.container.host[0] or stat.S_ISLNK(status.st_mode):
                return False
            needed = disk_mode(status.st_mode)
            if not self._tree.guest_of(path) or needed == stat.S_IMODE(status.st_mode):
                return False
            owner = self._owners.of(path, status)
            os.chmod(path, needed)
            self._owners.set(path, os.lstat(path), owner)
        except OSError:
            return False
        return True

    # --- what makes and takes names -----------------------------------------------------------------------------------

    def open(self, errand: Errand) -> Work:
        """open(2) and its kin: what it makes is the thread's; a node that is written down is the host's device."""
        places = self.places(errand)
        found = places[0][3]
        status = status_of(found)
        flags = open_flags(errand)
        person = self._pretence.of(errand.pid)
        if status is not None and stat.S_ISREG(status.st_mode) and flags & os.O_PATH != os.O_PATH:
            owner = self._owners.of(found.host, status)
            if owner.is_device:
                name = _HOST_DEVICES.get(owner.device) if stat.S_ISCHR(owner.mode) else None
                if name is None:
                    errand.result = -errno.ENXIO
                    return
                found.host = f"/dev/{name}"
        makes = bool(flags & O_CREAT) and status is None
        index = {CREAT: 1, OPENAT: 3}.get(errand.number, 2)
        mode = errand.argument(index) & 0o7777
        others = {index: mode & ~_SET_ID} if makes and mode & _SET_ID else {}
        result = yield from self.attempt(errand, places, others)
        errand.result = result
        if result < 0:
            return
        if makes:
            self._is_made(person, found.host, mode & _SET_ID)
        elif status is not None and (flags & O_ACCMODE or flags & O_TRUNC):
            self.is_written(person, found, status)
        of = STATUS.search(_link(f"/proc/{errand.pid}/fd/{result}")) if found.host.startswith("/proc/") else None
        known = self._pretence.known(int(of[1])) if of else None
        if of and known:
            yield from put_in_place(errand, result, _status_text(known, int(of[1])))

    def is_written(self, person: Person, found: Place, status: os.stat_result) -> None:
        """Whoever writes to a file takes its set-id bits away, but for root. Writes are not seen: opening does it."""
        if not stat.S_ISREG(status.st_mode) or found.magic or person.privileges.has(FSETID):
            return
        try:
            owner = self._owners.of(found.host, status)
            if owner.mode & _SET_ID and not owner.is_device:
                owner.mode &= ~_SET_ID
                self.write_down(found.host, os.lstat(found.host), owner)
        except OSError:
            return  # it is gone

    def truncate(self, errand: Errand) -> Work:
        places = self.places(errand)
        errand.result = yield from self.attempt(errand, places)
        status = status_of(places[0][3])
        if errand.result == 0 and status is not None:
            self.is_written(self._pretence.of(errand.pid), places[0][3], status)

    def make(self, errand: Errand) -> Work:
        """mkdir(2), symlink(2)."""
        places = self.places(errand)
        found = places[0][3]
        index = {83: 1, 258: 2}.get(errand.number, -1)
        mode = errand.argument(index) & _SET_ID if index > 0 else 0
        others = {index: errand.argument(index) & ~_SET_ID} if mode else {}
        errand.result = yield from self.attempt(errand, places, others)
        if errand.result == 0:
            self._is_made(self._pretence.of(errand.pid), found.host.rstrip("/"), mode)

    def _is_made(self, person: Person, path: str, set_id: int) -> None:
        """Write down to whom something new belongs: to who made it, or the group of its directory."""
        try:
            status = os.lstat(path)
            owner = Owner(person.uids[3], person.gids[3], status.st_mode | set_id)
            parent = self.owner(os.path.dirname(path))
            if parent.mode & stat.S_ISGID and not stat.S_ISLNK(status.st_mode):
                owner.gid = parent.gid
                if stat.S_ISDIR(status.st_mode):
                    owner.mode |= stat.S_ISGID
            if owner.uid or owner.gid or owner.mode != status.st_mode:
                self.write_down(path, status, owner)
            else:
                self._owners.gone(status, always=True)  # what a former file of its number was
        except OSError:
            return  # it is gone again

    def is_made(self, pid: int, path: str, set_id: int = 0) -> None:
        self._is_made(self._pretence.of(pid), path, set_id)

    def check(self, errand: Errand, found: Place, role: int) -> None:
        """Raises OSError where the thread may not do that to what is at a place."""
        self._check(errand, found, role)

    def write_down(self, path: str, status: os.stat_result, owner: Owner, follow: bool = False) -> None:
        """Have a file of the user's look like that. Raises OSError."""
        if not stat.S_ISLNK(status.st_mode) and stat.S_IMODE(status.st_mode) != disk_mode(status.st_mode):
            os.chmod(path, disk_mode(status.st_mode))  # attributes of a file may be written by who may write to it
            status = os.stat(path) if follow else os.lstat(path)
        self._owners.set(path, status, owner, follow)

    def take(self, errand: Errand) -> Work:
        """unlink(2), rmdir(2), rename(2): what was in the table goes with its last name."""
        places = self.places(errand)
        victim = status_of(places[-1][3]) if self._owners.has_table else None
        errand.result = yield from self.attempt(errand, places)
        exchanged = errand.number == 316 and errand.argument(4) & 2  # RENAME_EXCHANGE
        if errand.result == 0 and victim is not None and not exchanged:
            self._owners.gone(victim)

    # --- what tells paths ---------------------------------------------------------------------------------------------

    def getcwd(self, errand: Errand) -> Work:
        there = _link(f"/proc/{errand.pid}/cwd")
        gone = there.endswith(" (deleted)") and not os.path.isdir(there)
        guest = "" if gone else self._pretence.guest_path(errand.pid, there)
        data = os.fsencode(guest) + b"\0"
        if not guest:
            errand.result = -errno.ENOENT
        elif errand.argument(1) < len(data):
            errand.result = -errno.ERANGE
        else:
            errand.result = len(data) if ptrace.write(errand.pid, errand.argument(0), data) else -errno.EFAULT
        return
        yield

    def readlink(self, errand: Errand) -> Work:
        """readlink(2): the kernel's own links tell the container's names."""
        places = self.places(errand)
        found = places[0][3]
        magic = MAGIC.match(found.host)
        text = self._shown_link(errand.pid, found.host, magic[1], magic[2]) if magic else ""
        if not text:
            errand.result = yield from self.attempt(errand, places)
            return
        first = 1 if errand.number == _READLINK else 2
        size = errand.argument(first + 1) & 0xFFFFFFFF
        data = os.fsencode(text)[:size]
        errand.result = len(data) if ptrace.write(errand.pid, errand.argument(first), data) else -errno.EFAULT

    def _shown_link(self, pid: int, host: str, of: str, kind: str) -> str:
        known = self._pretence.known(int(of))
        if kind == "exe" and known:
            return known.program
        if kind == "root" and known:
            return known.root
        return self._pretence.guest_path(pid, _link(host))

    def chroot(self, errand: Errand) -> Work:
        ((_, _, _, found),) = self.places(errand)
        status = status_of(found)
        if not self._pretence.of(errand.pid).privileges.has(bit("SYS_CHROOT")):
            errand.result = -errno.EPERM
        elif status is None:
            errand.result = -errno.ENOENT
        elif not stat.S_ISDIR(status.st_mode):
            errand.result = -errno.ENOTDIR
        else:
            for person in self._pretence.threads(errand.pid):
                person.root = found.guest
            errand.result = 0
        return
        yield


def paths_of(errand: Errand) -> tuple[Path, ...]:
    """The paths of a call that are to be found: none where it is about a descriptor."""
    number = errand.number
    if number in OPENS:
        flags = open_flags(errand)
        follow = not flags & O_NOFOLLOW and flags & (O_CREAT | O_EXCL) != O_CREAT | O_EXCL
        return ((0, 1, follow, REACH),) if number == OPENAT else ((CWD, 0, follow, REACH),)
    if number in (21, 269, 439):
        follow = number != 439 or not errand.argument(3) & AT_SYMLINK_NOFOLLOW
        return ((CWD, 0, True, REACH),) if number == 21 else ((0, 1, follow, REACH),)
    found = PATHS[number]
    if number in (280, 261) and not errand.argument(1):
        return ()  # of its descriptor
    if number == _LINKAT:
        follow = bool(errand.argument(4) & AT_SYMLINK_FOLLOW)
        found = ((0, 1, follow, REACH), found[1])
        if errand.argument(4) & AT_EMPTY_PATH and not text_of(errand, 1):
            return (found[1],)
    flag = FLAGS_OF.get(number)
    if flag is not None:
        if errand.argument(flag) & AT_EMPTY_PATH and not text_of(errand, 1):
            return ()
        if errand.argument(flag) & AT_SYMLINK_NOFOLLOW:
            found = tuple((base, path, False, role) for base, path, _, role in found)
    elif number == _READLINKAT and not text_of(errand, 1):
        return ()
    return tuple(path for path in found if path[1] != CWD)


def status_of(found: Place) -> os.stat_result | None:
    """The status of what is at a place itself; None where nothing is."""
    try:
        return os.stat(found.host) if found.magic else os.lstat(found.host)
    except OSError:
        return None


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _status_text(person: Person, pid: int) -> str:
    """/proc/PID/status, with the ids that a thread believes to have."""
    lines = []
    known = person.privileges
    sets = {"CapInh": known.inheritable, "CapPrm": known.permitted, "CapEff": known.effective,
            "CapBnd": known.bounding, "CapAmb": known.ambient}  # fmt: skip
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            name, _, rest = line.rstrip("\n").partition(":")
            if name in ("Uid", "Gid"):
                rest = "\t" + "\t".join(map(str, person.uids if name == "Uid" else person.gids))
            elif name == "Groups":
                rest = "\t" + "".join(f"{gid} " for gid in person.groups)
            elif name in sets:
                rest = f"\t{sets[name]:016x}"
            elif name == "NoNewPrivs":
                rest = f"\t{int(known.no_new)}"
            lines.append(f"{name}:{rest}\n")
    return "".join(lines)
