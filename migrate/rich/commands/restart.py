"""`joey rich restart`: stop a rich container and start it."""

from __future__ import annotations

from ....runtime.options import Arguments, Command, Option
from .. import control
from .shared import STORE, store_of


def run(arguments: Arguments) -> int:
    for name in arguments.words:
        container = store_of(arguments).get(name)
        control.stop(container)
        control.start(container, wait=not arguments.switch("no-wait"))
    return 0


COMMAND = Command(
    "rich restart",
    "stop a rich container and start it",
    run,
    words="NAME...",
    least=1,
    most=-1,
    options=(STORE, Option("--no-wait", "", "do not wait until it is up")),
)
