"""What joey reads of an ELF file, which may be anything: no number in it is trusted.

Source: elf(5), the System V ABI, the Linux Standard Base (.eh_frame_hdr).
"""

from __future__ import annotations

import os
import stat
import struct
from struct import unpack_from

from ..errors import JoeyError

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
PT_GNU_EH_FRAME, PT_GNU_STACK, PT_GNU_PROPERTY = 0x6474E550, 0x6474E551, 0x6474E553
EM_386, EM_X86_64, EM_AARCH64 = 3, 62, 183
MACHINES = {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv",
}
LARGEST = 512 << 20
_NT_GNU_ABI_TAG = 1


class NotElf(JoeyError):
    """The file is no ELF file, or not one that can be read."""


class Segment:
    """A program header."""

    __slots__ = ("address", "align", "file_size", "flags", "kind", "memory_size", "offset")

    def __init__(
        self, kind: int, flags: int, offset: int, address: int, file_size: int, memory_size: int, align: int
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.offset = offset
        self.address = address
        self.file_size = file_size
        self.memory_size = memory_size
        self.align = align


class ElfFile:
    """An ELF file's header and segments. `data` is the whole file. Raises NotElf."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        if data[:4] != b"\x7fELF" or len(data) < 52:
            raise NotElf(f"{name}: not an ELF file")
        self.bits = {1: 32, 2: 64}.get(data[4], 0)
        if not self.bits or data[5] != 1:
            raise NotElf(f"{name}: an ELF file of an unknown class, or not little-endian")
        try:
            self._read_header()
        except (struct.error, OverflowError):
            raise NotElf(f"{name}: an ELF file that is cut short") from None

    def _read_header(self) -> None:
        wide = self.bits == 64
        self.type, self.machine = unpack_from("<HH", self.data, 16)
        self.entry, self.table = unpack_from("<QQ" if wide else "<II", self.data, 24)
        self.entry_size, self.count = unpack_from("<HH", self.data, 54 if wide else 42)
        if self.count > 128 or (self.count and self.entry_size != (56 if wide else 32)):
            raise NotElf(f"{self.name}: an ELF file with {self.count} program headers of {self.entry_size} bytes")
        self.segments = []
        for place in range(self.count):
            at = self.table + place * self.entry_size
            if wide:
                kind, flags, offset, address, _, file_size, memory_size, align = unpack_from("<IIQQQQQQ", self.data, at)
            else:
                kind, offset, address, _, file_size, memory_size, flags, align = unpack_from("<IIIIIIII", self.data, at)
            self.segments.append(Segment(kind, flags, offset, address, file_size, memory_size, align))

    @property
    def machine_name(self) -> str:
        return MACHINES.get(self.machine, f"machine {self.machine}")

    def of_kind(self, kind: int) -> list[Segment]:
        return [segment for segment in self.segments if segment.kind == kind]

    def content(self, segment: Segment) -> bytes:
        return self.data[segment.offset : segment.offset + segment.file_size]

    def offset(self, address: int) -> int:
        """Where an address is in the file. Raises NotElf."""
        for segment in self.of_kind(PT_LOAD):
            if segment.address <= address < segment.address + segment.file_size:
                return address - segment.address + segment.offset
        raise NotElf(f"{self.name}: address {address:#x} is not in the file")

    @property
    def interpreter(self) -> str:
        """The loader it asks for; "" for a static program or a library."""
        for segment in self.of_kind(PT_INTERP):
            return self.content(segment)[:4096].split(b"\0")[0].decode("utf-8", "surrogateescape")
        return ""

    @property
    def is_dynamic(self) -> bool:
        return bool(self.of_kind(PT_DYNAMIC))

    def needed(self) -> list[str]:
        """The libraries it asks for by name."""
        size, form = (16, "<qQ") if self.bits == 64 else (8, "<iI")
        wanted, strings = [], 0
        try:
            for segment in self.of_kind(PT_DYNAMIC):
                for at in range(segment.offset, segment.offset + min(segment.file_size, size * 4096) - size + 1, size):
                    tag, value = unpack_from(form, self.data, at)
                    if tag == 0:
                        break
                    if tag == 1:
                        wanted.append(value)
                    elif tag == 5:
                        strings = self.offset(value)
        except (struct.error, OverflowError):
            raise NotElf(f"{self.name}: an ELF file that is cut short") from None
        return [
            self.data[strings + at : self.data.find(b"\0", strings + at)].decode("utf-8", "surrogateescape")
            for at in wanted
        ]

    def notes(self) -> list[tuple[str, int, bytes, int]]:
        """Owner, type and content of every note, and how far into the file the content is."""
        out = []
        for segment in self.of_kind(PT_NOTE):
            data, at = self.content(segment), 0
            while at + 12 <= len(data):
                name_size, size, kind = unpack_from("<III", data, at)
                if name_size > 256 or size > len(data):
                    break
                name = data[at + 12 : at + 12 + name_size].rstrip(b"\0").decode("ascii", "replace")
                at += 12 + (name_size + 3 & ~3)
                out.append((name, kind, data[at : at + size], segment.offset + at))
                at += size + 3 & ~3
        return out

    def abi_kernel(self) -> tuple[int, int, int] | None:
        """The oldest kernel its ABI note names, e.g. (3, 2, 0)."""
        for name, kind, content, _ in self.notes():
            if name == "GNU" and kind == _NT_GNU_ABI_TAG and len(content) >= 16:
                system, major, minor, patch = unpack_from("<IIII", content)
                if system == 0:
                    return major, minor, patch
        return None

    def function_starts(self) -> list[int]:
        """The addresses functions begin at, in order, from the table that unwinders search; empty without one."""
        for segment in self.of_kind(PT_GNU_EH_FRAME):
            data = self.content(segment)
            if data[:4] != b"\x01\x1b\x03\x3b":  # version 1; frame pc-relative; count 4 bytes; table relative to itself
                return []
            count = min(int.from_bytes(data[8:12], "little"), (len(data) - 12) // 8)
            return sorted(segment.address + unpack_from("<i", data, 12 + place * 8)[0] for place in range(count))
        return []


def read_file(path: str, dir_fd: int | None = None) -> bytes:
    """The content of a regular file of a reasonable size. Raises OSError, NotElf."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        return read_open(fd, path)
    finally:
        os.close(fd)


def read_open(fd: int, name: str) -> bytes:
    """The same of an open file."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise NotElf(f"{name}: not a regular file")
    if status.st_size > LARGEST:
        raise NotElf(f"{name}: {status.st_size >> 20} MiB, more than the {LARGEST >> 20} that are looked at")
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
        if len(parts) > LARGEST >> 20:
            raise NotElf(f"{name}: grew while it was read")
    return b"".join(parts)
