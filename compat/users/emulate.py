"""The tracer's handler for an emulated user namespace: which call is whose, and what each thread believes to have."""

from __future__ import annotations

import errno
import os
from struct import pack

from .. import files
from ..constants import CLONE_NEWUSER
from ..errors import JoeyError
from ..tracing import ptrace
from ..tracing.errands import EXECS
from ..tracing.handler import ALWAYS, ANY_BIT, EQUAL, Condition, Handler
from .mapping import Ids
from .privileges import SETGID, SETUID, Privileges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..tracing.errands import Errand, Wanted, Work

_NUMBERS = 512

SOCKET, AF_NETLINK, _NETLINK_AUDIT = 41, 16, 9
_CLONE, _UNSHARE, _IO_URING_SETUP = 56, 272, 425
_MAKERS = (_CLONE, _UNSHARE)  # of a user namespace, by a flag
_CAPSET, _CAPSET_OF_I386 = 126, 185  # the second is no call of x86-64, and by int 0x80 it would change capabilities
_VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


class Broken(JoeyError):
    """A thread is not what it was left as: its process is killed."""


class Rules:
    """One container's namespace: ids, what its first process begins with, and which capabilities are really held.

    `contained`: those that its other namespaces keep from the host. `set_id`: whether set-id bits count for a file at
    a path of the container.
    """

    __slots__ = ("begin", "contained", "gids", "kept", "set_id", "uids")

    def __init__(self, uids: Ids, gids: Ids, begin: Privileges, contained: int, set_id: Callable[[str], bool]) -> None:
        self.uids = uids
        self.gids = gids
        self.begin = begin
        self.contained = contained
        self.kept = contained | SETUID | SETGID
        self.set_id = set_id


class Credentials:
    """What a thread really has. Source: proc(5), status."""

    __slots__ = ("effective", "gids", "groups", "uids", "umask")

    def __init__(self, pid: int) -> None:
        self.uids = self.gids = (0, 0, 0, 0)  # real, effective, saved, of the file system
        self.groups: tuple[int, ...] = ()
        self.effective = 0
        self.umask = 0o022
        for line in files.read_text(f"/proc/{pid}/status").splitlines():
            name, _, rest = line.partition(":")
            if name == "Uid":
                self.uids = _four(rest)
            elif name == "Gid":
                self.gids = _four(rest)
            elif name == "Groups":
                self.groups = tuple(int(word) for word in rest.split())
            elif name == "CapEff":
                self.effective = int(rest, 16)
            elif name == "Umask":
                self.umask = int(rest, 8)


def _four(text: str) -> tuple[int, int, int, int]:
    first, second, third, fourth = (int(word) for word in text.split())
    return first, second, third, fourth


