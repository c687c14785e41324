"""Threads of a container stopped at the calls their kernel lacks, and sent through the shim's code (ptrace(2)).

At such a call the tracer skips it and puts the thread into the code (emulations.c), which makes old calls in its place
and goes on behind the call. The code is mapped into a process when it first needs it. So the tracer looks at registers
only, and what a call does is the same as with a rewritten C library.

Two ways to stop: at every call (any kernel), or by a seccomp filter at those in question (Linux 3.5, tracefilter.py).

A tracer that dies takes its tracees along: by PTRACE_O_EXITKILL (Linux 3.8), else by a guard, a process of its own that
knows their pids.
"""

from __future__ import annotations

import errno
import os
from struct import pack, unpack_from

from .. import cdata, files, signals
from .. import constants as k
from ..errors import JoeyError, KernelError
from ..process import close_all_but
from . import emulations, guard, vdso

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BASE = 0x6A6F_6579_0000  # where the code is mapped: far from where kernels and runtimes put things themselves
_PAGE = 4096
_WALL = 0x40000000
_SIGTRAP, _SIGSTOP, _SIGCONT, _SIGKILL = 5, 19, 18, 9
_STOPPING = frozenset((19, 20, 21, 22))
_EVENT_FORK, _EVENT_VFORK, _EVENT_CLONE, _EVENT_EXEC, _EVENT_SECCOMP, _EVENT_STOP = 1, 2, 3, 4, 7, 128
_PEEKUSER, _LISTEN, _INTERRUPT, _GETEVENTMSG = 3, 0x4208, 0x4207, 0x4201
# words of struct user_regs_struct, <sys/user.h>
_RBX, _RCX, _RAX, _RDX, _RSI, _RDI, _ORIG_RAX, _RIP, _CS, _RSP = 5, 11, 10, 12, 13, 14, 15, 16, 17, 19
_R8, _R9, _R10 = 9, 8, 7
_REGISTERS = 27
_CS_32BIT = 0x23
_MMAP, _GETPID = 9, 39
_CALL_STOP = (_SIGTRAP | 0x80) << 8 | 0x7F  # with PTRACE_O_TRACESYSGOOD
_HITS_TO_PATCH = 3
_REACH = 1 << 28
_SYSCALL_INSTRUCTION = 0x050F
_GROUP_STOP_POLL = 0.02  # seconds

_ptrace = cdata.function("ptrace", cdata.c_long, cdata.c_int, cdata.c_int, cdata.c_ulong, cdata.c_ulong)


class Options:
    """How to trace: what the kernel can do, by its report.

    `bits` and `code` are the emulations; `seccomp` whether the tracees install the filter; `seize` and `exitkill`
    whether the kernel has PTRACE_SEIZE and PTRACE_O_EXITKILL.
    """

    __slots__ = ("bits", "code", "exitkill", "seccomp", "seize")

    def __init__(self, bits: int, code: bytes, seccomp: bool, seize: bool, exitkill: bool) -> None:
        self.bits = bits
        self.code = code
        self.seccomp = seccomp
        self.seize = seize
        self.exitkill = exitkill

    @property
    def size(self) -> int:
        """Bytes that the code takes in a process."""
        return (len(self.code) + _PAGE - 1) // _PAGE * _PAGE


