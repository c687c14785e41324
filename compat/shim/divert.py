"""Threads stopped at the calls their kernel lacks, and sent through the shim's code.

At such a call the thread is put into the code (emulations.c), which makes old calls in its place and goes on behind the
call. The code is mapped into a process when it first needs it. So the tracer looks at registers only, and what a call
does is the same as with a rewritten C library.
"""

from __future__ import annotations

import errno
import os
from struct import pack

from .. import constants as k
from ..tracing import ptrace
from ..tracing.handler import ANY_BIT, Condition, Handler
from . import emulations, vdso

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BASE = 0x6A6F_6579_0000  # where the code is mapped: far from where kernels and runtimes put things themselves
_PAGE = 4096
_MMAP, _GETPID = 9, 39
_HITS_TO_PATCH = 3
_REACH = 1 << 28


class Diversion(Handler):
    """`bits` and `code` are the emulations."""

    def __init__(self, bits: int, code: bytes) -> None:
        self.bits = bits
        self.code = code
        self.size = (len(code) + _PAGE - 1) // _PAGE * _PAGE  # bytes that the code takes in a process
        self._conditions = emulations.conditions(bits)
        self._hits: dict[int, dict[int, int]] = {}  # by process: how often a call site has stopped
        self._head = code[:8]
        self._vdso_note = vdso.version_note() if emulations.tells_release(bits) else 0

    def looks_at(self, number: int) -> bool:
        return number in self._conditions

    def conditions(self) -> dict[int, Condition]:
        return self._conditions

    def exempt(self) -> tuple[int, int]:
        return BASE, BASE + self.size

    def ended(self, pid: int) -> None:
        self._hits.pop(pid, None)

    def executed(self, pid: int) -> None:
        """The vDSO of the new program tells another version."""
        self._hits.pop(pid, None)
        if self._vdso_note and (base := vdso.base(pid)):
            ptrace.write(pid, base + self._vdso_note, pack("<I", emulations.VERSION_CODE))

    def entered(self, pid: int, number: int) -> bool:
        condition = self._conditions.get(number)
        if condition is None:
            return False
        registers = self.tracer.registers
        how, index, value = condition
        if how:
            argument = registers[ptrace.ARGUMENTS[index]] & 0xFFFFFFFF
            if not (argument & value if how == ANY_BIT else argument == value):
                return False
        pointer = registers[ptrace.RIP]
        if BASE <= pointer < BASE + self.size:
            return False  # the code's own call
        if ptrace.peek(pid, pointer - 2) & 0xFFFF != ptrace.SYSCALL_INSTRUCTION:
            return False  # int 0x80: another table
        self._divert(pid, number)
        return True

    def _is_mapped(self, pid: int) -> bool:
        return ptrace.peek(pid, BASE).to_bytes(8, "little") == self._head

    def _divert(self, pid: int, number: int) -> None:
        """Send a thread that is at a call through the code instead."""
        if not self._is_mapped(pid):
            self._map(pid, BASE, self.size, lambda at, found: self._fill(at, found, number))
            return
        site = self.tracer.registers[ptrace.RIP] - 7
        if self._is_hot(pid, number, site):
            near = (site & -_PAGE) + (_REACH if site < 2 * _REACH else -_REACH)  # where a jump of 32 bits gets to
            self._map(pid, near, _PAGE, lambda at, found: self._patch(at, found, number, site))
            return
        self._send_off(pid, number)

    def _send_off(self, pid: int, number: int) -> None:
        tracer = self.tracer
        if tracer.by_filter or pid not in tracer.inside:
            self._send(pid, number)
            return
        # at a call's begin a harmless one comes first: since Linux 4.8 a container's filter judges what is set here
        saved = tuple(tracer.registers)
        tracer.registers[ptrace.ORIG_RAX] = _GETPID
        tracer.put(pid)
        tracer.inside[pid] = lambda at: self._send(at, number, saved)
        tracer.resume(pid)

    def _send(self, pid: int, number: int, saved: tuple[int, ...] = ()) -> None:
        """Have a thread go on in the code, from there to where it was by its `saved` or present registers."""
        registers = self.tracer.registers
        for place, word in enumerate(saved):
            registers[place] = word
        registers[ptrace.RCX] = registers[ptrace.RIP]
        registers[ptrace.RIP] = BASE + emulations.DIVERTED
        registers[ptrace.RAX] = number
        registers[ptrace.ORIG_RAX] = ptrace.NO_CALL
        self.tracer.put(pid)
        self.tracer.resume(pid)

    def _map(self, pid: int, address: int, size: int, after: Callable[[int, int], None]) -> None:
        """Make the thread's call an mmap of executable memory; then its registers are as before, and `after` is called
        with where it is, or minus an errno."""
        registers = self.tracer.registers
        saved = tuple(registers)
        registers[ptrace.ORIG_RAX] = registers[ptrace.RAX] = _MMAP
        registers[ptrace.RDI], registers[ptrace.RSI], registers[ptrace.RDX] = address, size, 5  # PROT_READ | PROT_EXEC
        registers[ptrace.R10], registers[ptrace.R8], registers[ptrace.R9] = (
            0x22,
            ptrace.NO_CALL,
            0,
        )  # private, anonymous

        def mapped(at: int) -> None:
            self.tracer.load(at)
            found = registers[ptrace.RAX]
            if found == _MMAP:  # its begin: before Linux 4.8 that comes after the filter's stop
                self.tracer.inside[at] = mapped
                self.tracer.resume(at, k.PTRACE_SYSCALL)
                return
            for place, word in enumerate(saved):
                registers[place] = word
            after(at, found)

        self.tracer.put(pid)
        self.tracer.inside[pid] = mapped
        self.tracer.resume(pid, k.PTRACE_SYSCALL)

    def _fill(self, pid: int, found: int, number: int) -> None:
        """Write the code where it has been mapped, and send the thread there; ENOMEM where that is not possible."""
        if self._is_mapped(pid) or (found == BASE and ptrace.write(pid, BASE, self.code)):
            self._send_off(pid, number)
            return
        registers = self.tracer.registers
        if 0 < found < 1 << 47 and found != BASE:
            registers[ptrace.RIP] -= 2  # another thread is mapping it: this one makes its call again
            registers[ptrace.RAX] = number
        else:
            registers[ptrace.RAX] = -errno.ENOMEM & ptrace.NO_CALL
        registers[ptrace.ORIG_RAX] = ptrace.NO_CALL
        self.tracer.put(pid)
        self.tracer.resume(pid)

    def _is_hot(self, pid: int, number: int, site: int) -> bool:
        """Whether a call site is worth changing, and can be: `mov $NUMBER,%eax; syscall` in a process of one thread.

        A thread that runs while its code is being written may see half of it.
        """
        hits = self._hits.setdefault(pid, {})
        hits[site] = hits.get(site, 0) + 1
        if hits[site] != _HITS_TO_PATCH:
            return False
        before = ptrace.peek(pid, site - 1).to_bytes(8, "little")
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
            if ptrace.write(pid, found, stub):
                ptrace.write(pid, site, b"\xe9" + pack("<i", found - (site + 5)))
        self._send_off(pid, number)
