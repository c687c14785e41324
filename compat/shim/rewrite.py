"""Copies of a C library whose system call sites lead to the shim's code: no tracer, and the speed of the original.

Of a copy only the sites of the calls in question change. An instruction is moved only when it was reached by decoding
its function from the beginning, nothing jumps between it and its neighbours, and it does the same elsewhere. Where a
site is of another shape, `Unexpected` says so and nothing is made: the tracer runs such programs.

The copy has one more segment, behind the others, with the code and a stub for each changed site.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from struct import pack, pack_into

from ..errors import JoeyError
from . import emulations, glibc, x86
from .elffile import EM_X86_64, PT_GNU_PROPERTY, PT_LOAD, PT_NOTE, ElfFile, Segment

PAGE = 4096
_SYSCALL = b"\x0f\x05"
_STEP_OVER_RED_ZONE = bytes.fromhex("488d6424 80")  # lea -128(%rsp),%rsp
_STEP_BACK = bytes.fromhex("488da424 80000000")  # lea 128(%rsp),%rsp
# __restore_rt: unwinders know a signal's frame by these very bytes, and its entry begins a byte before it
_SIGRETURN = bytes.fromhex("48c7c00f000000")  # mov $15,%rax
_FUNCTION_LIMIT = 1 << 20
_MOST_INSTRUCTIONS = 2_000_000
_MOST_SITES = 10_000  # glibc's has some seven hundred
_FARTHEST = 1 << 30  # a jump reaches twice that
ANY_CALL = -1


class Unexpected(JoeyError):
    """The file is not of a shape that can be rewritten."""


class Site:
    """A system call instruction. `number` is ANY_CALL where only the running program knows it."""

    __slots__ = ("address", "block", "number")

    def __init__(self, address: int, number: int, block: list[x86.Instruction]) -> None:
        self.address = address
        self.number = number
        self.block = block  # the instructions around it, in order, that nothing else jumps between


class Rewritten:
    """`data` is the new file; `sites` those that were changed, `all_sites` how many there are."""

    __slots__ = ("all_sites", "data", "sites", "version_check")

    def __init__(self, data: bytes, sites: list[Site], all_sites: int, version_check: bool) -> None:
        self.data = data
        self.sites = sites
        self.all_sites = all_sites
        self.version_check = version_check


class _Function:
    """A function's instructions, where each begins, and where its jumps lead. `start` is -1 for none."""

    __slots__ = ("body", "bounds", "start", "targets")

    def __init__(self, start: int, body: list[x86.Instruction]) -> None:
        self.start = start
        self.body = body
        self.bounds = [item.at for item in body]
        self.targets = {item.target for item in body if item.target >= 0}


