"""Exec in a container without privilege: a program is loaded by the tracer.

The kernel would look for a program's loader in the host's root. So it executes a stub, which has nothing but room; and
before that runs an instruction the program and its loader are mapped into its process by calls in its name, and its
auxiliary vector tells of them as the kernel would have. Source: elf(5), execve(2), getauxval(3), fs/binfmt_elf.c.
"""

from __future__ import annotations

import errno
import os
import stat
from struct import pack

from ..shim.elffile import EM_X86_64, PT_LOAD, ElfFile, NotElf, Segment
from ..tracing import ptrace
from ..tracing.errands import OWN
from ..tracing.naming import AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, base_of, text_of
from ..users.emulate import Broken
from ..users.identity import tell
from .named import Names
from .owners import Owner
from .person import SEARCH
from .pretence import ROOM, Pretence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ..tracing.errands import Errand, Wanted, Work

_EXECVE, _EXECVEAT = 59, 322
_OPEN, _CLOSE, _MMAP, _PRCTL, _PR_SET_NAME, _PR_SET_DUMPABLE = 2, 3, 9, 157, 15, 4
_PROT_NONE, _PROT_READ, _PROT_WRITE, _PROT_EXEC = 0, 1, 2, 4
_PRIVATE, _FIXED, _ANONYMOUS = 2, 0x10, 0x20
_ET_EXEC, _ET_DYN = 2, 3
_PT_PHDR, _PT_GNU_STACK = 6, 0x6474E551
_AT_PHDR, _AT_PHNUM, _AT_BASE, _AT_ENTRY, _AT_UID, _AT_EUID, _AT_GID, _AT_EGID = 3, 5, 7, 9, 11, 12, 13, 14
_AT_SECURE, _AT_EXECFN = 23, 31
_MAX_SCRIPTS = 5  # interpreters of interpreters
_LINE = 256  # bytes of a script's first line
_MOST_WORDS = 1 << 17
_HEAD = 1 << 16  # bytes of a program in which its headers are
_PAGE = 4096
STUB_BASE = 0x2000_0000_0000  # far from where programs are
STUB_ROOM = STUB_BASE + 0x10000  # a page for the program's name, then what the tracer writes to


def stub() -> bytes:
    """The executable that is run in the place of all others: it has an instruction, and room."""
    code = b"\x0f\x0b".ljust(16, b"\x0f")  # ud2: it is never run
    start = 64 + 3 * 56
    header = b"\x7fELF" + bytes((2, 1, 1)).ljust(12, b"\0")
    header += pack("<HHIQQQIHHHHHH", _ET_EXEC, EM_X86_64, 1, STUB_BASE + start, 64, 0, 0, 64, 56, 3, 0, 0, 0)
    size = start + len(code)
    header += pack("<IIQQQQQQ", PT_LOAD, 5, 0, STUB_BASE, STUB_BASE, size, size, _PAGE)
    header += pack("<IIQQQQQQ", PT_LOAD, 6, 0, STUB_ROOM, STUB_ROOM, 0, _PAGE + ROOM, _PAGE)
    header += pack("<IIQQQQQQ", _PT_GNU_STACK, 6, 0, 0, 0, 0, 0, 16)
    return header + code


class _Program:
    """A file that is to be executed, all that decides about it being known."""

    __slots__ = ("before", "elf", "guest", "host", "loader", "loader_host", "owner")

    def __init__(self, guest: str, host: str, elf: ElfFile, owner: Owner) -> None:
        self.guest = guest
        self.host = host
        self.elf = elf
        self.owner = owner
        self.loader: ElfFile | None = None
        self.loader_host = ""
        self.before: list[bytes] | None = None  # words in the place of the first, where it interprets a script


