"""A watcher over limits that no controller keeps: its own process, which stays until the container has ended."""

from __future__ import annotations

import time

from ...compat import daemon
from ...compat.limits import watch
from ...compat.limits.throttle import Throttle, used
from .. import members, state
from ..bundle import Bundle
from ..limits import Limits
from ..state import State
from . import Step

PERIOD = 0.05  # seconds between two looks
LONGEST = 1.0  # seconds that processes are stopped at once
SIGSTOP, SIGCONT = 19, 18
LOG = "watcher.log"


class StartWatcher(Step):
    """Start the process that looks after limits no controller keeps, until the container has ended."""

    __slots__ = ("bundle", "count", "cpu", "memory", "state")

    def __init__(self, state: State, bundle: Bundle, memory: bool, count: bool, cpu: bool) -> None:
        self.state = state
        self.bundle = bundle
        self.memory = memory
        self.count = count
        self.cpu = cpu

    def describe(self) -> str:
        words = ["memory"] * self.memory + ["number"] * self.count + ["CPU time"] * self.cpu
        return f"start a watcher over the {' and the '.join(words)} of the container's processes"

    def run(self) -> None:
        daemon.start(self._watch)

    def _watch(self) -> None:
        daemon.settle("joey-watcher", set())
        limits = Limits(self.state.folder, self.bundle.resources)
        throttle = Throttle()
        while self.state.alive():
            memory, count, cpus = limits.now()
            found = members.pids(self.state)
            if self.cpu:
                self._throttle(throttle, cpus, found)
            ended = watch.to_end(found, self.state.pid, memory if self.memory else 0, count if self.count else 0)
            for pid in ended:
                self._end(pid, memory, count)
            time.sleep(PERIOD)

    def _throttle(self, throttle: Throttle, cpus: float, found: list[int]) -> None:
        """Stop the processes for as long as they have used too much; but never let go on what the user has paused."""
        seconds = throttle.stop_for(cpus, used(found), time.monotonic())
        if not seconds or state.load_again(self.state).sigstopped:
            return
        members.send(found, SIGSTOP)
        time.sleep(min(seconds, LONGEST))
        if not state.load_again(self.state).sigstopped:
            members.send(found, SIGCONT)

    def _end(self, pid: int, memory: int, count: int) -> None:
        members.send([pid], 9)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = f"{now} killed {pid}: limits {memory} bytes, {count} tasks\n"
        try:
            with open(f"{self.state.folder}/{LOG}", "a") as file:
                file.write(text)
        except OSError:
            pass  # the container is being deleted
