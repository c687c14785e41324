"""Limits without a cgroup controller: what the process sets for itself, and the watcher over all of them."""

from __future__ import annotations

import os
import time

from ...compat import files, jsonio, libc, process, scheduling, signals
from ...compat.errors import JoeyError, StepError
from ...compat.limits import shares, watch
from .. import members
from ..bundle import Bundle
from ..state import State
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

PERIOD = 0.05  # seconds between two looks
LOG = "watcher.log"


class SetNice(Step):
    """CPU shares as a nice value, which the process's children inherit."""

    __slots__ = ("nice",)

    def __init__(self, cpu_shares: int) -> None:
        self.nice = shares.nice_of_shares(cpu_shares)

    def describe(self) -> str:
        return f"set the nice value {self.nice}"

    def run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, 0, self.nice)


class SetCpus(Step):
    """A cpuset as the process's CPU affinity."""

    __slots__ = ("cpus",)

    def __init__(self, cpus: str) -> None:
        self.cpus = cpus

    def describe(self) -> str:
        return f"run on CPUs {self.cpus}"

    def run(self) -> None:
        try:
            os.sched_setaffinity(0, scheduling.parse_cpus(self.cpus))
        except OSError as error:
            raise StepError(f"linux.resources.cpu.cpus {self.cpus}: {error.strerror}") from None


class SetDiskPriority(Step):
    """A disk weight as the process's I/O priority."""

    __slots__ = ("priority",)

    def __init__(self, weight: int) -> None:
        self.priority = shares.priority_of_weight(weight)

    def describe(self) -> str:
        return f"set the best-effort I/O priority {self.priority}"

    def run(self) -> None:
        libc.ioprio_set(scheduling.IO_CLASSES["IOPRIO_CLASS_BE"], self.priority)


def own_limits(resources: dict[str, Any], mechanism_of: Callable[[str], str]) -> list[Step]:
    """What a process of the container sets for itself, and hands down."""
    cpu, block = resources.get("cpu") or {}, resources.get("blockIO") or {}
    out: list[Step] = []
    if mechanism_of("cgroup.cpu") == "nice" and cpu.get("shares"):
        out.append(SetNice(cpu["shares"]))
    if mechanism_of("cgroup.cpuset") == "affinity" and cpu.get("cpus"):
        out.append(SetCpus(cpu["cpus"]))
    if mechanism_of("cgroup.blkio") == "io-priority" and block.get("weight"):
        out.append(SetDiskPriority(block["weight"]))
    return out


class StartWatcher(Step):
    """Start the process that looks after limits no controller keeps, until the container has ended."""

    __slots__ = ("bundle", "count", "memory", "state")

    def __init__(self, state: State, bundle: Bundle, memory: bool, count: bool) -> None:
        self.state = state
        self.bundle = bundle
        self.memory = memory
        self.count = count

    def describe(self) -> str:
        words = ["memory"] * self.memory + ["number"] * self.count
        return f"start a watcher over the {' and the '.join(words)} of the container's processes"

    def run(self) -> None:
        between = os.fork()
        if between == 0:
            try:
                if os.fork() == 0:
                    self._watch()
            finally:
                os._exit(0)
        os.waitpid(between, 0)

    def _watch(self) -> None:
        os.setsid()
        signals.reset()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        process.close_all_but(set(), first=3)
        libc.name_process("joey-watcher")
        signals.ignore_ends()
        limits = Limits(self.state.folder, self.bundle.resources)
        while self.state.alive():
            memory, count = limits.now()
            found = members.pids(self.state)
            ended = watch.to_end(found, self.state.pid, memory if self.memory else 0, count if self.count else 0)
            for pid in ended:
                self._end(pid, memory, count)
            time.sleep(0 if ended else PERIOD)

    def _end(self, pid: int, memory: int, count: int) -> None:
        members.send([pid], 9)
        text = (
            f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} killed {pid}: limits {memory} bytes, {count} tasks\n"
        )
        try:
            with open(f"{self.state.folder}/{LOG}", "a") as file:
                file.write(text)
        except OSError:
            pass  # the container is being deleted


class Limits:
    """The memory and process limits as the container's config.json has them now: `joey update` changes them."""

    def __init__(self, folder: str, resources: dict[str, Any]) -> None:
        self._path = f"{folder}/config.json"
        self._stamp: tuple[int, int] | None = None
        self._now = _limits(resources)

    def now(self) -> tuple[int, int]:
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                config = jsonio.loads(files.read_text(self._path, 64 << 20))
                self._now = _limits((config.get("linux") or {}).get("resources") or {})
                self._stamp = stamp
        except (OSError, JoeyError, ValueError):
            pass  # what held goes on holding
        return self._now

    def count(self) -> int:
        return self.now()[1]


def _limits(resources: dict[str, Any]) -> tuple[int, int]:
    return (resources.get("memory") or {}).get("limit") or 0, (resources.get("pids") or {}).get("limit") or 0
