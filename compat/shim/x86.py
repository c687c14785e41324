"""Where x86-64 instructions begin and end, which of them jump, and which depend on where they stand.

Source: Intel SDM volume 2, appendix A (opcode maps) and chapter 2 (instruction format).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NO_MODRM, MODRM, IMM8, IMM_Z, MODRM_IMM8, MODRM_IMM_Z, BRANCH8, BRANCH32, MOV_IMM, MOFFS, IMM16, ENTER, GROUP3, BAD = (
    range(14)
)

_PREFIXES = frozenset((0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65))


def _one_byte() -> list[int]:
    table = [NO_MODRM] * 256
    for row in range(0, 0x40, 8):
        table[row : row + 8] = [MODRM, MODRM, MODRM, MODRM, IMM8, IMM_Z, BAD, BAD]
    for op in (0x60, 0x61, 0x62, 0x82, 0x9A, 0xC4, 0xC5, 0xCE, 0xD4, 0xD5, 0xD6, 0xEA):
        table[op] = BAD
    for op in (0x63, *range(0x84, 0x90), 0xD0, 0xD1, 0xD2, 0xD3, *range(0xD8, 0xE0), 0xFE, 0xFF):
        table[op] = MODRM
    for op in (0x6A, 0xA8, *range(0xB0, 0xB8), 0xCD, 0xE4, 0xE5, 0xE6, 0xE7):
        table[op] = IMM8
    for op in (0x68, 0xA9):
        table[op] = IMM_Z
    for op in (0x6B, 0x80, 0x83, 0xC0, 0xC1, 0xC6):
        table[op] = MODRM_IMM8
    for op in (0x69, 0x81, 0xC7):
        table[op] = MODRM_IMM_Z
    for op in (*range(0x70, 0x80), 0xE0, 0xE1, 0xE2, 0xE3, 0xEB):
        table[op] = BRANCH8
    for op in (0xE8, 0xE9):
        table[op] = BRANCH32
    for op in range(0xB8, 0xC0):
        table[op] = MOV_IMM
    for op in range(0xA0, 0xA4):
        table[op] = MOFFS
    for op in (0xC2, 0xCA):
        table[op] = IMM16
    table[0xC8] = ENTER
    for op in (0xF6, 0xF7):
        table[op] = GROUP3
    return table


def _two_byte() -> list[int]:
    table = [MODRM] * 256
    for op in (0x05, 0x06, 0x07, 0x08, 0x09, 0x0B, *range(0x30, 0x38), 0x77, 0xA0, 0xA1, 0xA2, 0xA8, 0xA9, 0xAA,
               *range(0xC8, 0xD0)):  # fmt: skip
        table[op] = NO_MODRM
    for op in (0x70, 0x71, 0x72, 0x73, 0xA4, 0xAC, 0xBA, 0xC2, 0xC4, 0xC5, 0xC6):
        table[op] = MODRM_IMM8
    for op in range(0x80, 0x90):
        table[op] = BRANCH32
    for op in (0x04, 0x0A, 0x0C, 0x0F, 0x24, 0x25, 0x26, 0x27, 0x36, 0x39, 0x3B, 0x3C, 0x3D, 0x3E, 0x3F):
        table[op] = BAD
    return table


_ONE, _TWO = _one_byte(), _two_byte()
_VECTOR_IMM8 = frozenset((0x70, 0x71, 0x72, 0x73, 0xC2, 0xC4, 0xC5, 0xC6))


class Instruction:
    """`at` and `end` are offsets in the code, `target` where a direct jump or call leads (-1: not one).

    `movable`: it does the same at another address.
    """

    __slots__ = ("at", "end", "movable", "target")

    def __init__(self, at: int, end: int, target: int, movable: bool) -> None:
        self.at = at
        self.end = end
        self.target = target
        self.movable = movable


def instructions(code: bytes, start: int, end: int) -> Iterator[Instruction]:
    """The instructions from `start` up to `end`; ends early where the bytes are none that this module knows."""
    at = start
    while at < end:
        found = decode(code, at)
        if found is None or found.end > end:
            return
        yield found
        at = found.end


def decode(code: bytes, at: int) -> Instruction | None:
    """The instruction at an offset, or None where there is none that is known."""
    try:
        return _decode(code, at)
    except IndexError:
        return None


def _decode(code: bytes, start: int) -> Instruction | None:
    at = start
    short = False  # a 16-bit operand
    while code[at] in _PREFIXES:
        short = short or code[at] == 0x66
        at += 1
        if at - start > 14:
            return None
    wide = False
    if code[at] & 0xF0 == 0x40:
        wide = bool(code[at] & 8)
        at += 1
    op = code[at]
    at += 1
    immediate = 0
    if op in (0xC5, 0xC4, 0x62):
        return _decode_vector(code, start, at, op)
    if op == 0x0F:
        op = code[at]
        at += 1
        if op in (0x38, 0x3A):
            at += 1
            form = MODRM if op == 0x38 else MODRM_IMM8
        else:
            form = _TWO[op]
            if op == 0x78 and short:
                return None
    else:
        form = _ONE[op]
    if form == BAD:
        return None
    if form in (BRANCH8, BRANCH32):
        size = 1 if form == BRANCH8 else 4
        _ = code[at + size - 1]
        distance = int.from_bytes(code[at : at + size], "little", signed=True)
        return Instruction(start, at + size, at + size + distance, False)
    movable = True
    if form in (MODRM, MODRM_IMM8, MODRM_IMM_Z, GROUP3):
        modrm = code[at]
        if form == GROUP3 and modrm >> 3 & 7 < 2:
            form = MODRM_IMM8 if op == 0xF6 else MODRM_IMM_Z
        at, movable = _operand(code, at)
    if form in (IMM8, MODRM_IMM8):
        immediate = 1
    elif form in (IMM_Z, MODRM_IMM_Z):
        immediate = 2 if short else 4
    elif form == MOV_IMM:
        immediate = 8 if wide else 2 if short else 4
    elif form == MOFFS:
        immediate = 8
    elif form == IMM16:
        immediate = 2
    elif form == ENTER:
        immediate = 3
    at += immediate
    if at - start > 15 or at > len(code):
        return None
    return Instruction(start, at, -1, movable)


def _operand(code: bytes, at: int) -> tuple[int, bool]:
    """Past a ModRM byte, its SIB byte and displacement; and whether the operand is not relative to the instruction."""
    modrm = code[at]
    at += 1
    mode, register = modrm >> 6, modrm & 7
    if mode == 3:
        return at, True
    base = register
    if register == 4:
        base = code[at] & 7
        at += 1
    if mode == 1:
        return at + 1, True
    if mode == 2:
        return at + 4, True
    if base == 5:  # a displacement alone; without a SIB byte, from the next instruction's address
        return at + 4, register == 4
    return at, True


def _decode_vector(code: bytes, start: int, at: int, op: int) -> Instruction | None:
    """VEX and EVEX: the opcode's map says whether a byte follows."""
    if op == 0xC5:
        table, at = 1, at + 1
    elif op == 0xC4:
        table, at = code[at] & 31, at + 2
    else:
        table, at = code[at] & 7, at + 3
    number = code[at]
    at += 1
    if table not in (1, 2, 3, 5, 6):
        return None
    if table == 1 and number == 0x77 and op != 0x62:
        return Instruction(start, at, -1, True)
    at, movable = _operand(code, at)
    if table == 3 or (table == 1 and number in _VECTOR_IMM8):
        at += 1
    return Instruction(start, at, -1, movable)
