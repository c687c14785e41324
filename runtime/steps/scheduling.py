"""The child's steps for how its process is scheduled: policy, I/O priority, CPU affinity, personality."""

from __future__ import annotations

import os

from ...compat import libc, scheduling
from ...compat.errors import StepError
from ...compat.limits import shares
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class SetScheduler(Step):
    """Apply `process.scheduler`."""

    __slots__ = ("by", "section")

    def __init__(self, section: dict[str, Any], by: str) -> None:
        self.section = section
        self.by = by  # "sched_setattr" or "sched_setscheduler"

    def describe(self) -> str:
        words = [f"{key}={value}" for key, value in self.section.items()]
        return f"schedule by {self.by}: " + " ".join(words)

    def run(self) -> None:
        get = self.section.get
        policy = scheduling.POLICIES[self.section["policy"]]
        flags = 0
        for name in get("flags") or []:
            flags |= scheduling.SCHEDULER_FLAGS[name]
        nice, priority = get("nice", 0), get("priority", 0)
        if self.by == "sched_setattr":
            times = (get("runtime", 0), get("deadline", 0), get("period", 0))
            scheduling.set_by_attr(policy, flags, nice, priority, *times)
        else:
            scheduling.set_by_scheduler(policy, flags, nice, priority)


class SetIoPriority(Step):
    """Apply `process.ioPriority`, or what stands for a disk weight."""

    __slots__ = ("section",)

    def __init__(self, section: dict[str, Any]) -> None:
        self.section = section

    def describe(self) -> str:
        return f"set I/O priority {self.section['class']} {self.section.get('priority', 0)}"

    def run(self) -> None:
        libc.ioprio_set(scheduling.IO_CLASSES[self.section["class"]], self.section.get("priority", 0))


class SetNice(Step):
    """CPU shares as a nice value, which the process's children inherit."""

    __slots__ = ("nice",)

    def __init__(self, cpu_shares: int) -> None:
        self.nice = shares.nice_of_shares(cpu_shares)

    def describe(self) -> str:
        return f"set the nice value {self.nice}"

    def run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, self.nice)


class SetAffinity(Step):
    """Bind the process to CPUs, as a field of config.json asks."""

    __slots__ = ("cpus", "field")

    def __init__(self, cpus: str, field: str = "process.execCPUAffinity") -> None:
        self.cpus = cpus
        self.field = field

    def describe(self) -> str:
        return f"run on CPUs {self.cpus}"

    def run(self) -> None:
        try:
            os.sched_setaffinity(0, scheduling.parse_cpus(self.cpus))
        except OSError as error:
            raise StepError(f"{self.field} {self.cpus}: {error.strerror}") from None


class SetPersonality(Step):
    """Apply `linux.personality`."""

    __slots__ = ("domain",)

    def __init__(self, domain: str) -> None:
        self.domain = domain

    def describe(self) -> str:
        return f"take the personality {self.domain}"

    def run(self) -> None:
        libc.personality(scheduling.PERSONALITIES[self.domain])


def scheduling_steps(process: dict[str, Any], by: str) -> list[Step]:
    """The steps a `process` object asks for; while still privileged."""
    out: list[Step] = []
    if process.get("scheduler"):
        out.append(SetScheduler(process["scheduler"], by))
    if process.get("ioPriority"):
        out.append(SetIoPriority(process["ioPriority"]))
    return out


def limits_of_oneself(resources: dict[str, Any], mechanism_of: Callable[[str], str]) -> list[Step]:
    """What a process sets for itself, and hands down, where no controller keeps a limit."""
    cpu, block = resources.get("cpu") or {}, resources.get("blockIO") or {}
    out: list[Step] = []
    if mechanism_of("cgroup.cpu") == "nice" and cpu.get("shares"):
        out.append(SetNice(cpu["shares"]))
    if mechanism_of("cgroup.cpuset") == "affinity" and cpu.get("cpus"):
        out.append(SetAffinity(cpu["cpus"], "linux.resources.cpu.cpus"))
    if mechanism_of("cgroup.blkio") == "io-priority" and block.get("weight"):
        priority = shares.priority_of_weight(block["weight"])
        out.append(SetIoPriority({"class": "IOPRIO_CLASS_BE", "priority": priority}))
    return out
