"""`joey rich pause`: stop every process of a rich container where it is."""

from __future__ import annotations

from ....compat.errors import JoeyError
from ....runtime.options import Arguments, Command
from .. import control
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    done = control.call(container, "pause", container.name)
    if done.returncode:
        raise JoeyError(done.stderr.strip().removeprefix("joey: "))
    return 0


COMMAND = Command(
    "rich pause",
    "stop every process of a rich container where it is",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE,),
)
