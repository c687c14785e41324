"""An OCI `linux.seccomp` section as a BPF program, with libseccomp's meaning of the rules.

Per architecture: rules whose action is the default's are dropped; a call's rules with arguments are tried in order,
then its rule without; repeated tests of one argument in one rule are alternatives (as in runc). A deny-by-EPERM
profile answers ENOSYS to calls newer than any it names, so that a C library falls back instead of failing (as runc
does since 1.0.0-rc94). Source: runtime-spec config-linux.md "Seccomp", seccomp_rule_add(3).
"""

from __future__ import annotations

import errno

from .. import constants as k
from .. import syscalls
from ..libc import MACHINE
from .assembler import ARCH_OFFSET, JA, JEQ, NR_OFFSET, Assembler, Condition, Leaf
from .words import ACTIONS, WITH_DATA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

X32_BIT = 0x40000000

# name -> (AUDIT_ARCH_*, table, number offset); <linux/audit.h>
ARCHITECTURES = {
    "SCMP_ARCH_X86_64": (0xC000003E, syscalls.X86_64, 0),
    "SCMP_ARCH_X32": (0xC000003E, syscalls.X86_64, X32_BIT),
    "SCMP_ARCH_X86": (0x40000003, syscalls.I386, 0),
    "SCMP_ARCH_AARCH64": (0xC00000B7, syscalls.AARCH64, 0),
}
NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def compile_profile(section: dict[str, Any]) -> bytes:
    """The BPF program (array of struct sock_filter) of a section that `words.check` let through."""
    native = NATIVE[MACHINE]
    chosen = [native]
    for name in section.get("architectures") or []:
        if name in ARCHITECTURES and name not in chosen:
            chosen.append(name)
    default = _action(section["defaultAction"], section.get("defaultErrnoRet"))
    code = Assembler()
    code.load(ARCH_OFFSET)
    by_token: dict[int, list[str]] = {}
    for name in chosen:
        by_token.setdefault(ARCHITECTURES[name][0], []).append(name)
    bodies = []
    for token, names in by_token.items():
        body = code.label()
        following = code.label()
        code.emit(JEQ, token, "", following)
        code.emit(JA, 0, body)
        code.place(following)
        bodies.append((body, names))
    code.ret(k.SECCOMP_RET_KILL_THREAD)
    for body, names in bodies:
        code.place(body)
        code.load(NR_OFFSET)
        _emit_token(code, names, section, default)
    return code.assemble()


def _emit_token(code: Assembler, names: list[str], section: dict[str, Any], default: int) -> None:
    """The filters of one audit token: x86_64 and x32 share theirs and differ in a bit of the number."""
    intervals: list[tuple[int, Leaf]] = []
    for name in sorted(names, key=lambda item: ARCHITECTURES[item][2]):
        _, table, offset = ARCHITECTURES[name]
        intervals += [(first + offset, leaf) for first, leaf in _intervals(section, table, default)]
    if "SCMP_ARCH_X86_64" in names and "SCMP_ARCH_X32" not in names:
        intervals.append((X32_BIT, (((), k.SECCOMP_RET_KILL_THREAD),)))
        intervals.append((0xFFFFFFFF, (((), default),)))  # -1: a tracer skipped the call
    leaves: dict[Leaf, str] = {}
    for _, leaf in intervals:
        leaves.setdefault(leaf, code.label())
    code.search(intervals, leaves)
    for leaf, label in leaves.items():
        code.place(label)
        for conditions, action in leaf:
            fail = code.label()
            for condition in conditions:
                code.test(Condition(*condition), fail)
            code.ret(action)
            code.place(fail)


def _intervals(section: dict[str, Any], table: dict[str, int], default: int) -> list[tuple[int, Leaf]]:
    """What each system call number gets, as sorted (first number, leaf) with equal neighbours joined."""
    with_arguments: dict[int, list[tuple[tuple[tuple[int, str, int, int], ...], int]]] = {}
    plain: dict[int, int] = {}
    named = 0
    for rule in section.get("syscalls") or []:
        action = _action(rule["action"], rule.get("errnoRet"))
        numbers = [table[name] for name in rule["names"] if name in table]
        named = max(named, *numbers, 0)
        if action == default:
            continue
        alternatives = _alternatives(rule.get("args") or [])
        for number in numbers:
            if alternatives:
                with_arguments.setdefault(number, []).extend((conditions, action) for conditions in alternatives)
            else:
                plain.setdefault(number, action)
    highest = max([named, *table.values()])
    unnamed = _newer_calls(section, default)
    result: list[tuple[int, Leaf]] = []
    for number in range(highest + 2):
        if number > named:
            leaf: Leaf = (((), unnamed),)
        else:
            leaf = (*with_arguments.get(number, ()), ((), plain.get(number, default)))
        if not result or result[-1][1] != leaf:
            result.append((number, leaf))
    return result


def _newer_calls(section: dict[str, Any], default: int) -> int:
    """The action for numbers above every call the profile names."""
    denied_by_eperm = section["defaultAction"] == "SCMP_ACT_ERRNO" and default & 0xFFFF == errno.EPERM
    if denied_by_eperm and section.get("syscalls"):
        return k.SECCOMP_RET_ERRNO | errno.ENOSYS
    return default


def _alternatives(arguments: list[dict[str, Any]]) -> list[tuple[tuple[int, str, int, int], ...]]:
    """The rule's argument tests: one conjunction, or one each where an argument is tested twice."""
    conditions = []
    for argument in arguments:
        operator = argument["op"].removeprefix("SCMP_CMP_")
        value, mask = argument["value"], 0
        if operator == "MASKED_EQ":
            mask, value = value, argument.get("valueTwo", 0) & value
        conditions.append((argument["index"], operator, value, mask))
    if not conditions:
        return []
    indexes = [condition[0] for condition in conditions]
    if len(indexes) != len(frozenset(indexes)):
        return [(condition,) for condition in conditions]
    return [tuple(conditions)]


def _action(name: str, data: int | None) -> int:
    value = ACTIONS[name]
    if name in WITH_DATA:
        value |= (errno.EPERM if data is None else data) & 0xFFFF
    return value
