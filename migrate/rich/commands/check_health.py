"""`joey rich check-health`: ask a rich container how it is (its supervisor's)."""

from __future__ import annotations

from ....runtime.options import Arguments, Command
from .. import control
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    health = container.rich().health
    if health and control.inside(container, health.command, health.seconds).returncode:
        return 1
    return 0


COMMAND = Command(
    "rich check-health",
    "ask a rich container how it is (its supervisor's)",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE,),
)