class Tracer:
    """Traces one process and all that come from it, until the last has ended."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._conditions = emulations.conditions(options.bits)
        self._go = k.PTRACE_CONT if options.seccomp else k.PTRACE_SYSCALL
        self._hits: dict[int, dict[int, int]] = {}  # by process: how often a call site has stopped
        # a thread that is inside a call, and what to do at its end
        self._inside: dict[int, Callable[[int], None] | None] = {}
        self._known: set[int] = set()
        self._unborn: set[int] = set()  # new ones whose first SIGSTOP is still to come
        self._stopped: set[int] = set()  # in a group stop, on kernels that can't listen for its end
        self._guard = 0
        self._guard_pipe = -1
        self._registers = (cdata.c_ulong * _REGISTERS)()
        self._address = cdata.addressof(self._registers)
        self._head = int.from_bytes(options.code[:8], "little")
        self._vdso_note = vdso.version_note() if emulations.tells_release(options.bits) else 0

    # --- life ---------------------------------------------------------------------------------------------------

    def attach(self, pid: int) -> None:
        """Take a process over. It goes on at once. Raises KernelError."""
        flags = k.PTRACE_O_TRACESYSGOOD | k.PTRACE_O_TRACEFORK | k.PTRACE_O_TRACEVFORK | k.PTRACE_O_TRACECLONE
        flags |= k.PTRACE_O_TRACEEXEC
        if self.options.exitkill:
            flags |= k.PTRACE_O_EXITKILL
        if self.options.seccomp:
            flags |= k.PTRACE_O_TRACESECCOMP
        if self.options.seize:
            self._must(k.PTRACE_SEIZE, pid, 0, flags)
            self._must(_INTERRUPT, pid, 0, 0)
            os.waitpid(pid, _WALL)
        else:
            self._must(k.PTRACE_ATTACH, pid, 0, 0)
            os.waitpid(pid, _WALL)
            self._must(k.PTRACE_SETOPTIONS, pid, 0, flags)
        self._add(pid)
        self._must(self._go, pid, 0, 0)

    def run(self) -> None:
        """Trace until no tracee is left."""
        signals.block_child_signal()
        try:
            self._run()
        finally:
            if self._guard:
                os.kill(self._guard, _SIGKILL)  # nothing is left to guard; a pid may be somebody else's by now

    def _run(self) -> None:
        waitpid, ptrace, go, inside, conditions = os.waitpid, _ptrace, self._go, self._inside, self._conditions
        while self._known:
            options = _WALL | (os.WNOHANG if self._stopped else 0)
            try:
                pid, status = waitpid(-1, options)
            except ChildProcessError:
                return
            if status == _CALL_STOP:
                # nearly all stops: a call's begin and end, and nothing to do
                if pid not in inside:
                    inside[pid] = None
                    if ptrace(_PEEKUSER, pid, _ORIG_RAX * 8, 0) not in conditions or not self._entered(pid):
                        ptrace(go, pid, 0, 0)
                elif after := inside.pop(pid):
                    after(pid)
                else:
                    ptrace(go, pid, 0, 0)
            elif pid == 0:
                self._look_at_stopped()
                signals.wait_for_child(_GROUP_STOP_POLL)
            elif status & 0x7F == 0x7F:
                self._stop(pid, status)
            else:
                self._ended(pid)
                self.on_end(pid, status)

    def _add(self, pid: int) -> None:
        if pid not in self._known:
            self._known.add(pid)
            self._tell_guard(pid)

    def _forget(self, pid: int) -> None:
        self._known.discard(pid)
        self._inside.pop(pid, None)
        self._hits.pop(pid, None)
        self._unborn.discard(pid)
        self._stopped.discard(pid)
        self._tell_guard(-pid)

    def _ended(self, pid: int) -> None:
        if pid == self._guard:
            self._guard = 0
            os.close(self._guard_pipe)
            self.start_guard()
            return
        self._forget(pid)

    def on_end(self, pid: int, status: int) -> None:
        """Called for each thread and process that has ended, with its wait status."""

    # --- the guard ----------------------------------------------------------------------------------------------

    def start_guard(self) -> None:
        """Have a process kill the tracees should this one die; where the kernel does, there is none."""
        if self.options.exitkill:
            return
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                close_all_but({read_end}, first=0)  # nobody is to wait for the end of a pipe that only a guard holds
                os.setsid()
                guard.watch(read_end, set(self._known))
            finally:
                os._exit(0)
        os.close(read_end)
        self._guard, self._guard_pipe = pid, write_end

    def _tell_guard(self, number: int) -> None:
        if self._guard:
            try:
                os.write(self._guard_pipe, pack("<i", number))
            except BrokenPipeError:
                pass  # it has ended: wait() tells, and the next one is given all

    # --- stops --------------------------------------------------------------------------------------------------

    def _stop(self, pid: int, status: int) -> None:
        kind = status >> 8 & 0xFF
        event = status >> 16
        signal = 0
        request = self._go
        if event:
            if event == _EVENT_SECCOMP:
                if self._entered(pid):
                    return
            elif event == _EVENT_EXEC:
                request = self._exec(pid)
            elif event == _EVENT_STOP:
                self._add(pid)
                if kind in _STOPPING:
                    request = _LISTEN
        elif pid not in self._known or (kind == _SIGSTOP and pid in self._unborn):
            # a new thread or process: the kernel's SIGSTOP comes, and perhaps another signal before it
            self._add(pid)
            if kind == _SIGSTOP:
                self._unborn.discard(pid)
            else:
                self._unborn.add(pid)
                signal = kind
        else:
            signal = kind
            if kind in _STOPPING and not self.options.seize and not self._is_signal(pid):
                self._stopped.add(pid)  # a group stop: it ends with a SIGCONT
                return
        self._resume(request, pid, signal)

    def _resume(self, request: int, pid: int, signal: int = 0) -> None:
        _ptrace(request, pid, 0, signal)  # ESRCH: it was killed meanwhile, and wait() will tell

    def _is_signal(self, pid: int) -> bool:
        """Whether a stop is a signal's delivery and not the stop of the group that followed one."""
        info = cdata.create_string_buffer(128)
        return _ptrace(k.PTRACE_GETSIGINFO, pid, 0, cdata.addressof(info)) == 0

    def _look_at_stopped(self) -> None:
        """Let those in a group stop go on whose process got a SIGCONT: it stays pending until the first takes it."""
        found = {pid: _status(pid) for pid in self._stopped}
        going = {group for group, continues in found.values() if continues}
        for pid, (group, _) in found.items():
            if group in going:
                self._stopped.discard(pid)
                self._resume(self._go, pid)

    def _entered(self, pid: int) -> bool:
        """A system call's begin. True: the thread is sent another way, and on its way already."""
        number = _ptrace(_PEEKUSER, pid, _ORIG_RAX * 8, 0)
        condition = self._conditions.get(number)
        if condition is None:
            return False
        registers = self._registers
        if _ptrace(k.PTRACE_GETREGS, pid, 0, self._address) < 0:
            return False
        how, index, value = condition
        if how:
            argument = registers[(_RDI, _RSI, _RDX, _R10, _R8, _R9)[index]] & 0xFFFFFFFF
            if not (argument & value if how == emulations.ANY_BIT else argument == value):
                return False
        pointer = registers[_RIP]
        if BASE <= pointer < BASE + self.options.size:
            return False  # the code's own call
        instruction = _ptrace(k.PTRACE_PEEKDATA, pid, pointer - 2, 0) & 0xFFFF
        if instruction != _SYSCALL_INSTRUCTION:
            return False  # int 0x80: another table
        self._divert(pid, number)
        return True

    def _divert(self, pid: int, number: int) -> None:
        """Send a thread that is at a call through the code instead; its registers are in `_registers`."""
        if _ptrace(k.PTRACE_PEEKDATA, pid, BASE, 0) & 0xFFFFFFFFFFFFFFFF != self._head:
            self._map(pid, BASE, self.options.size, lambda at, found: self._fill(at, found, number))
            return
        if self._is_hot(pid, number, self._registers[_RIP] - 7):
            site = self._registers[_RIP] - 7
            near = (site & -_PAGE) + (_REACH if site < 2 * _REACH else -_REACH)  # where a jump of 32 bits gets to
            self._map(pid, near, _PAGE, lambda at, found: self._patch(at, found, number, site))
            return
        self._send_off(pid, number)

    def _send_off(self, pid: int, number: int) -> None:
        if self.options.seccomp or pid not in self._inside:
            self._send(pid, number)
            return
        # at a call's begin a harmless one comes first: since Linux 4.8 a container's filter judges what is set here
        saved = tuple(self._registers)
        self._registers[_ORIG_RAX] = _GETPID
        _ptrace(k.PTRACE_SETREGS, pid, 0, self._address)
        self._inside[pid] = lambda at: self._send(at, number, saved)
        self._resume(self._go, pid)

    def _send(self, pid: int, number: int, saved: tuple[int, ...] = ()) -> None:
        """Have a thread go on in the code, from there to where it was by its `saved` or present registers."""
        registers = self._registers
        for place, word in enumerate(saved):
            registers[place] = word
        registers[_RCX] = registers[_RIP]
        registers[_RIP] = BASE + emulations.DIVERTED
        registers[_RAX] = number
        registers[_ORIG_RAX] = 0xFFFFFFFFFFFFFFFF  # no call
        _ptrace(k.PTRACE_SETREGS, pid, 0, self._address)
        self._resume(self._go, pid)

    def _map(self, pid: int, address: int, size: int, after: Callable[[int, int], None]) -> None:
        """Make the thread's call an mmap of executable memory; then its registers are as before, and `after` is called
        with where it is, or minus an errno."""
        saved = tuple(self._registers)
        registers = self._registers
        registers[_ORIG_RAX] = registers[_RAX] = _MMAP
        registers[_RDI], registers[_RSI], registers[_RDX] = address, size, 5  # PROT_READ | PROT_EXEC
        registers[_R10], registers[_R8], registers[_R9] = 0x22, 0xFFFFFFFFFFFFFFFF, 0  # MAP_PRIVATE | MAP_ANONYMOUS

        def mapped(at: int) -> None:
            _ptrace(k.PTRACE_GETREGS, at, 0, self._address)
            found = registers[_RAX]
            if found == _MMAP:  # its begin: before Linux 4.8 that comes after the filter's stop
                self._inside[at] = mapped
                self._resume(k.PTRACE_SYSCALL, at)
                return
            for place, word in enumerate(saved):
                registers[place] = word
            after(at, found)

        _ptrace(k.PTRACE_SETREGS, pid, 0, self._address)
        self._inside[pid] = mapped
        self._resume(k.PTRACE_SYSCALL, pid)

    def _fill(self, pid: int, found: int, number: int) -> None:
        """Write the code where it has been mapped, and send the thread there; ENOMEM where that is not possible."""
        head = _ptrace(k.PTRACE_PEEKDATA, pid, BASE, 0) & 0xFFFFFFFFFFFFFFFF
        if head == self._head or (found == BASE and self._write(pid, BASE, self.options.code)):
            self._send_off(pid, number)
            return
        registers = self._registers
        if 0 < found < 1 << 47 and found != BASE:
            registers[_RIP] -= 2  # another thread is mapping it: this one makes its call again
            registers[_RAX] = number
        else:
            registers[_RAX] = -errno.ENOMEM & 0xFFFFFFFFFFFFFFFF
        registers[_ORIG_RAX] = 0xFFFFFFFFFFFFFFFF
        _ptrace(k.PTRACE_SETREGS, pid, 0, self._address)
        self._resume(self._go, pid)

    def _is_hot(self, pid: int, number: int, site: int) -> bool:
        """Whether a call site is worth changing, and can be: `mov $NUMBER,%eax; syscall` in a process of one thread.

        A thread that runs while its code is being written may see half of it.
        """
        hits = self._hits.setdefault(pid, {})
        hits[site] = hits.get(site, 0) + 1
        if hits[site] != _HITS_TO_PATCH:
            return False
        before = (_ptrace(k.PTRACE_PEEKDATA, pid, site - 1, 0) & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
        if before[1:] != b"\xb8" + pack("<I", number) + b"\x0f\x05" or before[0] & 0xF0 == 0x40:
            return False  # behind a REX prefix it would be another register
        try:
            return len(os.listdir(f"/proc/{pid}/task")) == 1
        except OSError:
            return False

    def _patch(self, pid: int, found: int, number: int, site: int) -> None:
        """Have the call site jump to a stub at `found`, which calls the code: the next time nothing stops here.

        The jump takes the place of the mov alone. The syscall stays, for who is between the two.
        """
        if 0 < found < 1 << 47 and abs(found - site) < 0x7FFF0000:
            # lea -128(%rsp),%rsp; mov $number,%eax; movabs $code,%r11; call *%r11
            stub = b"\x48\x8d\x64\x24\x80\xb8" + pack("<I", number)
            stub += b"\x49\xbb" + pack("<Q", BASE + emulations.CALLED) + b"\x41\xff\xd3"
            # lea 128(%rsp),%rsp; jmp behind the syscall
            stub += b"\x48\x8d\xa4\x24\x80\x00\x00\x00\xe9"
            stub += pack("<i", site + 7 - (found + len(stub) + 4))
            if self._write(pid, found, stub):
                word = (_ptrace(k.PTRACE_PEEKDATA, pid, site, 0) & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
                jump = b"\xe9" + pack("<i", found - (site + 5))
                _ptrace(k.PTRACE_POKEDATA, pid, site, unpack_from("<Q", jump + word[5:])[0])
        self._send_off(pid, number)

    def _write(self, pid: int, address: int, data: bytes) -> bool:
        data += bytes(-len(data) % 8)
        for at in range(0, len(data), 8):
            if _ptrace(k.PTRACE_POKEDATA, pid, address + at, unpack_from("<Q", data, at)[0]) < 0:
                return False
        return True

    def _exec(self, pid: int) -> int:
        """A new program: other threads are gone; a 32-bit one is refused; the vDSO tells another version."""
        if _ptrace(_PEEKUSER, pid, _CS * 8, 0) == _CS_32BIT:
            self._inside[pid] = self._refuse
            return k.PTRACE_SYSCALL
        self._hits.pop(pid, None)
        former = _event_message(pid)  # the thread that made the call, where it was not the first
        if former and former != pid:
            self._forget(former)
        elif not former:  # before Linux 3.0
            for other in [other for other in self._known if not os.path.exists(f"/proc/{other}")]:
                self._forget(other)
        if not self.options.seccomp:
            self._inside[pid] = None
        else:
            self._inside.pop(pid, None)
        if self._vdso_note:
            base = vdso.base(pid)
            if base:
                address = base + self._vdso_note
                word = _ptrace(k.PTRACE_PEEKDATA, pid, address, 0) & 0xFFFFFFFFFFFFFFFF
                word = word & 0xFFFFFFFF00000000 | emulations.VERSION_CODE
                _ptrace(k.PTRACE_POKEDATA, pid, address, word)
        return self._go

    def _refuse(self, pid: int) -> None:
        """At the end of the exec of a 32-bit program: have it say so itself, by its own rights, and kill it."""
        text = f"joey: {_program(pid)}: a 32-bit program can't run under the tracer\n".encode("utf-8", "replace")
        registers = self._registers
        _ptrace(k.PTRACE_GETREGS, pid, 0, self._address)
        stack = registers[_RSP] - 8192 & ~7
        code = _ptrace(k.PTRACE_PEEKDATA, pid, registers[_RIP], 0) & 0xFFFFFFFFFFFF0000 | 0x80CD  # int $0x80
        if self._write(pid, stack, text) and _ptrace(k.PTRACE_POKEDATA, pid, registers[_RIP], code) == 0:
            registers[_RAX], registers[_RBX], registers[_RCX], registers[_RDX] = 4, 2, stack, len(text)  # write(2)
            registers[_ORIG_RAX] = 0xFFFFFFFFFFFFFFFF
            _ptrace(k.PTRACE_SETREGS, pid, 0, self._address)
            self._inside[pid] = self._say_and_end
            self._resume(k.PTRACE_SYSCALL, pid)
        else:
            guard.kill(pid)

    def _say_and_end(self, pid: int) -> None:
        """The write has begun: its end is the program's."""
        self._inside[pid] = guard.kill
        self._resume(k.PTRACE_SYSCALL, pid)

    def _must(self, request: int, pid: int, address: int, data: int) -> None:
        if _ptrace(request, pid, address, data) < 0:
            raise KernelError("ptrace", cdata.get_errno(), f"process {pid}")


def _event_message(pid: int) -> int:
    value = cdata.c_ulong(0)
    return value.value if _ptrace(_GETEVENTMSG, pid, 0, cdata.addressof(value)) == 0 else 0


def _status(pid: int) -> tuple[int, bool]:
    """The process a thread belongs to, and whether a SIGCONT is pending for it. One that has ended goes on."""
    group, pending = 0, False
    try:
        text = files.read_text(f"/proc/{pid}/status")
    except (OSError, JoeyError):
        return pid, True
    for line in text.splitlines():
        if line.startswith("Tgid:"):
            group = int(line.split()[1])
        elif line.startswith(("SigPnd:", "ShdPnd:")) and int(line.split()[1], 16) >> _SIGCONT - 1 & 1:
            pending = True
    return group, pending


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return f"process {pid}"
