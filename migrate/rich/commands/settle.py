"""`joey rich settle`: wait until a rich container is up (its supervisor's)."""

from __future__ import annotations

from ....runtime.options import Arguments, Command
from .. import control
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    control.settle(container_of(arguments))
    return 0


COMMAND = Command(
    "rich settle",
    "wait until a rich container is up (its supervisor's)",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE,),
)
