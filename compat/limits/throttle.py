"""A CPU quota without its knob: a container's processes are stopped while they have used more than their share.

Coarser than the kernel's: looked at some twenty times a second. Source: proc(5), stat; time is counted in clock ticks.
"""

from __future__ import annotations

import os

from ..process import stat

_TICKS = os.sysconf("SC_CLK_TCK")
_SAVED = 0.1  # seconds of CPU time that may be saved up, as a period of the kernel's quota


def used(pids: list[int]) -> float:
    """Seconds of CPU time of processes, and of their children that have ended: a child that is reaped stays counted."""
    total = 0
    for pid in pids:
        _, fields = stat(pid)
        if len(fields) > 14:
            total += sum(int(field) for field in fields[11:15])
    return total / _TICKS


class Throttle:
    """Says how long processes are to be stopped, so that they use `share` CPUs' time (0.5: half a CPU) on average."""

    __slots__ = ("_left", "_now", "_used")

    def __init__(self) -> None:
        self._left = _SAVED
        self._now = -1.0
        self._used = 0.0

    def stop_for(self, share: float, used_now: float, now: float) -> float:
        """Seconds from `now` on; 0 where they may go on. `used_now` is what `used` says."""
        if self._now >= 0 and share > 0:
            self._left += share * (now - self._now) - max(0.0, used_now - self._used)
        self._left = min(self._left, _SAVED)
        self._now, self._used = now, used_now
        return -self._left / share if share > 0 and self._left < 0 else 0.0
