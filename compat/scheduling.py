"""CPU and I/O scheduling of a process: policies, priorities, affinity; and its personality.

Source: sched(7), sched_setattr(2), ioprio_set(2), personality(2), runtime-spec config.md "scheduler", "ioPriority".
"""

from __future__ import annotations

import os

from .errors import JoeyError

# name -> SCHED_*, <linux/sched.h>
POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
            "SCHED_DEADLINE": 6}  # fmt: skip
SCHEDULER_FLAGS = {"SCHED_FLAG_RESET_ON_FORK": 0x01, "SCHED_FLAG_RECLAIM": 0x02, "SCHED_FLAG_DL_OVERRUN": 0x04,
                   "SCHED_FLAG_KEEP_POLICY": 0x08, "SCHED_FLAG_KEEP_PARAMS": 0x10, "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
                   "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40}  # fmt: skip
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}

RESET_ON_FORK = 0x40000000  # SCHED_RESET_ON_FORK of sched_setscheduler, Linux 2.6.32


def set_by_attr(policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int) -> None:
    """Scheduling policy of the calling process; times in ns. Linux 3.14."""
    from . import libc

    libc.sched_setattr(policy, flags, nice, priority, runtime, deadline, period)


def set_by_scheduler(policy: int, flags: int, nice: int, priority: int) -> None:
    """The same without deadlines and later flags, as kernels before 3.14 have it."""
    if policy == POLICIES["SCHED_DEADLINE"] or flags & ~1:
        raise JoeyError("process.scheduler: this kernel has no sched_setattr (Linux 3.14), which that policy needs")
    os.sched_setscheduler(0, policy | (RESET_ON_FORK if flags & 1 else 0), os.sched_param(priority))
    if nice:
        os.setpriority(os.PRIO_PROCESS, 0, nice)


def parse_cpus(text: str) -> set[int]:
    """The CPU numbers of "0-3,7"; none for an empty text. Raises ValueError."""
    cpus: set[int] = set()
    for part in text.replace(" ", "").split(",") if text.strip() else ():
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f'"{part}" is no CPU number or range')
        low, high = int(first), int(last or first)
        if not low <= high <= 8191:
            raise ValueError(f'"{part}" is no range of CPUs')
        cpus.update(range(low, high + 1))
    return cpus
