"""A watcher over limits that no controller keeps: its own process, which stays until the container has ended."""

from __future__ import annotations

import time

from ...compat import daemon
from ...compat.limits import watch
from .. import members
from ..bundle import Bundle
from ..limits import Limits
from ..state import State
from . import Step

PERIOD = 0.05  # seconds between two looks
LOG = "watcher.log"


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
        daemon.start(self._watch)

    def _watch(self) -> None:
        daemon.settle("joey-watcher", set())
        limits = Limits(self.state.folder, self.bundle.resources)
        while self.state.alive():
            memory, count = limits.now()
            found = members.pids(self.state)
            ended = watch.to_end(found, self.state.pid, memory if self.memory else 0, count if self.count else 0)
            for pid in ended:
                self._end(pid, memory, count)
            time.sleep(PERIOD)

    def _end(self, pid: int, memory: int, count: int) -> None:
        members.send([pid], 9)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = f"{now} killed {pid}: limits {memory} bytes, {count} tasks\n"
        try:
            with open(f"{self.state.folder}/{LOG}", "a") as file:
                file.write(text)
        except OSError:
            pass  # the container is being deleted
