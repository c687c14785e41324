"""Extended attributes by the C library: an interpreter built with musl has no os.getxattr. Source: xattr(7)."""

from __future__ import annotations

import os

from . import cdata
from .errors import KernelError

_SIZE = 1 << 16  # XATTR_SIZE_MAX, XATTR_LIST_MAX
_get = cdata.function("fgetxattr", cdata.c_long, cdata.c_int, cdata.c_char_p, cdata.c_void_p, cdata.c_size_t)
_set = cdata.function(
    "fsetxattr", cdata.c_int, cdata.c_int, cdata.c_char_p, cdata.c_void_p, cdata.c_size_t, cdata.c_int
)
_remove = cdata.function("fremovexattr", cdata.c_int, cdata.c_int, cdata.c_char_p)
_list = cdata.function("flistxattr", cdata.c_long, cdata.c_int, cdata.c_void_p, cdata.c_size_t)


def names(fd: int) -> list[str]:
    """The names of an open file's attributes. Raises KernelError."""
    buffer = cdata.create_string_buffer(_SIZE)
    size = _check("flistxattr", _list(fd, cdata.addressof(buffer), _SIZE))
    return [os.fsdecode(name) for name in bytes(buffer)[:size].split(b"\0") if name]


def get(fd: int, name: str) -> bytes:
    """Raises KernelError: ENODATA where there is none."""
    buffer = cdata.create_string_buffer(_SIZE)
    size = _check("fgetxattr", _get(fd, os.fsencode(name), cdata.addressof(buffer), _SIZE))
    return bytes(buffer)[:size]


def set(fd: int, name: str, value: bytes) -> None:
    """Raises KernelError."""
    buffer = cdata.create_string_buffer(value)
    _check("fsetxattr", _set(fd, os.fsencode(name), cdata.addressof(buffer), len(value), 0))


def remove(fd: int, name: str) -> None:
    """Raises KernelError."""
    _check("fremovexattr", _remove(fd, os.fsencode(name)))


def _check(call: str, result: int) -> int:
    if result < 0:
        raise KernelError(call, cdata.get_errno())
    return result
