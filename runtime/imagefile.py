"""What one ELF file wants of a kernel: found by reading it, not by running it."""

from __future__ import annotations

import re
from typing import IO, Any

from ..compat.shim.elffile import EM_X86_64, PT_LOAD, ElfFile, NotElf
from ..compat.shim.glibc import REFUSAL

_KEPT = re.compile(r"(^|/)(ld-[^/]*\.so(\.\d+)?|libc\.so\.6|libc-2\.\d+\.so|libpthread(-2\.\d+)?\.so(\.0)?)$")
_LARGEST_KEPT = 16 << 20  # a C library has two
_NUMBERED_CALL = re.compile(rb"\xb8(..\x00\x00)\x0f\x05", re.DOTALL)  # mov $NR,%eax; syscall
_GO = b"\xff Go buildinf:"
# mov $0xffffffffff600N00,%reg: gettimeofday, time and getcpu in the vsyscall page
_VSYSCALL = re.compile(rb"\xc7[\xc0-\xc7]\x00[\x00\x04\x08]\x60\xff", re.DOTALL)


class Facts:
    """`kind`: program or library. `library`: glibc, musl, or "" for a static program. `data` of a C library's files."""

    __slots__ = (
        "abi",
        "bits",
        "calls",
        "checks_kernel",
        "data",
        "go",
        "interpreter",
        "kind",
        "library",
        "machine",
        "path",
        "vsyscall",
    )

    def __init__(self, path: str, elf: ElfFile) -> None:
        self.path = path
        self.bits = elf.bits
        self.machine = elf.machine_name
        self.interpreter = elf.interpreter
        self.abi = elf.abi_kernel()
        self.go = _go_version(elf.data)
        self.kind = "program" if self.interpreter or not elf.is_dynamic or elf.type == 2 else "library"
        self.library = _library(elf)
        if (
            self.kind == "library"
            and not self.library
            and elf.is_dynamic
            and elf.entry
            and elf.type == 3
            and not _looks_shared(path)
        ):
            self.kind = "program"  # static and position-independent
        static = self.kind == "program" and not self.library
        self.checks_kernel = static and REFUSAL in elf.data
        text = (
            b"".join(elf.content(part) for part in elf.of_kind(PT_LOAD) if part.flags & 1)
            if elf.machine == EM_X86_64
            else b""
        )
        self.calls = frozenset(int.from_bytes(match[1], "little") for match in _NUMBERED_CALL.finditer(text))
        self.vsyscall = elf.machine == EM_X86_64 and bool(_VSYSCALL.search(text))
        self.data = elf.data if _KEPT.search(path) and len(elf.data) <= _LARGEST_KEPT else b""


def facts_of(path: str, read: Any) -> Facts | None:
    """The facts of a file, None where it is no ELF file. Raises OSError."""
    file: IO[bytes]
    with read() as file:
        head = file.read(4)
        if head != b"\x7fELF":
            return None
        data = head + file.read()
    try:
        return Facts(path, ElfFile(data, path))
    except NotElf:
        return None


def _library(elf: ElfFile) -> str:
    if "ld-musl" in elf.interpreter:
        return "musl"
    try:
        needed = elf.needed()
    except NotElf:
        return ""
    if any(name.startswith(("libc.musl", "libc.so")) and name != "libc.so.6" for name in needed):
        return "musl"
    return "glibc" if elf.interpreter or "libc.so.6" in needed else ""


def _looks_shared(path: str) -> bool:
    return ".so" in path.rpartition("/")[2]


def _go_version(data: bytes) -> str:
    """The Go release a program was built by, "" for others. Source: debug/buildinfo (Go 1.18 and later)."""
    at = data.find(_GO)
    if at < 0 or len(data) < at + 33 or not data[at + 15] & 2:
        return "go" if at >= 0 else ""
    size = data[at + 32]
    return data[at + 33 : at + 33 + min(size, 64)].decode("ascii", "replace") if size < 128 else "go"
