"""`joey rich resume`: let a paused rich container go on."""

from __future__ import annotations

from ....compat.errors import JoeyError
from ....runtime.options import Arguments, Command
from .. import control
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    done = control.call(container, "resume", container.name)
    if done.returncode:
        raise JoeyError(done.stderr.strip().removeprefix("joey: "))
    return 0


COMMAND = Command(
    "rich resume",
    "let a paused rich container go on",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE,),
)
