"""`joey kill`."""

from __future__ import annotations

import os

from ...compat.constants import SIGKILL, SIGNALS
from ...compat.errors import StateError, UsageError
from ..options import Arguments, Command, Option
from .common import container_of


def run(arguments: Arguments) -> int:
    state = container_of(arguments)
    number = signal_number(arguments.words[1] if len(arguments.words) > 1 else "TERM")
    if arguments.switch("all"):
        from .. import members

        members.send(members.pids(state), number)  # of a stopped container too: what is left of it
    elif not state.alive():
        raise StateError("container not running", slug="not-running")
    else:
        try:
            os.kill(state.pid, number)
        except ProcessLookupError:
            pass  # it has ended since
    if number == SIGKILL and state.cgroup.frozen():
        state.cgroup.freeze(False)  # a frozen v1 group can't die
    return 0


def signal_number(word: str) -> int:
    """A signal by number, name ("TERM", "SIGTERM") or RTMIN+N, RTMAX-N. Raises UsageError."""
    name = word.upper().removeprefix("SIG")
    if name.isdigit() and int(name) <= 64:
        return int(name)
    for base, sign in (("RTMIN+", 1), ("RTMAX-", -1)):
        if name.startswith(base) and name[6:].isdigit() and int(name[6:]) <= 30:
            return SIGNALS[base[:5]] + sign * int(name[6:])
    if name not in SIGNALS:
        raise UsageError(f'unknown signal "{word}"', "give a name such as TERM or a number from 0 to 64")
    return SIGNALS[name]


COMMAND = Command(
    "kill",
    "send a signal to a container's first process",
    run,
    words="ID [SIGNAL]",
    least=1,
    most=2,
    options=(Option("--all -a", "", "send it to every process of the container"),),
    examples=("joey kill web", "joey kill web KILL", "joey kill web RTMIN+3"),
)
