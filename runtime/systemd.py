"""Which kernel a systemd needs, as the first process of a container. Source: systemd's README, "REQUIREMENTS"."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_KERNELS = ((251, (3, 15)), (209, (3, 7)), (1, (2, 6, 39)))  # from a version on
OLDEST_NAMED = 230  # the first whose shared library has its version in its name


def version_of(names: Iterable[str]) -> int:
    """The version by file names (libsystemd-shared-252.so); 0 where none tells it."""
    for name in names:
        if found := re.match(r"libsystemd-shared-([0-9]{1,4})\b", name):
            return int(found[1])
    return 0


def unfit(version: int, release: str) -> str:
    """Why a systemd (0: one before 230) can't be the first process on a kernel; "" where it can."""
    known = version or OLDEST_NAMED - 1
    least = next(kernel for first, kernel in _KERNELS if known >= first)
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if not found or tuple(int(word or 0) for word in found.groups()) >= least:
        return ""
    name = f"systemd {version}" if version else f"systemd before {OLDEST_NAMED}"
    return f"{name} wants Linux {'.'.join(map(str, least))}, this is {release}"
