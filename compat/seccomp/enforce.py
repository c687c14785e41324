"""A seccomp profile enforced by a tracer, for kernels without seccomp filters (before Linux 3.5).

Every call stops for the tracer, which works out what the compiled profile answers. What it judges is in registers, so
no other thread can change it meanwhile. A 32-bit call (int 0x80) of a 64-bit program ends it where its number means
something that the profile does not let through; the kernel does not tell the tracer of those, so it looks at the
instruction, which a program that writes to its own code could change in that moment.
"""

from __future__ import annotations

from struct import pack

from .. import constants as k
from .. import files, syscalls
from ..errors import JoeyError
from ..tracing import guard, ptrace
from ..tracing.handler import Condition, Handler
from . import interpret

_AUDIT_ARCH_X86_64 = 0xC000003E
_ACTION, _DATA = 0xFFFF0000, 0xFFFF
_PASSING = (k.SECCOMP_RET_ALLOW, k.SECCOMP_RET_LOG)
_NUMBERS = 512
_SIGSYS, _SYS_SECCOMP = 31, 1
_ENOSYS = 38
_NO_ARGUMENTS = (0,) * 6


class Profile(Handler):
    """`code` is the compiled profile. It holds from the first program on that the traced process executes."""

    def __init__(self, code: bytes) -> None:
        self._program = interpret.decode(code)
        self._actions: list[int | None] = []  # by number; None where it depends on arguments
        for number in range(_NUMBERS):
            action, looked = interpret.answer(self._program, number, _AUDIT_ARCH_X86_64, 0, _NO_ARGUMENTS)
            self._actions.append(None if looked else action)
        names = {number: name for name, number in syscalls.I386.items()}
        self._foreign = [self._lets_through(names.get(number, "")) for number in range(_NUMBERS)]
        self._first = 0
        self._judged: set[int] = set()

    def _lets_through(self, name: str) -> bool:
        """Whether a call may be made whatever its arguments, by its name."""
        number = syscalls.X86_64.get(name, _NUMBERS)
        return number < _NUMBERS and self._actions[number] is not None and self._passes(self._actions[number] or 0)

    @staticmethod
    def _passes(action: int) -> bool:
        return action & _ACTION in _PASSING

    def looks_at(self, number: int) -> bool:
        action = self._actions[number]
        return action is None or not self._passes(action) or not self._foreign[number]

    def conditions(self) -> dict[int, Condition] | None:
        return None  # numbers beyond any table are to be judged too

    def born(self, pid: int, parent: int) -> None:
        if not self._first:
            self._first = pid
        elif parent in self._judged or not parent:
            self._judged.add(pid)

    def executed(self, pid: int) -> None:
        if pid == self._first:
            self._judged.add(pid)

    def ended(self, pid: int) -> None:
        self._judged.discard(pid)

    def entered(self, pid: int, number: int) -> bool:
        if pid not in self._judged:
            return False
        registers = self.tracer.registers
        action = self._actions[number] if number < _NUMBERS else None
        if ptrace.peek(pid, registers[ptrace.RIP] - 2) & 0xFFFF != ptrace.SYSCALL_INSTRUCTION:
            if number < _NUMBERS and self._foreign[number]:
                return False
            action = k.SECCOMP_RET_KILL_PROCESS
        elif action is None:
            arguments = tuple(registers[place] for place in ptrace.ARGUMENTS)
            action, _ = interpret.answer(self._program, number, _AUDIT_ARCH_X86_64, registers[ptrace.RIP], arguments)
        if self._passes(action):
            return False
        self._refuse(pid, number, action)
        return True

    def _refuse(self, pid: int, number: int, action: int) -> None:
        kind, data = action & _ACTION, action & _DATA
        if kind == k.SECCOMP_RET_ERRNO:
            self.tracer.skip(pid, -data)
        elif kind == k.SECCOMP_RET_TRAP:
            where = self.tracer.registers[ptrace.RIP]
            info = pack("<iiixxxxQiI", _SIGSYS, data, _SYS_SECCOMP, where, number, _AUDIT_ARCH_X86_64)
            self.tracer.skip(pid, number, _SIGSYS, info)
        elif kind == k.SECCOMP_RET_TRACE:
            self.tracer.skip(pid, -_ENOSYS)
        elif pid != self._first and _takes_default(pid):  # the first of a pid namespace would survive it
            self.tracer.skip(pid, -_ENOSYS, _SIGSYS)
        else:
            guard.kill(pid)


def _takes_default(pid: int) -> bool:
    """Whether SIGSYS would end a process: neither blocked, ignored nor caught. Source: proc(5), status."""
    try:
        text = files.read_text(f"/proc/{pid}/status")
    except (OSError, JoeyError):
        return False
    masks = [int(line.split()[1], 16) for line in text.splitlines() if line.startswith(("SigBlk", "SigIgn", "SigCgt"))]
    return not any(mask >> _SIGSYS - 1 & 1 for mask in masks)
