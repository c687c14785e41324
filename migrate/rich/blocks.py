"""Limits of a container's disk traffic, by the devices that its files lie on. Source: runtime-spec, config-linux.md,
"Block IO"; cgroup-v1 blkio-controller.rst."""

from __future__ import annotations

import os
import stat
from typing import Any

from ...compat.errors import JoeyError, UsageError
from ..sizes import parse_size

# option -> the field of the spec; "bps" counts bytes a second, "iops" operations
RATES = {
    "device-read-bps": "throttleReadBpsDevice",
    "device-write-bps": "throttleWriteBpsDevice",
    "device-read-iops": "throttleReadIOPSDevice",
    "device-write-iops": "throttleWriteIOPSDevice",
}


def parse_rate(word: str, option: str) -> tuple[str, int]:
    """PATH:RATE, the rate a size where it counts bytes; 0 for no limit. Raises UsageError."""
    path, colon, rate = word.rpartition(":")
    is_number = rate.isdecimal() and rate.isascii()
    number = parse_size(rate) if option.endswith("bps") else int(rate) if is_number else None
    if not colon or not path.startswith("/") or number is None or number >= 1 << 63:
        example = "/dev/sda:20M" if option.endswith("bps") else "/dev/sda:500"
        raise UsageError(
            f'--{option}: "{word}" is not DEVICE:RATE', f"such as {example}, or the path of a folder on it"
        )
    return os.path.normpath(path), number


def set_rate(rates: dict[str, dict[str, int]], option: str, path: str, rate: int) -> None:
    """Put a limit in the place of the disk's old one, whatever path that was named by; 0 takes it away.

    Raises JoeyError for a path that is on no disk; one whose disk is gone can be taken away.
    """
    paths = rates.setdefault(option, {})
    if rate or path not in paths:
        disk = disk_of(path)
        for known in [known for known in paths if known != path and _disk_or_none(known) == disk]:
            del paths[known]
    paths.pop(path, None)
    if rate:
        paths[path] = rate
    if not paths:
        del rates[option]


def _disk_or_none(path: str) -> tuple[int, int] | None:
    try:
        return disk_of(path)
    except JoeyError:
        return None


def changes(old: dict[str, dict[str, int]], new: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The spec's `blockIO` that makes others of limits that hold: what is there no more is 0. Raises JoeyError."""
    out: dict[str, Any] = {}
    for option, field in RATES.items():
        had, has = old.get(option, {}), new.get(option, {})
        rows = {disk_of(path): rate for path, rate in has.items() if had.get(path) != rate}
        kept = {_disk_or_none(path) for path, rate in has.items() if had.get(path) == rate}
        for path in had:
            disk = _disk_or_none(path)
            if disk is not None and disk not in kept:  # else it is gone, and its limit with it
                rows.setdefault(disk, 0)
        if rows:
            out[field] = [{"major": major, "minor": minor, "rate": rate} for (major, minor), rate in rows.items()]
    return out


def limits(weight: int, rates: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The spec's `blockIO`. `rates`: option -> path -> rate. Raises JoeyError for a path that is on no disk."""
    out: dict[str, Any] = {"weight": weight} if weight else {}
    for option, paths in rates.items():
        rows = []
        for path, rate in paths.items():
            major, minor = disk_of(path)
            rows.append({"major": major, "minor": minor, "rate": rate})
        if rows:
            out[RATES[option]] = rows
    return out


def disk_of(path: str) -> tuple[int, int]:
    """The disk that is at a path, or that a file or folder lies on: the whole one, for partitions have no limits of
    their own. Raises JoeyError."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise JoeyError(f"can't limit the traffic of {path}: {error.strerror}", "a device, or a folder on it") from None
    number = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    place = os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not os.path.isdir(place):
        raise JoeyError(f"{path} is on no disk of its own here", "name the device: lsblk shows them")
    if os.path.exists(f"{place}/partition"):
        place = os.path.dirname(place)
    with open(f"{place}/dev", encoding="ascii") as file:
        major, _, minor = file.read().strip().partition(":")
    return int(major), int(minor)
