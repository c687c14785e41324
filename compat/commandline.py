"""What `ps` shows of a process that stays: its own name instead of the command line that it was started by."""

from __future__ import annotations

import os

from . import cdata

_memmem = cdata.function("memmem", cdata.c_void_p, cdata.c_ulong, cdata.c_size_t, cdata.c_void_p, cdata.c_size_t)
_memmove = cdata.function("memmove", cdata.c_void_p, cdata.c_ulong, cdata.c_void_p, cdata.c_size_t)


class CommandLine:
    """The calling process's, found where the kernel put it, above the start of the stack.

    Source: proc(5), stat, maps and cmdline.
    """

    __slots__ = ("_address", "_length")

    def __init__(self) -> None:
        with open("/proc/self/cmdline", "rb") as file:
            line = file.read()
        with open("/proc/self/stat", "rb") as file:
            start = int(file.read().rpartition(b")")[2].split()[25])
        with open("/proc/self/maps", "rb") as file:
            rows = [row.split() for row in file]
        ends = [int(words[0].partition(b"-")[2], 16) for words in rows if words[-1] == b"[stack]"]
        wanted = cdata.create_string_buffer(line)
        self._length = len(line)
        self._address = 0
        if line and ends and start:
            self._address = _memmem(start, ends[0] - start, cdata.addressof(wanted), len(line)) or 0

    def replace(self, name: str) -> None:
        """Write `name` over it, as much as there is room for; nothing where it was not found."""
        if self._address:
            text = cdata.create_string_buffer(os.fsencode(name)[: self._length - 1].ljust(self._length, b"\0"))
            _memmove(self._address, cdata.addressof(text), self._length)
