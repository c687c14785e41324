"""A limit of threads and processes kept by a tracer, for kernels without the pids controller (before Linux 4.3).

A call that would make one too many answers EAGAIN, as the controller has it.
"""

from __future__ import annotations

import errno

from .. import files
from ..errors import JoeyError
from ..tracing.handler import ALWAYS, Condition, Handler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CALLS = frozenset((56, 57, 58, 435))  # clone, fork, vfork, clone3


class ForkLimit(Handler):
    """`limit` is asked at each call: it may be changed; 0 or less is none.

    `tasks` gives files that list the container's threads: the first that can be read counts; without one those are
    counted that this tracer knows.
    """

    def __init__(self, limit: Callable[[], int], tasks: Callable[[], list[str]]) -> None:
        self._limit = limit
        self._tasks = tasks
        self._alive: set[int] = set()
        self._making: set[int] = set()  # threads in a call that was let through

    def looks_at(self, number: int) -> bool:
        return number in _CALLS

    def conditions(self) -> dict[int, Condition]:
        return dict.fromkeys(_CALLS, (ALWAYS, 0, 0))

    def born(self, pid: int, parent: int) -> None:
        self._alive.add(pid)

    def ended(self, pid: int) -> None:
        self._alive.discard(pid)
        self._making.discard(pid)

    def entered(self, pid: int, number: int) -> bool:
        if number not in _CALLS:
            return False
        limit = self._limit()
        if limit > 0 and self._count() + len(self._making) >= limit:
            self.tracer.skip(pid, -errno.EAGAIN)
            return True
        self._making.add(pid)
        self.tracer.run_to_end(pid, self._made)
        return True

    def _made(self, pid: int) -> None:
        self._making.discard(pid)
        self.tracer.resume(pid)

    def _count(self) -> int:
        for path in self._tasks():
            try:
                return len(files.read_text(path).split())
            except (OSError, JoeyError):
                continue
        return len(self._alive)
