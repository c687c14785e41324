"""Which arguments of a system call name files, and what the file at the end of each path is to the call (x86-64)."""

from __future__ import annotations

import os
from struct import unpack

from . import ptrace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .errands import Errand

Path = tuple[int, int, bool, int]

AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH, AT_FDCWD = 0x100, 0x400, 0x1000, -100
O_ACCMODE, O_CREAT, O_EXCL, O_TRUNC, O_NOFOLLOW = 3, 0o100, 0o200, 0o1000, 0o400000
MKNOD, CREAT, OPEN, OPENAT, OPENAT2, BIND, CONNECT = 133, 85, 2, 257, 437, 49, 42
_AF_UNIX = 1

CWD = -1  # in the tables: relative to the working directory

# What a path's last component is to the call
REACH, TARGET_X, TARGET_R, TARGET_W, OWNED, MADE, TAKEN = range(7)
# number: (argument of the directory, argument of the path, whether a last link is followed, what it is to the call)
PATHS: dict[int, tuple[Path, ...]] = {
    4: ((CWD, 0, True, REACH),), 6: ((CWD, 0, False, REACH),), 262: ((0, 1, True, REACH),),
    332: ((0, 1, True, REACH),), 89: ((CWD, 0, False, REACH),), 267: ((0, 1, False, REACH),),
    137: ((CWD, 0, True, REACH),), 194: ((CWD, 0, True, REACH),), 195: ((CWD, 0, False, REACH),),
    59: ((CWD, 0, True, TARGET_X),), 322: ((0, 1, True, TARGET_X),), 80: ((CWD, 0, True, TARGET_X),),
    161: ((CWD, 0, True, TARGET_X),), 81: ((0, CWD, True, TARGET_X),),
    191: ((CWD, 0, True, TARGET_R),), 192: ((CWD, 0, False, TARGET_R),), 254: ((CWD, 1, True, TARGET_R),),
    76: ((CWD, 0, True, TARGET_W),),
    90: ((CWD, 0, True, OWNED),), 268: ((0, 1, True, OWNED),), 452: ((0, 1, True, OWNED),),
    91: ((0, CWD, True, OWNED),), 132: ((CWD, 0, True, OWNED),), 235: ((CWD, 0, True, OWNED),),
    261: ((0, 1, True, OWNED),), 280: ((0, 1, True, OWNED),), 188: ((CWD, 0, True, OWNED),),
    92: ((CWD, 0, True, OWNED),), 93: ((0, CWD, True, OWNED),), 94: ((CWD, 0, False, OWNED),),
    260: ((0, 1, True, OWNED),),
    189: ((CWD, 0, False, OWNED),), 190: ((0, CWD, True, OWNED),), 197: ((CWD, 0, True, OWNED),),
    198: ((CWD, 0, False, OWNED),), 199: ((0, CWD, True, OWNED),),
    83: ((CWD, 0, False, MADE),), 258: ((0, 1, False, MADE),), MKNOD: ((CWD, 0, False, MADE),),
    259: ((0, 1, False, MADE),), 88: ((CWD, 1, False, MADE),), 266: ((1, 2, False, MADE),),
    84: ((CWD, 0, False, TAKEN),), 87: ((CWD, 0, False, TAKEN),), 263: ((0, 1, False, TAKEN),),
    82: ((CWD, 0, False, TAKEN), (CWD, 1, False, TAKEN)), 264: ((0, 1, False, TAKEN), (2, 3, False, TAKEN)),
    316: ((0, 1, False, TAKEN), (2, 3, False, TAKEN)),
    86: ((CWD, 0, False, REACH), (CWD, 1, False, MADE)), 265: ((0, 1, False, REACH), (2, 3, False, MADE)),
}  # fmt: skip
OPENS = (OPEN, CREAT, OPENAT, OPENAT2)
FLAGS_OF = {260: 4, 262: 3, 332: 2, 280: 3, 322: 4, 452: 3}  # argument with AT_SYMLINK_NOFOLLOW


def open_flags(errand: Errand) -> int:
    if errand.number == CREAT:
        return O_CREAT | os.O_WRONLY | O_TRUNC
    if errand.number == OPENAT2:
        return int(unpack("<Q", errand.read(errand.argument(2), 8))[0])
    return errand.argument(1 if errand.number == OPEN else 2)


def text_of(errand: Errand, index: int) -> bytes:
    """The path in an argument. Raises OSError."""
    return ptrace.read_string(errand.pid, errand.argument(index))


def base_of(errand: Errand, index: int) -> int:
    """The descriptor in an argument that a path is relative to."""
    return AT_FDCWD if index == CWD else signed(errand.argument(index))


def socket_path(errand: Errand) -> bytes:
    """The path in the address of a bind(2) or connect(2); b"" for other sockets."""
    size = min(errand.argument(2) & 0xFFFFFFFF, 110)
    data = ptrace.read(errand.pid, errand.argument(1), size)
    return path_of_address(data)


def path_of_address(data: bytes) -> bytes:
    """The path in a struct sockaddr_un; b"" for other addresses."""
    if len(data) < 3 or unpack("<H", data[:2])[0] != _AF_UNIX or data[2] == 0:
        return b""
    return data[2:].split(b"\0")[0]


def signed(word: int) -> int:
    """A descriptor as C's int."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >> 31 else word
