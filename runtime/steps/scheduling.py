"""The child's steps for how its process is scheduled: policy, I/O priority, CPU affinity, personality."""

from __future__ import annotations

import os

from ...compat import libc, scheduling
from ...compat.errors import StepError
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
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
    """Apply `process.ioPriority`."""

    __slots__ = ("section",)

    def __init__(self, section: dict[str, Any]) -> None:
        self.section = section

    def describe(self) -> str:
        return f"set I/O priority {self.section['class']} {self.section.get('priority', 0)}"

    def run(self) -> None:
        libc.ioprio_set(scheduling.IO_CLASSES[self.section["class"]], self.section.get("priority", 0))


class SetAffinity(Step):
    """Bind the process to CPUs (`process.execCPUAffinity`)."""

    __slots__ = ("cpus",)

    def __init__(self, cpus: str) -> None:
        self.cpus = cpus

    def describe(self) -> str:
        return f"run on CPUs {self.cpus}"

    def run(self) -> None:
        try:
            os.sched_setaffinity(0, scheduling.parse_cpus(self.cpus))
        except OSError as error:
            raise StepError(f"process.execCPUAffinity {self.cpus}: {error.strerror}") from None


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
