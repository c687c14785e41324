"""Shares of CPU and disk time as what each process has for itself: a nice value, an I/O priority."""

from __future__ import annotations

from math import log

NORMAL_SHARES = 1024
_STEP = 1.25  # one nice level is a quarter more CPU time. Source: sched(7); kernel/sched/core.c, sched_prio_to_weight


def nice_of_shares(shares: int) -> int:
    """-20 to 19; 0 for 1024 shares."""
    return max(-20, min(19, round(-log(max(2, shares) / NORMAL_SHARES) / log(_STEP))))


def priority_of_weight(weight: int) -> int:
    """A best-effort I/O priority, 0 (first) to 7, of a blkio weight of 10 to 1000; 4, the default, for 500."""
    return max(0, min(7, 7 - round((weight - 10) * 7 / 990)))
