"""What the shim can emulate: the bit in its code, the finding that says the kernel has it, the calls concerned."""

from __future__ import annotations

from struct import pack

from ..tracing.handler import ALWAYS, ANY_BIT, EQUAL, Condition
from . import code

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Emulation:
    """`bit` as in tools/shim/emulations.c. `calls`: numbers of system calls that may need it (x86-64).

    `vital`: programs fail without it; for the others C libraries and programs have a way of their own.
    """

    __slots__ = ("bit", "calls", "finding", "name", "vital")

    def __init__(self, bit: int, name: str, finding: str, vital: bool, *calls: int) -> None:
        self.bit = bit
        self.name = name
        self.finding = finding
        self.vital = vital
        self.calls = calls


EMULATIONS = (
    Emulation(0, "fstatat-empty-path", "fstatat.empty-path", True, 260, 262, 265),
    Emulation(1, "fstatat-no-automount", "fstatat.no-automount", True, 262),
    Emulation(2, "release", "uname.release", True, 63),
    Emulation(3, "prlimit64", "syscall.prlimit64", True, 302),
    Emulation(4, "getrandom", "syscall.getrandom", True, 161, 318),
    Emulation(5, "o-path", "open.path", True, 2, 257),
    Emulation(6, "o-tmpfile", "open.tmpfile", False, 2, 257),
    Emulation(7, "renameat2", "syscall.renameat2", False, 316),
    Emulation(8, "memfd_create", "syscall.memfd_create", False, 319),
    Emulation(9, "statx", "syscall.statx", False, 332),
    Emulation(10, "faccessat2", "syscall.faccessat2", False, 439),
    Emulation(11, "epoll_pwait2", "syscall.epoll_pwait2", False, 441),
    Emulation(12, "copy_file_range", "syscall.copy_file_range", False, 326),
    Emulation(13, "close_range", "syscall.close_range", False, 436),
    Emulation(14, "accept4", "syscall.accept4", True, 288),
    Emulation(15, "recvmmsg", "syscall.recvmmsg", True, 299),
    Emulation(16, "sendmmsg", "syscall.sendmmsg", True, 307),
    Emulation(17, "execveat", "syscall.execveat", False, 322),
    Emulation(18, "syncfs", "syscall.syncfs", False, 306),
    Emulation(19, "clock-boottime", "clock.boottime", False, 228, 230, 283),
)

# The version that programs are told where the kernel's own is too old for them. C libraries of 2017 to 2022 want 3.2,
# Qt's libraries 3.17; a higher one would have programs expect more than is emulated.
RELEASE = (3, 17, 0)
VERSION_CODE = RELEASE[0] << 16 | RELEASE[1] << 8 | RELEASE[2]

_CONFIG = 32  # where the code keeps what it is told; see tools/shim/emulations.c
CALLED, DIVERTED = 0, 8  # the ways in


def missing(works: Callable[[str], bool]) -> list[Emulation]:
    """The emulations a kernel needs; `works` says whether a finding works there."""
    return [emulation for emulation in EMULATIONS if not works(emulation.finding)]


def mask(emulations: list[Emulation]) -> int:
    return sum(1 << emulation.bit for emulation in emulations)


def of_mask(bits: int) -> list[Emulation]:
    return [emulation for emulation in EMULATIONS if bits >> emulation.bit & 1]


def tells_release(bits: int) -> bool:
    """Whether programs are told another version of the kernel."""
    return any(emulation.name == "release" for emulation in of_mask(bits))


def calls(bits: int) -> frozenset[int]:
    """The numbers of the calls that a mask changes."""
    return frozenset(number for emulation in of_mask(bits) for number in emulation.calls)


def told_release(real: str) -> str:
    """The release a program is told on a kernel of release `real`; 64 bytes at most."""
    return (".".join(map(str, RELEASE)) + "+" + real)[:64]


def code_for(bits: int, real_release: str) -> bytes:
    """The code, told what this kernel lacks."""
    release = told_release(real_release).encode("ascii", "replace")
    config = pack("<I65s", bits, release)
    return code.CODE[:_CONFIG] + config + code.CODE[_CONFIG + len(config) :]


O_PATH, O_TMPFILE_BIT = 0o10000000, 0o20000000


def conditions(bits: int) -> dict[int, Condition]:
    """When a call needs to be looked at, decided by one argument alone (Handler.conditions)."""
    names = {emulation.name for emulation in of_mask(bits)}
    open_flags = O_PATH * ("o-path" in names) | O_TMPFILE_BIT * ("o-tmpfile" in names)
    stat_flags = 0x1000 * ("fstatat-empty-path" in names) | 0x800 * ("fstatat-no-automount" in names)
    special = {
        2: (ANY_BIT, 1, open_flags), 257: (ANY_BIT, 2, open_flags), 262: (ANY_BIT, 3, stat_flags),
        260: (ANY_BIT, 4, 0x1000), 265: (ANY_BIT, 4, 0x1000),
        228: (EQUAL, 0, 7), 230: (EQUAL, 0, 7), 283: (EQUAL, 0, 7),
    }  # fmt: skip
    return {number: special.get(number, (ALWAYS, 0, 0)) for number in calls(bits)}
