"""The kernel's version as the vDSO tells it: C libraries up to glibc 2.35 ask there before uname(2).

Source: vdso(7); Documentation/ABI/stable/vdso; glibc, _dl_discover_osversion.
"""

from __future__ import annotations

import os
from struct import unpack_from

from .elffile import ElfFile, NotElf

_AT_SYSINFO_EHDR = 33


def base(pid: int) -> int:
    """Where a process has its vDSO; 0 where it has none."""
    return _auxiliary(pid, _AT_SYSINFO_EHDR)


def _auxiliary(pid: int, kind: int) -> int:
    """A value of a process's auxiliary vector; 0 where it has none. Source: getauxval(3)."""
    try:
        with open(f"/proc/{pid}/auxv", "rb") as file:
            data = file.read(4096)
    except OSError:
        return 0
    for at in range(0, len(data) - 15, 16):
        found, value = unpack_from("<QQ", data, at)
        if found == kind:
            return int(value)
    return 0


def version_note() -> int:
    """How far into the vDSO the kernel's version stands, as C libraries look for it; 0 where it has no such note."""
    start = base(os.getpid())
    if not start:
        return 0
    try:
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(start)
            content = memory.read(_size(start))
        elf = ElfFile(content, "vDSO")
    except (OSError, NotElf):
        return 0
    for owner, kind, version, place in elf.notes():
        if (owner, kind, len(version)) == ("Linux", 0, 4):
            return place
    return 0


def _size(start: int) -> int:
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        for line in file:
            first, _, rest = line.partition("-")
            if int(first, 16) == start:
                return min(int(rest.split()[0], 16) - start, 8192)
    return 0
