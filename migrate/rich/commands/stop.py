"""`joey rich stop`: shut a rich container down by its init's own way."""

from __future__ import annotations

from ....runtime.options import Arguments, Command, Option
from .. import control
from .shared import STORE, seconds_of, store_of


def run(arguments: Arguments) -> int:
    seconds = seconds_of(arguments, "time", -1.0)
    for name in arguments.words:
        control.stop(store_of(arguments).get(name), None if seconds < 0 else seconds)
    return 0


COMMAND = Command(
    "rich stop",
    "shut a rich container down by its init's own way",
    run,
    words="NAME...",
    least=1,
    most=-1,
    options=(STORE, Option("--time -t", "SECONDS", "how long that may take, before TERM and KILL")),
)
