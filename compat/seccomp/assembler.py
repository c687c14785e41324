"""A small assembler for seccomp's classic BPF: labels, a binary search over system call numbers, 64-bit comparisons.

Source: Documentation/userspace-api/seccomp_filter.rst, <linux/filter.h>, <linux/seccomp.h> (struct seccomp_data).
"""

from __future__ import annotations

from struct import pack

from ..errors import JoeyError

LD_ABS = 0x20  # BPF_LD | BPF_W | BPF_ABS
AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
JA = 0x05
JEQ = 0x15
JGT = 0x25
JGE = 0x35
RET = 0x06

NR_OFFSET = 0
ARCH_OFFSET = 4
ARGS_OFFSET = 16  # six 64-bit words, little endian on every machine joey runs on

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

# What a system call gets: ((conditions, action), ...), tried in order; a condition is (index, operator, value, mask).
Leaf = tuple[tuple[tuple[tuple[int, str, int, int], ...], int], ...]

# operator -> the operator that is true exactly when it is false
_NEGATED = {"NE": "EQ", "LT": "GE", "LE": "GT"}


class Condition:
    """A test of one argument: `index` 0-5, `operator` as in SCMP_CMP_*, 64-bit `value`, and `mask` for MASKED_EQ."""

    __slots__ = ("index", "mask", "operator", "value")

    def __init__(self, index: int, operator: str, value: int, mask: int = 0) -> None:
        self.index = index
        self.operator = operator
        self.value = value
        self.mask = mask

    def key(self) -> tuple[int, str, int, int]:
        return (self.index, self.operator, self.value, self.mask)


class Assembler:
    """Collects instructions; jumps name labels, which `assemble` turns into offsets."""

    def __init__(self) -> None:
        self._code: list[tuple[int, str, str, int]] = []
        self._labels: dict[str, int] = {}
        self._count = 0

    def label(self) -> str:
        self._count += 1
        return f"L{self._count}"

    def place(self, label: str) -> None:
        self._labels[label] = len(self._code)

    def emit(self, code: int, k: int, if_true: str = "", if_false: str = "") -> None:
        """An instruction; a conditional jump's missing label means the next instruction."""
        self._code.append((code, if_true, if_false, k))

    def load(self, offset: int) -> None:
        self.emit(LD_ABS, offset)

    def ret(self, action: int) -> None:
        self.emit(RET, action)

    def search(self, intervals: list[tuple[int, Leaf]], leaf: dict[Leaf, str]) -> None:
        """Jump to the label of the interval the accumulator falls in; `intervals` are sorted (first number, leaf)."""
        if len(intervals) == 1:
            self.emit(JA, 0, leaf[intervals[0][1]])
            return
        middle = len(intervals) // 2
        right = self.label()
        left = self.label()
        self.emit(JGE, intervals[middle][0], "", left)
        self.emit(JA, 0, right)  # a far jump: conditional ones reach 255 instructions
        self.place(left)
        self.search(intervals[:middle], leaf)
        self.place(right)
        self.search(intervals[middle:], leaf)

    def test(self, condition: Condition, fail: str) -> None:
        """Fall through when the condition holds, else jump to `fail`."""
        low = ARGS_OFFSET + 8 * condition.index
        high = low + 4
        value_high, value_low = condition.value >> 32 & 0xFFFFFFFF, condition.value & 0xFFFFFFFF
        operator = condition.operator
        yes = self.label()
        if operator == "MASKED_EQ":
            for offset, mask, value in ((high, condition.mask >> 32, value_high), (low, condition.mask, value_low)):
                self.load(offset)
                self.emit(AND, mask & 0xFFFFFFFF)
                self.emit(JEQ, value, "", fail)
            return
        when, otherwise = yes, fail
        if operator in _NEGATED:
            operator, when, otherwise = _NEGATED[operator], fail, yes
        self.load(high)
        if operator != "EQ":
            self.emit(JGT, value_high, when, "")
        self.emit(JEQ, value_high, "", otherwise)
        self.load(low)
        self.emit({"EQ": JEQ, "GT": JGT, "GE": JGE}[operator], value_low, when, otherwise)
        self.place(yes)

    def assemble(self) -> bytes:
        """struct sock_filter after struct sock_filter. Raises JoeyError when the kernel would not take the length."""
        if len(self._code) > MAX_INSTRUCTIONS:
            raise JoeyError(f"linux.seccomp: the filter has {len(self._code)} instructions, the kernel takes 4096")
        out = []
        for place, (code, if_true, if_false, k) in enumerate(self._code):
            yes = self._labels[if_true] - place - 1 if if_true else 0
            no = self._labels[if_false] - place - 1 if if_false else 0
            if code == JA:
                out.append(pack("<HBBI", code, 0, 0, yes))
            else:
                out.append(pack("<HBBI", code, yes, no, k))
        return b"".join(out)
