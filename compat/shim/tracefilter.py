"""A seccomp filter that stops a thread for its tracer at the calls in question only. Source: seccomp(2), Linux 3.5."""

from __future__ import annotations

from ..constants import SECCOMP_RET_ALLOW, SECCOMP_RET_TRACE
from ..seccomp.assembler import ARCH_OFFSET, ARGS_OFFSET, JEQ, JGE, NR_OFFSET, Assembler
from . import emulations

AUDIT_ARCH_X86_64 = 0xC000003E
_POINTER_OFFSET = 8  # seccomp_data.instruction_pointer
_JSET = 0x45


def build(bits: int, base: int, size: int) -> bytes:
    """The program for a mask of emulations whose code is at `base`: calls made from there pass."""
    out = Assembler()
    allow, number = out.label(), out.label()
    out.load(ARCH_OFFSET)
    out.emit(JEQ, AUDIT_ARCH_X86_64, "", allow)
    out.load(_POINTER_OFFSET + 4)
    out.emit(JEQ, base >> 32, "", number)
    out.load(_POINTER_OFFSET)
    inside = out.label()
    out.emit(JGE, base & 0xFFFFFFFF, inside, number)
    out.place(inside)
    out.emit(JGE, (base + size) & 0xFFFFFFFF, number, allow)
    out.place(number)
    for call, (how, index, value) in sorted(emulations.conditions(bits).items()):
        out.load(NR_OFFSET)
        after = out.label()
        hit = out.label()
        out.emit(JEQ, call, hit, after)
        out.place(hit)
        if how == emulations.ALWAYS:
            out.ret(SECCOMP_RET_TRACE)
        else:
            out.load(ARGS_OFFSET + 8 * index)
            out.emit(_JSET if how == emulations.ANY_BIT else JEQ, value, trace_here := out.label(), allow)
            out.place(trace_here)
            out.ret(SECCOMP_RET_TRACE)
        out.place(after)
    out.place(allow)
    out.ret(SECCOMP_RET_ALLOW)
    return out.assemble()
