"""Waves: a roll-out goes to a few hosts first, and on only where that went well."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...compat.errors import UsageError

if TYPE_CHECKING:
    from .hosts import Host


def waves(hosts: list[Host], text: str) -> list[list[Host]]:
    """`1,10%,rest`: so many, or so many of a hundred of all (at least one), each; what is left is the last wave.

    "" is one wave. Raises UsageError.
    """
    sizes = []
    for word in text.split(",") if text else ():
        match = re.fullmatch(r"(\d{1,6})(%?)|rest", word.strip())
        if not match:
            raise UsageError(f'--wave: "{word}" is no wave', "numbers, percentages and rest: 1,10%,rest")
        if match[1] is None:
            break
        number = int(match[1])
        sizes.append(max(1, len(hosts) * number // 100) if match[2] else number)
        if number < 1:
            raise UsageError("--wave: a wave has one host or more")
    found, place = [], 0
    for size in sizes:
        if place < len(hosts):
            found.append(hosts[place : place + size])
            place += size
    return [*found, hosts[place:]] if place < len(hosts) else found
