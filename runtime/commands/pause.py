"""`joey pause` and `joey resume`: by the freezer, or by signals."""

from __future__ import annotations

from ...compat.errors import StateError
from ...probes.plan import Need
from .. import members
from ..options import Arguments, Command
from .common import container_of
from .planning import PLAN_OPTIONS, plan_here, say_losses


def pause(arguments: Arguments) -> int:
    state = container_of(arguments)
    status = state.status()
    if status not in ("running", "created"):
        raise StateError(f"container not running: it is {status}", slug="not-running")
    made = plan_here([Need("pause", "pause")], arguments)
    if made.mechanism("pause") == "freezer" and state.cgroup.freeze(True):
        return 0
    say_losses(plan_here([Need("pause", "pause")], arguments, {"pause": "sigstop"}))
    state.sigstopped = True
    state.save()  # first: a killed joey's is resumed, or paused again
    try:
        members.stop(state)
    except StateError:
        state.sigstopped = False
        state.save()
        raise
    return 0


def resume(arguments: Arguments) -> int:
    state = container_of(arguments)
    status = state.status()
    if status != "paused":
        raise StateError(f"container not paused: it is {status}", slug="not-paused")
    if state.sigstopped:
        members.go_on(state)
        state.sigstopped = False
        state.save()
    else:
        state.cgroup.freeze(False)
    return 0


COMMAND = Command(
    "pause",
    "stop every process of a container where it is",
    pause,
    words="ID",
    least=1,
    most=1,
    options=PLAN_OPTIONS,
    detail=(
        "By the cgroup freezer: the processes are not signalled and can't tell. Where the container is in none, by\n"
        "SIGSTOP to each, which is said. `joey resume ID` lets them go on."
    ),
)
RESUME = Command("resume", "let a paused container go on", resume, words="ID", least=1, most=1)
