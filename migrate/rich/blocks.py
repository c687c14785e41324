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
    number = parse_size(rate) if option.endswith("bps") else int(rate) if rate.isdigit() else None
    if not colon or not path.startswith("/") or number is None or number >= 1 << 63:
        example = "/dev/sda:20M" if option.endswith("bps") else "/dev/sda:500"
        raise UsageError(
            f'--{option}: "{word}" is not DEVICE:RATE', f"such as {example}, or the path of a folder on it"
        )
    return os.path.normpath(path), number


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
