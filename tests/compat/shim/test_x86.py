"""The decoder against binutils: on every instruction of a real loader and of a real C library's functions."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from joey.compat.shim import x86
from joey.compat.shim.elffile import ElfFile

LOADER = Path("/lib64/ld-linux-x86-64.so.2")
_LINE = re.compile(r"^\s*([0-9a-f]+):\t([^\t]*)\t?(.*)$")

pytestmark = [
    pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump (binutils)"),
    pytest.mark.skipif(not LOADER.exists(), reason="needs an x86-64 glibc"),
]


def disassembled(path: Path) -> list[tuple[int, str]]:
    """Address and text of every instruction that objdump shows; a long one takes one row with -w."""
    command = ["objdump", "-d", "-w", "--no-addresses", "--section=.text", str(path)]
    command.remove("--no-addresses")
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [(int(m[1], 16), m[3]) for line in text.splitlines() if (m := _LINE.match(line))]


@pytest.mark.parametrize("path", [LOADER, Path("/bin/busybox")], ids=lambda path: path.name)
def test_instructions_are_as_long_as_binutils_says(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"needs {path}")
    elf = ElfFile(path.read_bytes(), str(path))
    rows = disassembled(path)
    assert len(rows) > 20_000
    wrong = []
    unknown = 0
    for (at, text), (following, _) in pairwise(rows):
        if "(bad)" in text or text.startswith((".byte", "rex")):
            continue
        offset = elf.offset(at)
        found = x86.decode(elf.data, offset)
        if found is None:
            unknown += 1
        elif found.end - found.at != following - at:
            wrong.append((hex(at), text, found.end - found.at, following - at))
        elif text.startswith(("call ", "jmp ", "j")) and (target := re.match(r"\w+\s+([0-9a-f]+) ", text)):
            assert found.target - offset + at == int(target[1], 16), text
    assert not wrong[:5]
    assert unknown < len(rows) / 10_000


def test_what_depends_on_its_place_is_not_movable() -> None:
    for code, movable in (
        ("488b0512345678", False),  # mov 0x78563412(%rip),%rax
        ("488b442408", True),  # mov 8(%rsp),%rax
        ("4c894c2410", True),
        ("e800000000", False),
        ("7402", False),
        ("b801000000", True),
        ("64488b042500000000", True),  # mov %fs:0,%rax
    ):
        found = x86.decode(bytes.fromhex(code), 0)
        assert found is not None
        assert found.end == len(code) // 2
        assert found.movable is movable, code


@pytest.mark.parametrize("code", ["", "0f", "48", "e8000000", "66666666666666666666666666666690", "06", "c4"])
def test_what_is_cut_short_or_none_is_unknown(code: str) -> None:
    assert x86.decode(bytes.fromhex(code), 0) is None
