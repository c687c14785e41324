"""`joey rich start`: start a rich container, and wait until its services are up."""

from __future__ import annotations

from ....runtime.options import Arguments, Command, Option
from .. import control
from .shared import STORE, store_of


def run(arguments: Arguments) -> int:
    for name in arguments.words:
        control.start(store_of(arguments).get(name), wait=not arguments.switch("no-wait"))
    return 0


COMMAND = Command(
    "rich start",
    "start a rich container, and wait until its services are up",
    run,
    words="NAME...",
    least=1,
    most=-1,
    options=(STORE, Option("--no-wait", "", "do not wait until it is up")),
    detail="One that runs without a supervisor, which was killed, gets another.",
)
