"""Seccomp programs: run by a small interpreter for every system call, and by the kernel for some."""

from __future__ import annotations

import errno
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joey.compat import constants as k
from joey.compat import libc, syscalls
from joey.compat.errors import BundleError
from joey.compat.seccomp import interpret, load, words
from joey.compat.seccomp.profile import compile_profile
from joey.probes.trying import call, child

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, EPERM, ENOSYS = k.SECCOMP_RET_ALLOW, k.SECCOMP_RET_ERRNO | errno.EPERM, k.SECCOMP_RET_ERRNO | errno.ENOSYS
WORD = st.sampled_from([0, 1, 2, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)


def run(code: bytes, number: int, args: tuple[int, ...] = (), arch: int = X86_64) -> int:
    """What the kernel would return for one system call: an interpreter of the instructions joey uses."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *(args + (0,) * 6)[:6])
    place = accumulator = 0
    while True:
        op, yes, no, constant = struct.unpack_from("<HBBI", code, place * 8)
        place += 1
        if op == 0x20:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif op == 0x54:
            accumulator &= constant
        elif op == 0x05:
            place += constant
        elif op in (0x15, 0x25, 0x35):
            held = {0x15: accumulator == constant, 0x25: accumulator > constant, 0x35: accumulator >= constant}[op]
            place += yes if held else no
        else:
            assert op == 0x06
            if number < 1 << 31:  # joey has one of its own, for kernels that have none
                six = (args + (0,) * 6)[:6]
                assert interpret.answer(interpret.decode(code), number, arch, 0, six)[0] == constant
            return int(constant)


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> bytes:
    section = {"defaultAction": default, "syscalls": list(rules), **more}
    words.check(section)
    return compile_profile(section)


def test_every_system_call_gets_its_action() -> None:
    names = [name for index, name in enumerate(sorted(syscalls.X86_64)) if index % 3]
    code = profile(
        {"names": names, "action": "SCMP_ACT_ALLOW"}, {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS"}
    )
    for name, number in syscalls.X86_64.items():
        wanted = ALLOW if name in names else k.SECCOMP_RET_KILL_PROCESS if name == "ptrace" else EPERM
        assert run(code, number) == wanted, name


def test_newer_calls_answer_enosys_under_a_deny_by_eperm_profile() -> None:
    code = profile({"names": ["read", "openat"], "action": "SCMP_ACT_ALLOW"})
    assert run(code, syscalls.X86_64["openat"]) == ALLOW
    assert run(code, syscalls.X86_64["write"]) == EPERM
    assert run(code, syscalls.X86_64["clone3"]) == ENOSYS
    assert run(code, 5000) == ENOSYS


def test_other_defaults_hold_for_newer_calls() -> None:
    code = profile({"names": ["read"], "action": "SCMP_ACT_ALLOW"}, default="SCMP_ACT_KILL_PROCESS")
    assert run(code, 5000) == k.SECCOMP_RET_KILL_PROCESS
    code = profile({"names": ["read"], "action": "SCMP_ACT_ALLOW"}, defaultErrnoRet=38)
    assert run(code, 1) == ENOSYS


def test_foreign_architectures_are_killed_and_listed_ones_filtered() -> None:
    rule = {"names": ["getpid"], "action": "SCMP_ACT_ALLOW"}
    assert run(profile(rule), syscalls.I386["getpid"], arch=I386) == k.SECCOMP_RET_KILL_THREAD
    code = profile(rule, architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    assert run(code, syscalls.I386["getpid"], arch=I386) == ALLOW
    assert run(code, syscalls.I386["read"], arch=I386) == EPERM
    assert run(code, 0x40000000 + syscalls.X86_64["getpid"]) == ALLOW
    assert run(code, 0x40000000 + syscalls.X86_64["read"]) == EPERM


def test_x32_numbers_are_killed_unless_listed() -> None:
    code = profile({"names": ["getpid"], "action": "SCMP_ACT_ALLOW"})
    assert run(code, 0x40000000 + syscalls.X86_64["getpid"]) == k.SECCOMP_RET_KILL_THREAD


OPERATORS = {
    "NE": lambda a, v, w: a != v,
    "LT": lambda a, v, w: a < v,
    "LE": lambda a, v, w: a <= v,
    "EQ": lambda a, v, w: a == v,
    "GE": lambda a, v, w: a >= v,
    "GT": lambda a, v, w: a > v,
    "MASKED_EQ": lambda a, v, w: a & v == w & v,
}


@given(st.sampled_from(sorted(OPERATORS)), WORD, WORD, WORD, st.integers(0, 5))
def test_argument_comparisons_are_64_bit(operator: str, argument: int, value: int, other: int, index: int) -> None:
    rule = {
        "names": ["personality"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": index, "value": value, "valueTwo": other, "op": f"SCMP_CMP_{operator}"}],
    }
    args = tuple(argument if place == index else 0 for place in range(6))
    wanted = ALLOW if OPERATORS[operator](argument, value, other) else EPERM
    assert run(profile(rule), syscalls.X86_64["personality"], args) == wanted


def test_several_arguments_must_all_hold_and_one_tested_twice_is_a_choice() -> None:
    def test(index: int, value: int) -> dict[str, Any]:
        return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}

    both = profile({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [test(0, 1), test(1, 2)]})
    number = syscalls.X86_64["socket"]
    assert [run(both, number, args) for args in ((1, 2), (1, 3), (2, 2))] == [ALLOW, EPERM, EPERM]
    either = profile({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [test(0, 1), test(0, 2)]})
    assert [run(either, number, args) for args in ((1,), (2,), (3,))] == [ALLOW, ALLOW, EPERM]


def test_unknown_words_are_named() -> None:
    with pytest.raises(BundleError, match=r"syscalls\[0\].action.*SCMP_ACT_MAYBE"):
        profile({"names": ["read"], "action": "SCMP_ACT_MAYBE"})
    with pytest.raises(BundleError, match=r"args\[0\].op"):
        args = [{"index": 0, "value": 0, "op": "SCMP_CMP_NEAR"}]
        profile({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": args})


def test_names_of_other_architectures_are_ignored() -> None:
    profile({"names": ["read", "arm_fadvise64_64", "no_such_call"], "action": "SCMP_ACT_ALLOW"})


def test_the_kernel_takes_a_large_program_and_obeys_it() -> None:
    names = sorted(syscalls.X86_64)
    code = profile(
        {"names": [name for name in names if name not in ("sched_yield", "getppid")], "action": "SCMP_ACT_ALLOW"},
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV},
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    )

    def inside() -> int:
        libc.prctl(k.PR_SET_NO_NEW_PRIVS, 1)
        load.install(code, k.SECCOMP_FILTER_FLAG_LOG)
        os.getpid()
        return 0 if call("sched_yield") == -errno.EPERM and call("getppid") == -errno.EXDEV else 1

    assert child(inside) == 0
