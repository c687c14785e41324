"""Device rules on cgroup v2: an eBPF program attached to the group. Linux 4.15.

The program walks the rules from the last to the first and takes the first that matches, which is what writing them
in order to v1's devices.allow and devices.deny means. Source: bpf(2), the kernel's cgroup-v2 document "Device
controller", struct bpf_cgroup_dev_ctx in <linux/bpf.h>.
"""

from __future__ import annotations

import errno
import os
from struct import pack

from .. import cdata, libc
from ..constants import (
    BPF_CGROUP_DEVICE,
    BPF_F_ALLOW_MULTI,
    BPF_PROG_ATTACH,
    BPF_PROG_DETACH,
    BPF_PROG_GET_FD_BY_ID,
    BPF_PROG_LOAD,
    BPF_PROG_QUERY,
    BPF_PROG_TYPE_CGROUP_DEVICE,
)
from ..errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TYPES = {"b": 1, "c": 2, "u": 2}  # BPF_DEVCG_DEV_BLOCK, _CHAR
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_MKNOD, _READ, _WRITE


class _Load(cdata.Structure):
    _fields_ = (
        ("prog_type", cdata.c_uint32),
        ("insn_cnt", cdata.c_uint32),
        ("insns", cdata.c_void_p),
        ("license", cdata.c_void_p),
        ("log_level", cdata.c_uint32),
        ("log_size", cdata.c_uint32),
        ("log_buf", cdata.c_uint64),
        ("kern_version", cdata.c_uint32),
        ("prog_flags", cdata.c_uint32),
    )


class _Attach(cdata.Structure):
    _fields_ = (
        ("target_fd", cdata.c_uint32),
        ("attach_bpf_fd", cdata.c_uint32),
        ("attach_type", cdata.c_uint32),
        ("attach_flags", cdata.c_uint32),
    )


class _Query(cdata.Structure):
    _fields_ = (
        ("target_fd", cdata.c_uint32),
        ("attach_type", cdata.c_uint32),
        ("query_flags", cdata.c_uint32),
        ("attach_flags", cdata.c_uint32),
        ("prog_ids", cdata.c_uint64),
        ("prog_cnt", cdata.c_uint32),
    )


class _ById(cdata.Structure):
    _fields_ = (("prog_id", cdata.c_uint32), ("next_id", cdata.c_uint32), ("open_flags", cdata.c_uint32))


def _insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return pack("<BBhi", code, src << 4 | dst, off, imm)


def program(rules: list[dict[str, Any]]) -> bytes:
    """The instructions for OCI device rules in their order; what no rule matches is denied.

    r2 = type, r3 = access, r4 = major, r5 = minor; a rule is tests that jump past its verdict.
    """
    code = [
        _insn(0x61, 2, 1, 0),  # r2 = ctx->access_type
        _insn(0xBC, 3, 2),  # w3 = w2
        _insn(0x54, 2, imm=0xFFFF),  # w2 &= 0xffff: the type
        _insn(0x74, 3, imm=16),  # w3 >>= 16: the access
        _insn(0x61, 4, 1, 4),
        _insn(0x61, 5, 1, 8),
    ]
    for rule in reversed(rules):
        tests: list[tuple[str, int, int]] = []
        kind = rule.get("type", "a")
        if kind in _TYPES:
            tests.append(("ne", 2, _TYPES[kind]))
        access = 0
        for letter in rule.get("access") or "rwm":
            access |= _ACCESS[letter]
        if access != 7:
            tests.append(("access" if rule["allow"] else "any", 3, access))
        for register, key in ((4, "major"), (5, "minor")):
            number = rule.get(key)
            if number is not None and number >= 0:
                tests.append(("ne", register, number))
        code += _rule(tests, bool(rule["allow"]))
        if not tests:
            break  # it decides everything; the verifier refuses instructions nobody reaches
    else:
        code += [_insn(0xB7, 0, imm=0), _insn(0x95)]
    return b"".join(code)


def _rule(tests: list[tuple[str, int, int]], allow: bool) -> list[bytes]:
    body: list[bytes] = []
    for kind, register, value in tests:
        if kind == "ne":
            body.append(("jne", register, value))  # type: ignore[arg-type]
        else:
            # an allow rule needs every wanted access bit inside its own; a deny rule needs any in common
            body.append(_insn(0xBC, 1, register))
            mask = ~value & 7 if kind == "access" else value
            body.append(_insn(0x54, 1, imm=mask))
            body.append(("jne" if kind == "access" else "jeq", 1, 0))  # type: ignore[arg-type]
    verdict = [_insn(0xB7, 0, imm=1 if allow else 0), _insn(0x95)]
    total = len(body) + len(verdict)
    out = []
    for place, item in enumerate(body):
        if isinstance(item, tuple):
            jump, register, value = item
            out.append(_insn(0x55 if jump == "jne" else 0x15, register, off=total - place - 1, imm=value))
        else:
            out.append(item)
    return out + verdict


def attach(path: str, code: bytes) -> None:
    """Load the program and attach it to the group at `path`. Raises KernelError (EPERM without privilege)."""
    license_text = cdata.create_string_buffer(b"Apache-2.0")
    instructions = cdata.create_string_buffer(code, len(code))
    load = _Load(
        BPF_PROG_TYPE_CGROUP_DEVICE, len(code) // 8, cdata.addressof(instructions), cdata.addressof(license_text)
    )
    prog = libc.bpf(BPF_PROG_LOAD, load)
    try:
        with _opened(path) as group:
            libc.bpf(BPF_PROG_ATTACH, _Attach(group, prog, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI))
    finally:
        os.close(prog)


def attached(path: str) -> list[int]:
    """The ids of the device programs attached to the group at `path`."""
    ids = (cdata.c_uint32 * 64)()
    with _opened(path) as group:
        query = _Query(group, BPF_CGROUP_DEVICE, 0, 0, cdata.addressof(ids), 64)
        libc.bpf(BPF_PROG_QUERY, query)
    return list(ids[: query.prog_cnt])


def detach(path: str, ids: list[int]) -> None:
    """Take programs away from the group at `path`; one that is gone is no error."""
    for number in ids:
        try:
            prog = libc.bpf(BPF_PROG_GET_FD_BY_ID, _ById(number))
        except KernelError as error:
            if error.errno == errno.ENOENT:
                continue
            raise
        try:
            with _opened(path) as group:
                libc.bpf(BPF_PROG_DETACH, _Attach(group, prog, BPF_CGROUP_DEVICE, 0))
        finally:
            os.close(prog)


class _opened:  # noqa: N801
    """A directory's descriptor, for a `with` (contextlib would cost the start path an import)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1

    def __enter__(self) -> int:
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self.fd

    def __exit__(self, *error: object) -> None:
        os.close(self.fd)
