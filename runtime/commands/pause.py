"""`joey pause` and `joey resume`: the freezer."""

from __future__ import annotations

from ...compat.errors import StateError
from ..options import Arguments, Command
from .common import container_of


def pause(arguments: Arguments) -> int:
    state = container_of(arguments)
    status = state.status()
    if status not in ("running", "created"):
        raise StateError(f"container not running: it is {status}", slug="not-running")
    if not state.cgroup.freeze(True):
        raise StateError(
            "no freezer is mounted for this container: it can't be paused",
            "mount the freezer controller before the container is created",
            "no-freezer",
        )
    return 0


def resume(arguments: Arguments) -> int:
    state = container_of(arguments)
    status = state.status()
    if status != "paused":
        raise StateError(f"container not paused: it is {status}", slug="not-paused")
    state.cgroup.freeze(False)
    return 0


COMMAND = Command(
    "pause",
    "stop every process of a container where it is",
    pause,
    words="ID",
    least=1,
    most=1,
    detail="By the cgroup freezer: the processes are not signalled and can't tell. `joey resume ID` lets them go on.",
)
RESUME = Command("resume", "let a paused container go on", resume, words="ID", least=1, most=1)
