"""The tracer's handler of a container without privilege: which call is whose, and who each thread believes to be."""

from __future__ import annotations

import errno
import os

from .. import files
from ..constants import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
)
from ..errors import JoeyError
from ..tracing import ptrace
from ..tracing.errands import EXECS, OWN
from ..tracing.handler import ALWAYS, ANY_BIT, EQUAL, Condition, Handler
from ..users.emulate import AF_NETLINK, SOCKET, no_audit
from ..users.mapping import Ids
from ..users.privileges import Privileges, bit
from .owners import Owners
from .person import Person
from .tree import Tree, Viewer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..tracing.errands import Errand, Wanted, Work

ROOM = 8192  # bytes
_NUMBERS = 512
_MMAP, _CLONE, _UNAME, _SETHOSTNAME = 9, 56, 63, 170
_PROT_READ, _PRIVATE_ANONYMOUS = 1, 0x22
_NEW = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
# mount, umount2, pivot_root, swapon, swapoff, acct, quotactl, setns, unshare, fanotify_mark, open_tree, move_mount,
# fsopen, fspick, mount_setattr, quotactl_fd, kexec_load, init_module, reboot, settimeofday, clock_settime, bpf
_DENIED = (165, 166, 155, 167, 168, 163, 179, 308, 301, 428, 429, 430, 433, 442, 443, 246, 175, 169, 164, 227, 321)
# uselib, openat2, io_uring, clone3, name_to_handle_at, and attributes by directory: programs have another way
_MISSING = (134, 437, 425, 426, 427, 435, 303, 463, 464, 465, 466)
_CLONE_UNTRACED = 0x00800000  # <linux/sched.h>: it would be born without the tracer


class Container:
    """What a handler is told: `begin` is its first thread, `host` the user's ids, `uids` and `gids` those that are
    there inside, `stub` the program that is executed in the place of all others (loading.py)."""

    __slots__ = ("begin", "gids", "host", "hostname", "owners", "stub", "tree", "uids")

    def __init__(
        self,
        tree: Tree,
        owners: Owners,
        begin: Person,
        host: tuple[int, int],
        uids: Ids,
        gids: Ids,
        hostname: str,
        stub: str,
    ) -> None:
        self.uids = uids
        self.gids = gids
        self.tree = tree
        self.owners = owners
        self.begin = begin
        self.host = host
        self.hostname = hostname
        self.stub = stub


