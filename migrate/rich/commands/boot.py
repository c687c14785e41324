"""`joey rich boot`: when the host has started, and when it goes down."""

from __future__ import annotations

import sys

from ....compat.errors import JoeyError
from ....runtime.options import Arguments, Command, Option
from .. import control
from ..store import RUNNING, Container
from .shared import STORE, store_of


def run(arguments: Arguments) -> int:
    failed = 0
    for container in store_of(arguments).all():
        try:
            if (_down if arguments.switch("down") else _up)(container):
                print(container.name, flush=True)
        except (JoeyError, OSError) as error:
            print(f"joey: {container.name}: {error}", file=sys.stderr)
            failed = 1
    return failed


def _up(container: Container) -> bool:
    rich, life = container.rich(), container.life()
    wanted = life.wanted == RUNNING or (rich.restart == "always" and life.starts > 0)
    if not wanted or (container.running() and container.supervisor()):
        return False
    control.start(container, wait=False)
    return True


def _down(container: Container) -> bool:
    """Shut it down, to be started again by the next boot."""
    if not container.running() and container.life().wanted != RUNNING:
        return False
    control.stop(container)
    with container.changed_life() as life:
        life.wanted = RUNNING
    return True


COMMAND = Command(
    "rich boot",
    "start the rich containers that ran when the host went down, and those with --restart always",
    run,
    options=(STORE, Option("--down", "", "shut down those that run, so that the next boot starts them again")),
    detail="For the host's own init: tools/host/ has a systemd unit and a SysV script that call it.",
)
