"""A program of a hundred bytes that stands between joey's interpreter and a container's program.

When a script begins with `#!/proc/self/exe`, the kernel runs what executes it at that moment. Were that joey's own
interpreter, a container could keep it open and overwrite it (CVE-2019-5736). So joey executes this stub, and the stub
the program: all that /proc/self/exe names by then is a file nobody else uses.

Called as `stub PROGRAM ARGV...`, with the descriptor it was made for open: it makes that close-on-exec, executes
PROGRAM with ARGV and the environment, and on a failure writes b"exec" and the errno (int32) to the descriptor.
The machine code is assembled from tools/exec_stub/.
"""

from __future__ import annotations

import errno
import fcntl
import os
from struct import pack

from . import libc
from .errors import KernelError
from .procfs import PROC_SUPER_MAGIC

# machine -> (ELF machine number, code); the descriptor's number follows the code
_CODE = {
    "x86_64": (62, (
        "8b3d5e000000be02000000ba01000000b8480000000f0585c07519488b0424488b7c2408488d742410488d14c6b83b0000000f05f7d8"
        "48c1e020b9657865634809c8508b3d1b0000004889e6ba08000000b8010000000f05bf01000000b8e70000000f05"
    )),
    "aarch64": (183, (
        "00030018410080d2220080d2280380d2010000d4e00000b5e30340f9e00740f9e1430091220c038ba81b80d2010000d4e003004ba10c"
        "8f52a16cac72e103be2900010018e1030091020180d2080880d2010000d4200080d2c80b80d2010000d4"
    )),
}  # fmt: skip
_BASE = 0x400000
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
F_ADD_SEALS, ALL_SEALS = 1033, 0xF


def code() -> bytes:
    """This machine's code; empty where there is none."""
    return bytes.fromhex(_CODE.get(libc.MACHINE, (0, ""))[1])


def image(report_fd: int) -> bytes:
    """The ELF executable that reports on descriptor `report_fd`. Source: elf(5)."""
    number = _CODE[libc.MACHINE][0]
    body = code() + pack("<i", report_fd)
    start = 64 + 56
    header = pack(
        "<4s12BHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        2, number, 1, _BASE + start, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    size = start + len(body)
    return header + pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000) + body


def memory_file(name: str) -> int:
    """An empty memory file that can be sealed and executed. Raises OSError. Source: memfd_create(2), Linux 3.17."""
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)  # Linux 6.3, needed where vm.memfd_noexec is set
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def in_memory(content: bytes, least: int) -> int:
    """A sealed memory file of `content`, on a descriptor not below `least`. Raises OSError.

    Executable for all and readable for none: a process that runs it is undumpable where it may not read it.
    """
    fd = memory_file("joey-exec")
    try:
        os.write(fd, content)
        os.fchmod(fd, 0o111)
        fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
    finally:
        os.close(fd)


def in_unlinked_file(content: bytes, least: int, folders: tuple[str, ...]) -> int:
    """The same in a file without a name, in the first folder that may be written to and executed from. Any kernel."""
    for folder in folders:
        name = f"{folder}/.joey-exec-{os.getpid()}"
        try:
            if os.statvfs(folder).f_flag & os.ST_NOEXEC:
                continue
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o500)
        except OSError:
            continue
        try:
            reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            os.unlink(name)
            os.write(fd, content)
            os.fchmod(fd, 0o555)
        finally:
            os.close(fd)  # a file open for writing can't be executed (ETXTBSY)
        try:
            return fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, least)
        finally:
            os.close(reading)
    raise KernelError("open", errno.EACCES, " ".join(folders), "one of them must allow files to be executed")


def can_run_by_name(stub: int) -> bool:
    """Whether /proc/self/fd shows the stub's file, by which `run` executes it."""
    path = f"/proc/self/fd/{stub}"
    try:
        here, there = os.fstat(stub), os.stat(path)
        return libc.fs_type("/proc/self/fd") == PROC_SUPER_MAGIC and (here.st_dev, here.st_ino) == (
            there.st_dev,
            there.st_ino,
        )
    except (OSError, KernelError):
        return False


def run(stub: int, by_name: bool, program: str, argv: list[str], env: dict[str, str]) -> None:
    """Execute the stub, which executes `program`, through /proc/self/fd or by execveat(2).

    Raises OSError, KernelError.
    """
    words = [program, *argv]
    if by_name:
        os.execve(f"/proc/self/fd/{stub}", words, env)
    libc.execveat(stub, words, env)
