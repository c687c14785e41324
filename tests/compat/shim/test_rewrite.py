"""Rewritten C libraries: they work, only the sites in question change, and bad files are refused, not believed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from joey.compat.errors import JoeyError
from joey.compat.shim import emulations
from joey.compat.shim.elffile import PT_LOAD, ElfFile
from joey.compat.shim.rewrite import ANY_CALL, rewrite

TOP = Path(__file__).parent.parent.parent.parent
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
LIBRARY = Path("/lib/x86_64-linux-gnu/libc.so.6")
ALL = emulations.mask(list(emulations.EMULATIONS))

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="needs Debian's glibc for x86-64")


def parsed(path: Path) -> ElfFile:
    return ElfFile(path.read_bytes(), str(path))


@pytest.mark.parametrize("path", [LOADER, LIBRARY], ids=lambda path: path.name)
def test_only_the_sites_in_question_change(path: Path) -> None:
    elf = parsed(path)
    made = rewrite(elf, ALL, emulations.code_for(ALL, "2.6.32"))
    assert made is not None
    assert made.all_sites > len(made.sites) > 5
    assert {site.number for site in made.sites} <= emulations.calls(ALL) | {ANY_CALL}
    new = ElfFile(made.data, "new")
    changed = 0
    for old_part, new_part in zip(elf.of_kind(PT_LOAD), new.of_kind(PT_LOAD), strict=False):
        old, now = elf.content(old_part), new.content(new_part)[: old_part.file_size]
        if old_part.flags & 1:
            changed = sum(a != b for a, b in zip(old, now, strict=True))
        elif old_part.offset:  # the first holds the program headers
            assert old == now
    assert 0 < changed <= len(made.sites) * 16
    last = new.of_kind(PT_LOAD)[-1]
    assert last.flags == 5
    assert last.file_size == last.memory_size
    assert last.file_size % 4096 == 0


def test_nothing_to_change_gives_no_file() -> None:
    assert rewrite(parsed(LIBRARY), 0, emulations.code_for(0, "2.6.32")) is None


def test_a_mask_of_one_emulation_changes_its_calls_only() -> None:
    bits = 1 << 4
    made = rewrite(parsed(LIBRARY), bits, emulations.code_for(bits, "2.6.32"))
    assert made is not None
    assert {site.number for site in made.sites} <= {161, 318, ANY_CALL}


def test_damaged_files_are_refused_or_rewritten_and_never_believed() -> None:
    data = LOADER.read_bytes()
    chance = random.Random(4711)
    code = emulations.code_for(ALL, "2.6.32")
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.choice((chance.randrange(0, 0x400), chance.randrange(len(data))))] = chance.randrange(256)
        content = bytes(damaged[: chance.choice((len(data), chance.randrange(len(data))))])
        try:
            rewrite(ElfFile(content, "damaged"), ALL, code)
        except JoeyError as error:
            refused += 1
            assert "damaged" in error.message
    assert refused > 20


def through(way: str, *command: str, check: bool = True, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Run a command by tools/shim-run."""
    return subprocess.run(
        [sys.executable, str(TOP / "tools" / "shim-run"), "--by", *way.split(), "--", *command],
        capture_output=True, text=True, check=check, timeout=timeout,
    )  # fmt: skip


@pytest.mark.root
def test_a_program_by_the_rewritten_library_sees_another_kernel() -> None:
    done = through("rewritten-libc", "uname", "-r")
    assert done.stdout.strip() == emulations.told_release(os.uname().release)
    assert through("none", "uname", "-r").stdout.strip() == os.uname().release
