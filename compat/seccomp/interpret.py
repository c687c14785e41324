"""What a seccomp program answers, worked out here: for kernels that can't run it (compat/seccomp/enforce.py).

Source: Documentation/userspace-api/seccomp_filter.rst, <linux/bpf_common.h>. Only what assembler.py emits.
"""

from __future__ import annotations

from struct import pack, unpack_from

from .assembler import AND, ARGS_OFFSET, JA, JEQ, JGE, JGT, LD_ABS, RET

Program = list[tuple[int, int, int, int]]


def decode(code: bytes) -> Program:
    """(opcode, jump if true, jump if false, value) of each instruction."""
    return [unpack_from("<HBBI", code, at) for at in range(0, len(code), 8)]


def answer(program: Program, number: int, arch: int, pointer: int, arguments: tuple[int, ...]) -> tuple[int, bool]:
    """The action for a call, and whether its arguments had a say."""
    data = pack("<IIQ6Q", number & 0xFFFFFFFF, arch, pointer, *arguments)
    value = at = 0
    looked = False
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == LD_ABS:
            value = unpack_from("<I", data, k)[0]
            looked = looked or k >= ARGS_OFFSET
        elif code == RET:
            return k, looked
        elif code == JA:
            at += k
        elif code == AND:
            value &= k
        else:
            holds = value == k if code == JEQ else value >= k if code == JGE else value > k
            assert code in (JEQ, JGE, JGT)
            at += if_true if holds else if_false
