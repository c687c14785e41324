"""The part of ctypes that joey needs, built on its C module: the `ctypes` package itself costs every start 1.5 ms.

Names and meaning are those of ctypes; `function` stands for an attribute of a CDLL. CPython keeps `_ctypes` for its own
use, so a change there shows here first, in every test. Type checkers are shown ctypes itself.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ctypes import (
        Array,
        Structure,
        addressof,
        byref,
        c_char_p,
        c_int,
        c_int32,
        c_long,
        c_size_t,
        c_uint,
        c_uint32,
        c_uint64,
        c_ulong,
        c_ushort,
        c_void_p,
        create_string_buffer,
        get_errno,
        set_errno,
        sizeof,
    )
    from typing import Any

    _Function: Any
    _LockedFunction: Any
else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        Array,
        CFuncPtr,
        Structure,
        _SimpleCData,
        addressof,
        byref,
        dlopen,
        get_errno,
        set_errno,
        sizeof,
    )

    # the letters are those of the struct module, with z for a string and P for any pointer
    c_char, c_ushort, c_int, c_uint, c_long, c_ulong, c_char_p, c_void_p = (
        type(_SimpleCData)(name, (_SimpleCData,), {"_type_": letter})
        for name, letter in (
            ("c_char", "c"), ("c_ushort", "H"), ("c_int", "i"), ("c_uint", "I"), ("c_long", "l"), ("c_ulong", "L"),
            ("c_char_p", "z"), ("c_void_p", "P"),
        )
    )  # fmt: skip
    # on the 64-bit Linux that joey runs on (LP64)
    c_int32, c_uint32, c_uint64, c_size_t = c_int, c_uint, c_ulong, c_ulong

    class _Function(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
        _restype_ = c_int

    class _LockedFunction(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO | FUNCFLAG_PYTHONAPI
        _restype_ = c_int

    def create_string_buffer(init, size=0):
        """A buffer of `init` zero bytes; or of the bytes `init` and a final zero, or of `size` of them."""
        if isinstance(init, int):
            return (c_char * init)()
        return (c_char * (size or len(init) + 1)).from_buffer_copy(init if size else init + b"\0")


__all__ = [
    "Array", "Structure", "addressof", "byref", "c_char_p", "c_int", "c_int32", "c_long", "c_size_t", "c_uint",
    "c_uint32", "c_uint64", "c_ulong", "c_ushort", "c_void_p", "create_string_buffer", "function", "function_at",
    "get_errno", "set_errno", "sizeof",
]  # fmt: skip


class _Library:
    """Where CFuncPtr looks names up: this process, with all it has loaded."""

    if not TYPE_CHECKING:
        _handle = dlopen(None, 0)


def function(name: str, restype: type, *argtypes: type, locked: bool = False) -> Callable[..., int]:
    """A function of the C library or the interpreter, an object of its own each time. Raises AttributeError.

    `locked` keeps the interpreter's lock over the call.
    """
    made: Any = (_LockedFunction if locked else _Function)((name, _Library))
    made.restype = restype
    made.argtypes = argtypes
    return made  # type: ignore[no-any-return]


def function_at(address: int, restype: type, *argtypes: type) -> Callable[..., int]:
    """A function of machine code in memory."""
    made: Any = _Function(address)
    made.restype = restype
    made.argtypes = argtypes
    return made  # type: ignore[no-any-return]
