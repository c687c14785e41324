"""ptrace(2) of x86-64: requests, the registers of a stopped thread, its memory. Source: ptrace(2), <sys/user.h>."""

from __future__ import annotations

import errno
import os
from struct import unpack_from

from .. import cdata
from ..errors import KernelError

PEEKUSER, LISTEN, INTERRUPT, GETEVENTMSG, SETSIGINFO = 3, 0x4208, 0x4207, 0x4201, 0x4203
EVENT_FORK, EVENT_VFORK, EVENT_CLONE, EVENT_EXEC, EVENT_SECCOMP, EVENT_STOP = 1, 2, 3, 4, 7, 128

# words of struct user_regs_struct
RBX, RCX, RAX, RDX, RSI, RDI, ORIG_RAX, RIP, CS, RSP = 5, 11, 10, 12, 13, 14, 15, 16, 17, 19
R8, R9, R10 = 9, 8, 7
ARGUMENTS = (RDI, RSI, RDX, R10, R8, R9)
REGISTERS = 27
CS_32BIT = 0x23
NO_CALL = 0xFFFFFFFFFFFFFFFF
SYSCALL_INSTRUCTION = 0x050F
WALL = 0x40000000  # __WALL of wait(2)
SIGINFO_SIZE = 128

request = cdata.function("ptrace", cdata.c_long, cdata.c_int, cdata.c_int, cdata.c_ulong, cdata.c_ulong)
_WORD = 0xFFFFFFFFFFFFFFFF
_PEEKDATA, _POKEDATA, _GETSIGINFO = 2, 5, 0x4202


def must(what: int, pid: int, address: int, data: int) -> None:
    """A request that has to succeed. Raises KernelError."""
    if request(what, pid, address, data) < 0:
        raise KernelError("ptrace", cdata.get_errno(), f"process {pid}")


def peek(pid: int, address: int) -> int:
    """Eight bytes of memory; all ones where nothing is mapped."""
    return request(_PEEKDATA, pid, address, 0) & _WORD


def write(pid: int, address: int, data: bytes) -> bool:
    """Write memory, whatever its protection; False where it is not mapped. What is beyond stays as it was."""
    for at in range(0, len(data), 8):
        word = data[at : at + 8]
        if len(word) < 8:
            word += peek(pid, address + at).to_bytes(8, "little")[len(word) :]
        if request(_POKEDATA, pid, address + at, unpack_from("<Q", word)[0]) < 0:
            return False
    return True


def read(pid: int, address: int, size: int) -> bytes:
    """As much of `size` bytes of memory as is mapped in one piece from `address` on."""
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, size, address)
    except (OSError, OverflowError):
        return b""
    finally:
        os.close(fd)


def read_string(pid: int, address: int, limit: int = 4096) -> bytes:
    """A string up to its zero byte. Raises OSError: ENAMETOOLONG where it is longer, EFAULT where not all of it is
    mapped."""
    data = b""
    while len(data) < limit:
        part = read(pid, address + len(data), min(limit - len(data), 4096 - (address + len(data)) % 4096))
        if not part:
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        end = part.find(b"\0")
        if end >= 0:
            return data + part[:end]
        data += part
    raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def event_message(pid: int) -> int:
    value = cdata.c_ulong(0)
    return value.value if request(GETEVENTMSG, pid, 0, cdata.addressof(value)) == 0 else 0


def signal_info(pid: int) -> bytes:
    """The siginfo_t of a signal that is about to be delivered; b"" in the stop of a group that followed one."""
    info = cdata.create_string_buffer(SIGINFO_SIZE)
    return bytes(info) if request(_GETSIGINFO, pid, 0, cdata.addressof(info)) == 0 else b""


def set_signal_info(pid: int, info: bytes) -> None:
    """Give a signal that is about to be delivered another siginfo_t; the rest of it is zero."""
    buffer = cdata.create_string_buffer(info.ljust(SIGINFO_SIZE, b"\0"), SIGINFO_SIZE)
    request(SETSIGINFO, pid, 0, cdata.addressof(buffer))
