"""Extended attributes by the C library: an interpreter built with musl has no os.getxattr. Source: xattr(7)."""

from __future__ import annotations

import errno
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
_get_link, _get_path = (
    cdata.function(name, cdata.c_long, cdata.c_char_p, cdata.c_char_p, cdata.c_void_p, cdata.c_size_t)
    for name in ("lgetxattr", "getxattr")
)
_set_link, _set_path = (
    cdata.function(name, cdata.c_int, cdata.c_char_p, cdata.c_char_p, cdata.c_void_p, cdata.c_size_t, cdata.c_int)
    for name in ("lsetxattr", "setxattr")
)
_remove_link, _remove_path = (
    cdata.function(name, cdata.c_int, cdata.c_char_p, cdata.c_char_p) for name in ("lremovexattr", "removexattr")
)


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


def get_at(path: str, name: str, follow: bool) -> bytes:
    """The same of a path. Raises KernelError."""
    buffer = cdata.create_string_buffer(256)
    call = _get_path if follow else _get_link
    where, what = os.fsencode(path), os.fsencode(name)
    size = call(where, what, cdata.addressof(buffer), 256)
    if size < 0 and cdata.get_errno() == errno.ERANGE:
        buffer = cdata.create_string_buffer(_SIZE)
        size = call(where, what, cdata.addressof(buffer), _SIZE)
    size = _check("getxattr", size)
    return bytes(buffer)[:size]


def set_at(path: str, name: str, value: bytes, follow: bool) -> None:
    """Raises KernelError."""
    buffer = cdata.create_string_buffer(value)
    call = _set_path if follow else _set_link
    _check("setxattr", call(os.fsencode(path), os.fsencode(name), cdata.addressof(buffer), len(value), 0))


def remove_at(path: str, name: str, follow: bool) -> None:
    """Raises KernelError."""
    call = _remove_path if follow else _remove_link
    _check("removexattr", call(os.fsencode(path), os.fsencode(name)))


def _check(call: str, result: int) -> int:
    if result < 0:
        raise KernelError(call, cdata.get_errno())
    return result