class Pretence(Handler):
    """The handler. Other modules' functions take an errand and go through one call of a thread."""

    native_only = True

    def __init__(self, container: Container) -> None:
        from . import identity, loading, named, owned, sockets

        self.container = container
        self._of: dict[int, Person] = {}
        self._first = 0
        self._executed = False  # until then the first is joey
        self._rooms: dict[int, list[int]] = {}  # of ended threads, by process: for the next ones
        self.sockets: dict[int, str] = {}  # inode of a socket -> the container's name of its file
        names = named.Names(self)
        self._calls: dict[int, Callable[[Errand], Work]] = {
            **dict.fromkeys(_DENIED, _is_denied),
            **dict.fromkeys(_MISSING, _is_missing),
            **names.calls(),
            **owned.Owned(self, names).calls(),
            **identity.Identity(self).calls(),
            **sockets.Sockets(self, names).calls(),
            **loading.Loading(self, names).calls(),
            SOCKET: no_audit,
            _CLONE: _is_denied,
            272: self._unshare,
            _UNAME: self._uname,
            _SETHOSTNAME: self._sethostname,
        }

    # --- the handler's --------------------------------------------------------------------------------------------

    def looks_at(self, number: int) -> bool:
        return number in self._calls

    def conditions(self) -> dict[int, Condition]:
        out = dict.fromkeys(self._calls, (ALWAYS, 0, 0))
        out[_CLONE] = (ANY_BIT, 0, _NEW | _CLONE_UNTRACED)
        out[SOCKET] = (EQUAL, 0, AF_NETLINK)
        return out

    def born(self, pid: int, parent: int) -> None:
        if not self._first:
            self._first = pid
            self._of[pid] = self.container.begin.copy()
            self._of[pid].group = pid
            return
        known = self._of.get(parent)
        made = known.copy() if known else Person(65534, 65534, (), Privileges(0, 0, 0, 0, 0, no_new=True))
        made.group = group_of(pid)
        if made.group != pid:
            made.room = 0  # its maker uses that
        self._of[pid] = made

    def executed(self, pid: int) -> None:
        self._executed = self._executed or pid == self._first
        self._rooms.pop(pid, None)
        if pid not in self._of:
            self._of[pid] = self.container.begin.copy()
            self._of[pid].group = pid

    def ended(self, pid: int) -> None:
        person = self._of.pop(pid, None)
        if person is None or person.group == pid:
            self._rooms.pop(pid, None)
        elif person.room and person.group in self._of:
            self._rooms.setdefault(person.group, []).append(person.room)

    def entered(self, pid: int, number: int) -> bool:
        if pid == self._first and not self._executed and number not in EXECS:
            return False
        instruction = ptrace.peek(pid, self.tracer.registers[ptrace.RIP] - 2) & 0xFFFF
        if number >= _NUMBERS or instruction != ptrace.SYSCALL_INSTRUCTION:  # of x32, of i386, or of nothing
            self.tracer.skip(pid, -errno.ENOSYS)
            return True
        work = self._calls.get(number)
        if work is None or (number == _CLONE and not self.tracer.registers[ptrace.RDI] & (_NEW | _CLONE_UNTRACED)):
            return False
        self.tracer.make_calls(pid, number, work)
        return True

    # --- what the others use ----------------------------------------------------------------------------------------

    def of(self, pid: int) -> Person:
        return self._of[pid]

    def known(self, pid: int) -> Person | None:
        return self._of.get(pid)

    def keep(self, pid: int, person: Person) -> None:
        """What an exec leaves is its maker's, whose thread may not have been the first."""
        self._of[pid] = person

    def threads(self, pid: int) -> list[Person]:
        """Those of all threads of a thread's process."""
        group = group_of(pid)
        return [person for tid, person in self._of.items() if tid == pid or group_of(tid) == group]

    def viewer(self, pid: int) -> Viewer:
        return Viewer(pid, group_of(pid), self.of(pid).root, self._root_of, self._program_of)

    def _root_of(self, pid: int) -> str:
        known = self._of.get(pid)
        return known.root if known else "/"

    def _program_of(self, pid: int) -> str:
        known = self._of.get(pid)
        return known.program if known else ""

    def guest_path(self, pid: int, host: str) -> str:
        """How a thread sees a file of the host; "" for one that is not in its root."""
        guest = self.container.tree.guest_of(host)
        root = self.of(pid).root
        if root == "/" or not guest:
            return guest
        if guest == root:
            return "/"
        return guest[len(root) :] if guest.startswith(root + "/") else ""

    def room(self, errand: Errand, size: int = ROOM) -> Generator[Wanted, int, int]:
        """Memory in the thread's process that is written to by the tracer only; its address, or minus an errno."""
        person = self.of(errand.pid)
        if not person.room and (free := self._rooms.get(person.group)):
            person.room = free.pop()
        if person.room and size <= ROOM and ptrace.read(errand.pid, person.room, 1):
            return person.room
        wanted = max(size, ROOM) + 4095 & -4096
        found = yield (_MMAP, 0, wanted, _PROT_READ, _PRIVATE_ANONYMOUS, -1, 0)
        if found > 0 and size <= ROOM:
            person.room = found
        return found

    # --- the host's name ----------------------------------------------------------------------------------------------

    def _uname(self, errand: Errand) -> Work:
        if (yield OWN) == 0 and self.container.hostname:
            name = os.fsencode(self.container.hostname)[:64]
            ptrace.write(errand.pid, errand.argument(0) + 65, name.ljust(65, b"\0"))

    def _sethostname(self, errand: Errand) -> Work:
        if not self.of(errand.pid).privileges.has(bit("SYS_ADMIN")) or not self.container.hostname:
            errand.result = -errno.EPERM
            return
        self.container.hostname = os.fsdecode(errand.read(errand.argument(0), min(errand.argument(1), 64)))
        errand.result = 0
        return
        yield

    def _unshare(self, errand: Errand) -> Work:
        if errand.argument(0) & _NEW:
            errand.result = -errno.EPERM
        return
        yield


def group_of(tid: int) -> int:
    """The process a thread belongs to: itself where it has ended."""
    try:
        for line in files.read_text(f"/proc/{tid}/status").splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    except (OSError, JoeyError):
        pass
    return tid


def _is_denied(errand: Errand) -> Work:
    errand.result = -errno.EPERM
    return
    yield


def _is_missing(errand: Errand) -> Work:
    errand.result = -errno.ENOSYS
    return
    yield