class _Text:
    """The executable segment of a file, its functions and its system call sites."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        loads = [segment for segment in elf.of_kind(PT_LOAD) if segment.flags & 1]
        if len(loads) != 1:
            raise Unexpected(f"{elf.name}: {len(loads)} executable segments, not one")
        self.segment = loads[0]
        self.code = elf.content(self.segment)
        self.base = self.segment.address
        self.starts = [start - self.base for start in elf.function_starts() if start >= self.base]
        if not self.starts:
            raise Unexpected(f"{elf.name}: no table of functions (.eh_frame_hdr)")
        self.last = _Function(-1, [])
        self.decoded = 0

    def function(self, at: int) -> _Function:
        """The function that contains an offset, as far as it is known. Raises Unexpected where that takes for ever."""
        place = bisect_right(self.starts, at) - 1
        start = self.starts[place] if place >= 0 else -1
        if start != self.last.start:
            body: list[x86.Instruction] = []
            if start >= 0:
                after = self.starts[place + 1] if place + 1 < len(self.starts) else len(self.code)
                end = min(after, start + _FUNCTION_LIMIT, len(self.code))
                body = list(x86.instructions(self.code, start, end))
            self.decoded += len(body)
            if self.decoded > _MOST_INSTRUCTIONS:
                raise Unexpected(f"{self.elf.name}: more than {_MOST_INSTRUCTIONS} instructions around system calls")
            self.last = _Function(start, body)
        return self.last

    def sites(self) -> list[Site]:
        """Every system call instruction. Raises Unexpected where one may hide in what could not be decoded."""
        out: list[Site] = []
        at = self.code.find(_SYSCALL)
        while at >= 0:
            if self.code[at - 7 : at] == _SIGRETURN:
                at = self.code.find(_SYSCALL, at + 1)
                continue
            if len(out) > _MOST_SITES:
                raise Unexpected(f"{self.elf.name}: more than {_MOST_SITES} system calls")
            function = self.function(at)
            place = bisect_right(function.bounds, at) - 1
            if place < 0 or at >= function.body[place].end:
                raise Unexpected(f"{self.elf.name}: the code at {at + self.base:#x} could not be decoded")
            if function.body[place].at == at:
                out.append(self._site(function, place))
            at = self.code.find(_SYSCALL, at + 1)
        return out

    def _site(self, function: _Function, place: int) -> Site:
        """The site with the straight piece of code around it: entered only at its start."""
        body, targets = function.body, function.targets
        first = place
        while first > 0 and body[first].at not in targets and body[first - 1].target < 0 and place - first < 24:
            first -= 1
        last = place
        while last + 1 < len(body) and body[last + 1].at not in targets and last - place < 3:
            last += 1
            if body[last].target >= 0:
                break
        block = body[first : last + 1]
        return Site(body[place].at, self._number(body, first, place), block)

    def _number(self, body: list[x86.Instruction], first: int, place: int) -> int:
        """What eax holds, where the straight piece of code says so."""
        for item in reversed(body[first:place]):
            raw = self.code[item.at : item.end]
            if raw[0] == 0xB8 and len(raw) == 5:
                return int.from_bytes(raw[1:5], "little")
            if raw[:3] == b"\x48\xc7\xc0" and len(raw) == 7:
                return int.from_bytes(raw[3:7], "little")
            if raw in (b"\x31\xc0", b"\x33\xc0"):
                return 0
            if _may_write_eax(raw):
                return ANY_CALL
        return ANY_CALL


# vector moves and nops, after 0F
_HARMLESS = frozenset((0x11, 0x29, 0x7F, 0x10, 0x28, 0x6F, 0x1E, 0x1F, 0x16, 0xEF, 0x6C))


def _may_write_eax(raw: bytes) -> bool:
    """Whether an instruction could change eax: everything that isn't known not to."""
    at = 0
    rex = 0
    while raw[at] in (0x66, 0xF2, 0xF3, 0x64, 0x2E):
        at += 1
    if raw[at] & 0xF0 == 0x40:
        rex = raw[at]
        at += 1
    op = raw[at]
    if op in (0x89, 0x88, 0xC7, 0xC6, 0x39, 0x85, 0x83, 0x81, 0x01, 0x29, 0x31, 0x21, 0x09):  # the operand in ModRM
        modrm = raw[at + 1]
        if op in (0x39, 0x85) or (op in (0x83, 0x81) and modrm >> 3 & 7 == 7):  # compares
            return False
        return modrm >> 6 == 3 and modrm & 7 == 0 and not rex & 1
    if op in (0x8B, 0x8D, 0x63, 0x03, 0x2B, 0x33, 0x23, 0x0B):  # the register in ModRM
        return raw[at + 1] >> 3 & 7 == 0 and not rex & 4
    if 0xB9 <= op <= 0xBF:
        return False
    if op == 0xB8:
        return not rex & 1
    if 0x50 <= op <= 0x57 or op == 0x90:
        return False
    if 0x58 <= op <= 0x5F:
        return op == 0x58 and not rex & 1
    return not (op == 0x0F and raw[at + 1] in _HARMLESS)


