"""What becomes of a 32-bit program under a tracer, which knows the calls of 64-bit ones only: it says so, and ends."""

from __future__ import annotations

import os

from .. import constants as k
from . import guard, ptrace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tracer import Tracer

_WRITE = 4  # of i386


def say_and_kill(tracer: Tracer, pid: int) -> None:
    """At the end of its exec: have it say so itself, by its own rights, and kill it."""
    text = f"joey: {_program(pid)}: a 32-bit program can't run under the tracer\n".encode("utf-8", "replace")
    registers = tracer.registers
    tracer.load(pid)
    stack = registers[ptrace.RSP] - 8192 & ~7
    if not (ptrace.write(pid, stack, text) and ptrace.write(pid, registers[ptrace.RIP], b"\xcd\x80")):  # int $0x80
        guard.kill(pid)
        return
    registers[ptrace.RAX], registers[ptrace.RBX] = _WRITE, 2
    registers[ptrace.RCX], registers[ptrace.RDX] = stack, len(text)
    registers[ptrace.ORIG_RAX] = ptrace.NO_CALL
    tracer.put(pid)

    def begun(at: int) -> None:
        tracer.inside[at] = guard.kill  # the write's end is the program's
        tracer.resume(at, k.PTRACE_SYSCALL)

    tracer.inside[pid] = begun
    tracer.resume(pid, k.PTRACE_SYSCALL)


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return f"process {pid}"
