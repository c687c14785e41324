"""Keeps what a tracee makes traced: clone(2) has a flag by which a child is born without its parent's tracer.

clone3(2) has its flags in memory, which another thread may change meanwhile: it is not there. By int 0x80 clone is
number 120, which is getresgid(2) for the others; a tracer can't tell the two for sure. Its flags would be in RBX, where
getresgid has nothing: so where they are, getresgid is answered here and the kernel makes no such call.
"""

from __future__ import annotations

import errno
from struct import pack

from .. import files
from . import ptrace
from .handler import ALWAYS, ANY_BIT, Condition, Handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CLONE, _GETRESGID, _CLONE3 = 56, 120, 435
_CLONE_UNTRACED = 0x00800000  # <linux/sched.h>


class Tether(Handler):
    """`shown`: how a group id looks to a thread that asks for its own."""

    native_only = True

    def __init__(self, shown: Callable[[int], int] = int) -> None:
        self._shown = shown

    def looks_at(self, number: int) -> bool:
        return number in (_CLONE, _GETRESGID, _CLONE3)

    def conditions(self) -> dict[int, Condition]:
        return {_CLONE: (ANY_BIT, 0, _CLONE_UNTRACED), _CLONE3: (ALWAYS, 0, 0)}

    def entered(self, pid: int, number: int) -> bool:
        registers = self.tracer.registers
        if number == _CLONE3:
            self.tracer.skip(pid, -errno.ENOSYS)
        elif number == _CLONE and registers[ptrace.RDI] & _CLONE_UNTRACED:
            self.tracer.skip(pid, -errno.EINVAL)
        elif number == _GETRESGID and registers[ptrace.RBX] & _CLONE_UNTRACED:
            self.tracer.skip(pid, self._answer(pid))
        else:
            return False
        return True

    def _answer(self, pid: int) -> int:
        """getresgid(2) by what /proc tells."""
        registers = self.tracer.registers
        if ptrace.peek(pid, registers[ptrace.RIP] - 2) & 0xFFFF != ptrace.SYSCALL_INSTRUCTION:
            return -errno.EINVAL
        text = files.read_text(f"/proc/{pid}/status")
        line = next(line for line in text.splitlines() if line.startswith("Gid:"))
        for place, word in zip(ptrace.ARGUMENTS, line.split()[1:4], strict=False):
            if not ptrace.write(pid, registers[place], pack("<I", self._shown(int(word)))):
                return -errno.EFAULT
        return 0
