"""Capability sets of the calling thread: read, limit, set, and keep over a change of user."""

from __future__ import annotations

import errno

from . import cdata, libc
from .constants import (
    CAPABILITIES,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
)
from .errors import KernelError

VERSION_3 = 0x20080522  # _LINUX_CAPABILITY_VERSION_3, Linux 2.6.26


class _Header(cdata.Structure):
    _fields_ = (("version", cdata.c_uint32), ("pid", cdata.c_int))


class _Data(cdata.Structure):
    _fields_ = (("effective", cdata.c_uint32), ("permitted", cdata.c_uint32), ("inheritable", cdata.c_uint32))


def mask(names: list[str]) -> int:
    """The bit mask of capability names ("CAP_CHOWN"). Raises KeyError with the first unknown name."""
    bits = 0
    for name in names:
        if name not in CAPABILITIES:
            raise KeyError(name)
        bits |= 1 << CAPABILITIES.index(name)
    return bits


def last() -> int:
    """The highest capability number this kernel knows (33 on 2.6.32). Source: PR_CAPBSET_READ answers EINVAL above."""
    known, unknown = 0, 64
    while unknown - known > 1:
        middle = (known + unknown) // 2
        try:
            libc.prctl(PR_CAPBSET_READ, middle)
            known = middle
        except KernelError:
            unknown = middle
    return known


def get() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of the calling thread, as bit masks."""
    header = _Header(VERSION_3, 0)
    data = (_Data * 2)()
    libc.capget(header, data)
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def set(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three sets of the calling thread. Raises KernelError (EPERM for what it never had)."""
    header = _Header(VERSION_3, 0)
    data = (_Data * 2)()
    for index, shift in ((0, 0), (1, 32)):
        data[index].effective = effective >> shift & 0xFFFFFFFF
        data[index].permitted = permitted >> shift & 0xFFFFFFFF
        data[index].inheritable = inheritable >> shift & 0xFFFFFFFF
    libc.capset(header, data)


def limit_bounding(keep: int, highest: int) -> None:
    """Drop every capability up to `highest` outside `keep` from the bounding set. Linux 2.6.25; per thread for ever.

    What is not in it needs no dropping, which takes CAP_SETPCAP.
    """
    for number in range(highest + 1):
        if not keep >> number & 1 and libc.prctl(PR_CAPBSET_READ, number):
            libc.prctl(PR_CAPBSET_DROP, number)


def raise_ambient(bits: int) -> None:
    """Add `bits` to the ambient set; each must be permitted and inheritable. Linux 4.3."""
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def clear_ambient_if_any() -> None:
    """Clear the ambient set where the kernel has one; before Linux 4.3 there is nothing to clear."""
    try:
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except KernelError as error:
        if error.errno != errno.EINVAL:
            raise