class Users(Handler):
    """The handler. Other modules' functions take an errand and go through one call of a thread."""

    native_only = True

    def __init__(self, rules: Rules) -> None:
        from . import identity, messages, ownership, permissions

        self.rules = rules
        self._of: dict[int, Privileges] = {}
        self._first = 0
        self._executed = False  # until then the first is joey
        past = permissions.Permissions(self)
        self._calls: dict[int, Callable[[Errand], Work]] = {
            **past.calls(),
            **ownership.Ownership(self, past).calls(),
            **identity.Identity(self, past).calls(),
            **messages.Messages(self, past).calls(),
            _IO_URING_SETUP: _is_not_there,
            _CAPSET_OF_I386: _is_not_there,
            SOCKET: no_audit,
            _CLONE: _no_user_namespace,
            _UNSHARE: _no_user_namespace,
        }

    # --- the handler's --------------------------------------------------------------------------------------------

    def looks_at(self, number: int) -> bool:
        return number in self._calls

    def conditions(self) -> dict[int, Condition]:
        out = dict.fromkeys(self._calls, (ALWAYS, 0, 0))
        out[_CLONE] = out[_UNSHARE] = (ANY_BIT, 0, CLONE_NEWUSER)
        out[SOCKET] = (EQUAL, 0, AF_NETLINK)
        return out

    def born(self, pid: int, parent: int) -> None:
        if not self._first:
            self._first = pid
            self._of[pid] = self.rules.begin.copy()
            return
        known = self._of.get(parent)
        self._of[pid] = known.copy() if known else Privileges(0, 0, 0, 0, 0, no_new=True)

    def executed(self, pid: int) -> None:
        self._executed = self._executed or pid == self._first
        if pid not in self._of:
            self._of[pid] = self.rules.begin.copy()

    def ended(self, pid: int) -> None:
        self._of.pop(pid, None)

    def entered(self, pid: int, number: int) -> bool:
        if pid == self._first and not self._executed and number not in EXECS:
            return False
        if number >= _NUMBERS:  # of x32, or of nothing
            self.tracer.skip(pid, -errno.ENOSYS)
            return True
        work = self._calls.get(number)
        if work is None or (number in _MAKERS and not self.tracer.registers[ptrace.RDI] & CLONE_NEWUSER):
            return False  # another handler may have to do with it: what limits forks
        instruction = ptrace.peek(pid, self.tracer.registers[ptrace.RIP] - 2) & 0xFFFF
        if instruction != ptrace.SYSCALL_INSTRUCTION and number != _CAPSET_OF_I386:
            return False  # of i386: another call, which gets nothing that its ids don't allow
        self.tracer.make_calls(pid, number, work)
        return True

    # --- what the others use ----------------------------------------------------------------------------------------

    def of(self, pid: int) -> Privileges:
        return self._of[pid]

    def keep(self, pid: int, privileges: Privileges) -> None:
        """What an exec leaves is its maker's, whose thread may not have been the first."""
        self._of[pid] = privileges

    def threads(self, pid: int) -> list[Privileges]:
        """Those of all threads of a thread's process that are known."""
        return [known for tid, known in self._of.items() if _group(tid) == _group(pid)]

    def held(self, privileges: Privileges) -> int:
        """What a thread is to have really effective."""
        return privileges.effective & self.rules.contained

    def raise_ids(self, errand: Errand) -> Generator[Wanted, int, None]:
        """Make CAP_SETUID and CAP_SETGID effective, for calls that the tracer makes."""
        effective = self.held(self.of(errand.pid)) | SETUID | SETGID
        if bad := (yield from self._set(errand, effective)):
            raise Broken(f"capset failed for it: {os.strerror(-bad)}")

    def settle(self, errand: Errand) -> Generator[Wanted, int, None]:
        """Make effective what the thread is to have, and be sure of it."""
        effective = self.held(self.of(errand.pid))
        result = yield from self._set(errand, effective)
        if result or Credentials(errand.pid).effective != effective:
            raise Broken("its capabilities could not be lowered again")

    def _set(self, errand: Errand, effective: int) -> Generator[Wanted, int, int]:
        kept = self.rules.kept
        low, high = 0xFFFFFFFF, 32
        data = pack("<Ii6I", _VERSION_3, 0, effective & low, kept & low, 0, effective >> high, kept >> high, 0)
        result, _ = yield from errand.with_data(data, lambda at: (_CAPSET, at, at + 8))
        return result

    def check_ids(self, pid: int) -> Credentials:
        """What a thread has by now. Raises Broken where an id is not the container's."""
        now = Credentials(pid)
        if any(self.rules.uids.inside(uid) < 0 for uid in now.uids) or any(
            self.rules.gids.inside(gid) < 0 for gid in (*now.gids, *now.groups)
        ):
            raise Broken("it has an id that is not its container's")
        return now


def _group(tid: int) -> int:
    try:
        for line in files.read_text(f"/proc/{tid}/status").splitlines():
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    except (OSError, JoeyError):
        pass
    return tid


def _is_not_there(errand: Errand) -> Work:
    errand.result = -errno.ENOSYS
    return
    yield


def no_audit(errand: Errand) -> Work:
    """socket(2) of the audit system, which nobody may write to from a user namespace: programs that go on without one
    end where they are root and are denied (sshd, login)."""
    domain, _, protocol = (errand.argument(index) & 0xFFFFFFFF for index in range(3))
    if (domain, protocol) == (AF_NETLINK, _NETLINK_AUDIT):
        errand.result = -errno.EPROTONOSUPPORT
    return
    yield


def _no_user_namespace(errand: Errand) -> Work:
    """A user namespace inside is none that the tracer could follow."""
    errand.result = -errno.EINVAL
    return
    yield