class Loading:
    def __init__(self, pretence: Pretence, names: Names) -> None:
        self._pretence = pretence
        self._names = names
        self._stub = os.fsencode(pretence.container.stub)

    def calls(self) -> dict[int, Callable[[Errand], Work]]:
        return {_EXECVE: self.execute, _EXECVEAT: self.execute}

    def execute(self, errand: Errand) -> Work:
        program = self._find(errand)
        first = 1 if errand.number == _EXECVE else 2
        person = self._pretence.of(errand.pid)
        words = self._words(errand, errand.argument(first)) if program.before is not None else []
        strings = [*(program.before or []), self._stub]
        data = b"".join(word + b"\0" for word in strings)
        pointers = 8 * (len(program.before or []) + len(words) + 1)
        room = yield from self._pretence.room(errand, max(len(data) + pointers + 8, ROOM))
        if room < 0:
            errand.result = room
            return
        # now: an exec closes what a program may be known by (fexecve), and another file may have its name then
        fds: list[int] = []
        for host in (program.host, program.loader_host):
            if host:
                ptrace.write(errand.pid, room, os.fsencode(host) + b"\0")
                fds.append((yield (_OPEN, room, os.O_RDONLY, 0)))
        if min(fds) < 0:
            for fd in fds:
                if fd >= 0:
                    yield (_CLOSE, fd)
            errand.result = min(fds)
            return
        at, places = room, []
        for word in strings:
            places.append(at)
            at += len(word) + 1
        if program.before is not None:
            table = at + 7 & -8
            data = data.ljust(table - room, b"\0") + pack(f"<{pointers // 8}Q", *places[:-1], *words[1:], 0, 0)
            errand.set_argument(first, table)
        ptrace.write(errand.pid, room, data)
        errand.set_argument(first - 1, places[-1])
        if errand.number == _EXECVEAT:
            errand.set_argument(0, AT_FDCWD)
            errand.set_argument(4, 0)
        result = yield OWN
        if not errand.executed:
            for fd in fds:
                yield (_CLOSE, fd)
            errand.result = result
            return
        self._pretence.keep(errand.pid, person)
        person.group = errand.pid
        yield from self._load(errand, program, fds)

    # --- before -------------------------------------------------------------------------------------------------------

    def _find(self, errand: Errand) -> _Program:
        """The program a call executes, by its script's interpreter if it is one. Raises OSError."""
        if errand.number == _EXECVE:
            base, path, follow = AT_FDCWD, text_of(errand, 0), True
        else:
            base, path = base_of(errand, 0), text_of(errand, 1)
            follow = not errand.argument(4) & AT_SYMLINK_NOFOLLOW
            if not path and errand.argument(4) & AT_EMPTY_PATH:
                base, path = AT_FDCWD, b"/proc/self/fd/%d" % base
        before: list[bytes] | None = None
        name = path
        for _ in range(_MAX_SCRIPTS + 1):
            guest, host, owner, head = self._executable(errand, base, name, follow)
            if head[:2] != b"#!":
                found = _Program(guest, host, _parsed(head, host), owner)
                found.before = before
                self._add_loader(errand, found)
                return found
            line = head[2:_LINE].split(b"\n")[0].strip(b" \t")
            interpreter, _, argument = line.partition(b" ") if b" " in line else line.partition(b"\t")
            if not interpreter:
                raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))
            argument = argument.strip(b" \t")
            before = [interpreter, *([argument] if argument else []), name if before is None else before[0],
                      *(before[1:] if before else [])]  # fmt: skip
            base, name, follow = AT_FDCWD, interpreter, True
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _executable(self, errand: Errand, base: int, name: bytes, follow: bool) -> tuple[str, str, Owner, bytes]:
        """Both names of a file that the thread may execute, its owner, and its head."""
        found = self._names.place(errand, base, name, follow)
        status = os.stat(found.host) if found.magic else os.lstat(found.host)
        if stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        owner = self._names.owner(found.host, found.magic)
        if not stat.S_ISREG(status.st_mode) or not self._pretence.of(errand.pid).may(owner, SEARCH):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        fd = os.open(found.host, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            head = os.pread(fd, _HEAD, 0)
        finally:
            os.close(fd)
        guest = found.guest
        if found.magic:
            guest = self._pretence.container.tree.guest_of(os.readlink(found.host)) or guest
        return guest, found.host, owner, head

    def _add_loader(self, errand: Errand, program: _Program) -> None:
        if name := program.elf.interpreter:
            _, program.loader_host, _, head = self._executable(errand, AT_FDCWD, os.fsencode(name), follow=True)
            program.loader = _parsed(head, program.loader_host)

    @staticmethod
    def _words(errand: Errand, address: int) -> list[int]:
        """The pointers of an argument vector. Raises OSError."""
        out: list[int] = []
        while address and (word := ptrace.peek(errand.pid, address + 8 * len(out))):
            if word == ptrace.NO_CALL:
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
            if len(out) >= _MOST_WORDS:
                raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
            out.append(word)
        return out

    # --- after --------------------------------------------------------------------------------------------------------

    def _load(self, errand: Errand, program: _Program, fds: list[int]) -> Generator[Wanted, int, None]:
        """The stub's process is new: make it the program's."""
        pid = errand.pid
        person = self._pretence.of(pid)
        person.room = STUB_ROOM + _PAGE
        person.program = program.guest
        secure = self._take_ids(pid, program.owner)
        bias = yield from self._map(errand, fds[0], program.host, program.elf)
        entry = start = program.elf.entry + bias
        base = 0
        if program.loader is not None:
            base = yield from self._map(errand, fds[1], program.loader_host, program.loader)
            start = program.loader.entry + base
        name = os.fsencode(program.guest)
        ptrace.write(pid, STUB_ROOM, name[: _PAGE - 1] + b"\0")
        tell(pid, errand.frame[ptrace.RSP], {
            _AT_PHDR: bias + _table_of(program.elf), _AT_PHNUM: program.elf.count, _AT_BASE: base, _AT_ENTRY: entry,
            _AT_EXECFN: STUB_ROOM, _AT_UID: person.uids[0], _AT_EUID: person.uids[1], _AT_GID: person.gids[0],
            _AT_EGID: person.gids[1], _AT_SECURE: int(secure),
        })  # fmt: skip
        ptrace.write(pid, person.room, name.rpartition(b"/")[2][:15] + b"\0")
        yield (_PRCTL, _PR_SET_NAME, person.room, 0, 0, 0)
        errand.frame[ptrace.RIP] = start
        errand.result = 0

    def _take_ids(self, pid: int, owner: Owner) -> bool:
        """What an exec does to ids and capabilities; whether the program is to be careful."""
        person = self._pretence.of(pid)
        before = person.uids[1], person.gids[1]
        uid, gid = before
        if not person.privileges.no_new:
            if owner.mode & stat.S_ISUID:
                uid = owner.uid
            both = stat.S_ISGID | stat.S_IXGRP
            if owner.mode & both == both:
                gid = owner.gid
        person.uids[1:] = [uid] * 3
        person.gids[1:] = [gid] * 3
        person.privileges.execute(person.uids[0], uid, (uid, gid) != before)
        return person.uids[0] != uid or person.gids[0] != gid

    @staticmethod
    def _map(errand: Errand, fd: int, host: str, elf: ElfFile) -> Generator[Wanted, int, int]:
        """Map an open file's segments, and close it; how far from their addresses they are. Raises Broken."""
        pid = errand.pid
        segments = elf.of_kind(PT_LOAD)
        low = min(segment.address for segment in segments) & -_PAGE
        high = max(segment.address + segment.memory_size for segment in segments) + _PAGE - 1 & -_PAGE
        bias = 0
        if elf.type == _ET_DYN:
            found = yield (_MMAP, 0, high - low, _PROT_NONE, _PRIVATE | _ANONYMOUS, -1, 0)
            if found < 0:
                raise Broken(f"{host} can't be mapped: {os.strerror(-found)}")
            bias = found - low
        for segment in segments:
            yield from _map_segment(pid, fd, bias, segment, host)
        yield (_CLOSE, fd)
        return bias


def _map_segment(pid: int, fd: int, bias: int, segment: Segment, host: str) -> Generator[Wanted, int, None]:
    prot = sum(ours for theirs, ours in ((4, _PROT_READ), (2, _PROT_WRITE), (1, _PROT_EXEC)) if segment.flags & theirs)
    begin = bias + segment.address
    end = begin + segment.file_size
    first = begin & -_PAGE
    if segment.file_size:
        result = yield (_MMAP, first, end - first, prot, _PRIVATE | _FIXED, fd, segment.offset - (begin - first))
        if result != first:
            raise Broken(f"{host} can't be mapped: {os.strerror(-result)}")
    whole = end + _PAGE - 1 & -_PAGE if segment.file_size else first
    last = bias + segment.address + segment.memory_size
    if last > end and segment.file_size and segment.flags & 2:
        ptrace.write(pid, end, bytes(whole - end))  # to the page's end, as the kernel does: loaders rely on it
    if last > whole:
        size = (last - whole + _PAGE - 1) & -_PAGE
        result = yield (_MMAP, whole, size, prot, _PRIVATE | _FIXED | _ANONYMOUS, -1, 0)
        if result != whole:
            raise Broken(f"{host} can't be mapped: {os.strerror(-result)}")


def _parsed(head: bytes, host: str) -> ElfFile:
    """What is executable here: a 64-bit program. Raises OSError."""
    try:
        elf = ElfFile(head, host)
    except NotElf:
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC)) from None
    segments = elf.of_kind(PT_LOAD)
    fits = elf.bits == 64 and elf.machine == EM_X86_64 and elf.type in (_ET_EXEC, _ET_DYN) and segments
    sane = all(
        segment.file_size <= segment.memory_size < 1 << 46 and segment.address < 1 << 46
        and (segment.address - segment.offset) % _PAGE == 0
        for segment in segments
    )  # fmt: skip
    if not fits or not sane:
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))
    return elf


def _table_of(elf: ElfFile) -> int:
    """The address of the program headers."""
    for segment in elf.of_kind(_PT_PHDR):
        return int(segment.address)
    for segment in elf.of_kind(PT_LOAD):
        if segment.offset <= elf.table < segment.offset + segment.file_size:
            return int(segment.address + elf.table - segment.offset)
    return 0
