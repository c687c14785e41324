"""`joey events`: a container's counters and out-of-memory events, a JSON object a line."""

from __future__ import annotations

import os
import select
import sys
import time

from ...compat import jsonio
from ...compat.cgroup.oom import OomWatch
from ...compat.cgroup.stats import stats
from ...compat.errors import StateError, UsageError
from ..options import Arguments, Command, Option
from ..state import State
from .common import container_of

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
ALIVE_SECONDS = 1.0  # how often a container is asked whether it still lives


def run(arguments: Arguments) -> int:
    seconds = duration(arguments.text("interval"))
    state = container_of(arguments)
    if state.status() == "stopped":
        raise StateError(f"container with id {state.id} is not running", slug="not-running")
    if arguments.switch("stats"):
        _print(state, "stats", stats(state.cgroup))
        return 0
    _follow(state, seconds)
    return 0


def _follow(state: State, seconds: float) -> None:
    """Print counters every so often, and each out-of-memory event as it happens, until the container ends."""
    watch = OomWatch(state.cgroup)
    poll = select.poll()
    poll.register(watch.fd, select.POLLIN)
    due = time.monotonic() + seconds
    try:
        while state.alive():
            wait = min(max(due - time.monotonic(), 0), ALIVE_SECONDS)
            if poll.poll(wait * 1000) and watch.happened():
                _print(state, "oom")
            if time.monotonic() >= due:
                due += seconds
                _print(state, "stats", stats(state.cgroup))
    finally:
        os.close(watch.fd)


def _print(state: State, kind: str, data: object = None) -> None:
    event = {"type": kind, "id": state.id, **({"data": data} if data is not None else {})}
    print(jsonio.dumps(event))
    sys.stdout.flush()


def duration(text: str) -> float:
    """Seconds of "5s", "500ms", "1m" (runc's durations) or a plain number of seconds. Raises UsageError."""
    for unit, factor in UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            seconds = float(number) * factor
            break
    else:
        if not text.replace(".", "", 1).isdigit():
            raise UsageError(f'--interval: "{text}" is no duration', "such as 500ms, 5s or 1m")
        seconds = float(text)
    if seconds <= 0:
        raise UsageError("--interval: must be greater than 0")
    return seconds


COMMAND = Command(
    "events",
    "print a container's counters, and tell when it ran out of memory",
    run,
    words="ID",
    least=1,
    most=1,
    options=(
        Option("--interval", "DURATION", "time between two readings", default="5s"),
        Option("--stats", "", "print one reading and end"),
    ),
    detail='One JSON object a line: {"type": "stats" or "oom", "id": ID, "data": {...}}, as runc prints them.',
    examples=("joey events --stats web", "joey events --interval 1s web"),
)