def rewrite(elf: ElfFile, bits: int, code: bytes) -> Rewritten | None:
    """A copy of a C library or loader in which the calls of a mask lead to `code`; None where it has none of them.

    Raises Unexpected, and NotElf for a file that is cut short.
    """
    if elf.bits != 64 or elf.machine != EM_X86_64:
        raise Unexpected(f"{elf.name}: a file for {elf.machine_name}, not for x86_64")
    affected = emulations.calls(bits)
    if not affected:
        return None
    text = _Text(elf)
    sites = text.sites()
    wanted = [site for site in sites if site.number in affected or site.number == ANY_CALL]
    check = _version_check(text) if emulations.tells_release(bits) else None
    if not wanted and check is None:
        return None
    image = _Image(elf)
    new_base = image.new_address
    body = bytearray(code + bytes(-len(code) % 16))
    patched = bytearray(text.code)
    for site in wanted:
        _redirect(text, site, patched, body, new_base, affected)
    if check is not None:
        at, length = check
        patched[at : at + length] = b"\xb8" + pack("<I", emulations.VERSION_CODE)  # mov $VERSION,%eax
    return Rewritten(image.build(bytes(patched), text.segment, bytes(body)), wanted, len(sites), check is not None)


def _redirect(
    text: _Text, site: Site, patched: bytearray, body: bytearray, new_base: int, affected: frozenset[int]
) -> None:
    """Have a site jump to a stub of its own, added to `body`."""
    place = next(place for place, item in enumerate(site.block) if item.at == site.address)
    window = _window(site.block, place, keep_call=site.number == ANY_CALL)
    if window is None and site.number == ANY_CALL:
        window = _window(site.block, place, keep_call=False)
    if window is None:
        raise Unexpected(f"{text.elf.name}: no room to change the call at {site.address + text.base:#x}")
    first, last = window
    start, end = site.block[first].at, site.block[last].end
    back = end + text.base
    stub = new_base + len(body)
    asm = _Assembler(stub)
    if last < place:  # the call stays where it is; the stub goes there unless it is one of those in question
        asm.raw(text.code[start:end])
        asm.to_code_if_one_of(sorted(affected), back)  # which is the call
        asm.raw(_STEP_OVER_RED_ZONE)
        asm.call(new_base + emulations.CALLED)
        asm.raw(_STEP_BACK)
        asm.jump(site.block[place].end + text.base)
    else:
        asm.raw(text.code[start : site.address])
        asm.raw(_STEP_OVER_RED_ZONE)
        asm.call(new_base + emulations.CALLED)
        asm.raw(_STEP_BACK)
        asm.raw(text.code[site.address + 2 : end])
        asm.jump(back)
    body += asm.out
    patched[start:end] = b"\xe9" + pack("<i", stub - (start + text.base + 5)) + b"\x90" * (end - start - 5)


def _window(block: list[x86.Instruction], place: int, keep_call: bool) -> tuple[int, int] | None:
    """First and last of the instructions that give way to a jump of five bytes; around the call, or before it."""
    last_ones = (place - 1,) if keep_call else (place, place + 1)
    for last in last_ones:
        if last >= len(block) or last < 0:
            continue
        for first in range(min(place, last), -1, -1):
            chosen = block[first : last + 1]
            if any(item.target >= 0 or not item.movable for item in chosen):
                break
            if chosen[-1].end - chosen[0].at >= 5:
                return first, last
    return None


