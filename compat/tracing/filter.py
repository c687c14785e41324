"""A seccomp filter that stops a thread for its tracer at the calls in question only. Source: seccomp(2), Linux 3.5."""

from __future__ import annotations

import errno

from ..constants import SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_TRACE
from ..seccomp.assembler import ARCH_OFFSET, ARGS_OFFSET, JEQ, JGE, NR_OFFSET, Assembler
from .handler import ALWAYS, ANY_BIT, Handler

AUDIT_ARCH_X86_64 = 0xC000003E
_POINTER_OFFSET = 8  # seccomp_data.instruction_pointer
_JSET = 0x45
_X32 = 0x40000000


def build(handlers: list[Handler]) -> bytes:
    """The program for what handlers look at, all of which have conditions: each one's calls, but those it exempts."""
    out = Assembler()
    allow, ours = out.label(), out.label()
    foreign = SECCOMP_RET_ERRNO | errno.ENOSYS if any(item.native_only for item in handlers) else SECCOMP_RET_ALLOW
    out.load(ARCH_OFFSET)
    out.emit(JEQ, AUDIT_ARCH_X86_64, ours, "")
    out.ret(foreign)
    out.place(ours)
    if foreign != SECCOMP_RET_ALLOW:
        numbered = out.label()
        out.load(NR_OFFSET)
        out.emit(JGE, _X32, "", numbered)
        out.ret(foreign)
        out.place(numbered)
    for handler in handlers:
        following = out.label()
        _exempt(out, *handler.exempt(), following)
        for call, (how, index, value) in sorted((handler.conditions() or {}).items()):
            out.load(NR_OFFSET)
            hit, after = out.label(), out.label()
            out.emit(JEQ, call, hit, after)
            out.place(hit)
            if how != ALWAYS:
                out.load(ARGS_OFFSET + 8 * index)
                here = out.label()
                out.emit(_JSET if how == ANY_BIT else JEQ, value, here, after)
                out.place(here)
            out.ret(SECCOMP_RET_TRACE)
            out.place(after)
        out.place(following)
    out.place(allow)
    out.ret(SECCOMP_RET_ALLOW)
    return out.assemble()


def _exempt(out: Assembler, start: int, end: int, following: str) -> None:
    """Calls from this range, which lies in one 4 GiB, are for the next handler."""
    if not end:
        return
    number, inside = out.label(), out.label()
    out.load(_POINTER_OFFSET + 4)
    out.emit(JEQ, start >> 32, "", number)
    out.load(_POINTER_OFFSET)
    out.emit(JGE, start & 0xFFFFFFFF, inside, number)
    out.place(inside)
    out.emit(JGE, end & 0xFFFFFFFF, number, following)
    out.place(number)