class _Assembler:
    """The few instructions a stub is made of, at an address."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.out = bytearray()

    def raw(self, code: bytes) -> None:
        self.out += code

    def _relative(self, opcode: bytes, target: int) -> None:
        self.out += opcode
        self.out += pack("<i", target - (self.address + len(self.out) + 4))

    def call(self, target: int) -> None:
        self._relative(b"\xe8", target)

    def jump(self, target: int) -> None:
        self._relative(b"\xe9", target)

    def to_code_if_one_of(self, numbers: list[int], otherwise: int) -> None:
        """Fall through where eax is one of the numbers, else jump."""
        length = len(numbers) * 11 + 5
        for place, number in enumerate(numbers):  # cmp $number,%eax; je past the last jump
            self.out += b"\x3d" + pack("<I", number) + b"\x0f\x84" + pack("<i", length - (place + 1) * 11)
        self.jump(otherwise)


_CHECKED_CALL = re.compile(rb"\xe8(....)\x85\xc0(?:\x78.|\x0f\x88....)", re.DOTALL)


def _version_check(text: _Text) -> tuple[int, int] | None:
    """Where the C library asks for the kernel's version to refuse an old one: offset and length of that call.

    `call _dl_discover_osversion; test %eax,%eax; js FATAL; ... cmp $0x301ff,%eax` in glibc 2.26 to 2.35, 3.2 being
    what distributions build for; the version is also what libraries' ABI notes are compared with.
    """
    for match in _CHECKED_CALL.finditer(text.code):
        tail = text.code[match.end() : match.end() + 48]
        found = re.search(rb"\x3d\xff(..)\x00", tail, re.DOTALL)
        if not found or not 0x206 <= int.from_bytes(found[1], "little") <= 0x700:
            continue
        function = text.function(match.start())
        bounds, targets = set(function.bounds), function.targets
        inside = range(match.start() + 1, match.start() + 5)
        if match.start() in bounds and match.end() + found.start() in bounds and targets.isdisjoint(inside):
            return match.start(), 5
        raise Unexpected(f"{text.elf.name}: the check of the kernel's version is of an unknown shape")
    if glibc.REFUSAL in text.elf.data:
        raise Unexpected(f"{text.elf.name}: it checks the kernel's version, and the place was not found")
    return None


class _Image:
    """The layout of the new file: as before, one segment more, and no zero-filled tail of the writable one.

    Old kernels fill such a tail only of the last segment when they load a loader, so it becomes content of the file.
    """

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self.loads = elf.of_kind(PT_LOAD)
        if not self.loads or any(
            first.address >= after.address for first, after in zip(self.loads, self.loads[1:], strict=False)
        ):
            raise Unexpected(f"{elf.name}: segments out of order")
        spare = elf.of_kind(PT_GNU_PROPERTY) or elf.of_kind(PT_NOTE)
        if not spare:
            raise Unexpected(f"{elf.name}: no program header to spare")
        self.spare = spare[0]
        last = self.loads[-1]
        if last.memory_size > 64 << 20 or last.memory_size < last.file_size:
            raise Unexpected(f"{elf.name}: a writable segment of {last.memory_size} bytes")
        self.new_address = _page_up(last.address + last.memory_size)
        if self.new_address > _FARTHEST:
            raise Unexpected(f"{elf.name}: it reaches to {self.new_address:#x}")

    def build(self, text: bytes, text_segment: Segment, body: bytes) -> bytes:
        out = bytearray(self.elf.data)
        out[text_segment.offset : text_segment.offset + len(text)] = text
        last = self.loads[-1]
        content = self.elf.content(last)
        if len(content) < last.file_size:
            raise Unexpected(f"{self.elf.name}: cut short")
        out += bytes(-len(out) % PAGE + last.address % PAGE)
        last_offset = len(out)
        out += content + bytes(last.memory_size - last.file_size)
        out += bytes(-len(out) % PAGE)
        new_offset = len(out)
        out += body + bytes(-len(body) % PAGE)
        size = len(out) - new_offset
        headers = []
        for segment in self.elf.segments:
            if segment is self.spare:
                continue
            headers.append(segment)
            if segment is last:
                headers[-1] = Segment(
                    PT_LOAD, last.flags, last_offset, last.address, last.memory_size, last.memory_size, PAGE
                )
                headers.append(Segment(PT_LOAD, 5, new_offset, self.new_address, size, size, PAGE))
        for segment in headers:
            if segment.kind in (2, 0x6474E552, 7) and last.offset <= segment.offset < last.offset + last.file_size:
                segment.offset += last_offset - last.offset  # PT_DYNAMIC, PT_GNU_RELRO, PT_TLS lie in it
        for place, item in enumerate(headers):
            pack_into(
                "<IIQQQQQQ", out, self.elf.table + place * 56, item.kind, item.flags, item.offset, item.address,
                item.address, item.file_size, item.memory_size, item.align,
            )  # fmt: skip
        return bytes(out)


def _page_up(number: int) -> int:
    return (number + PAGE - 1) // PAGE * PAGE
