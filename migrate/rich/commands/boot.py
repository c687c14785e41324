"""`joey rich boot`: when the host has started, and when it goes down."""

from __future__ import annotations

import os
import sys

from ....compat.errors import JoeyError
from ....compat.network import attachments
from ....runtime.options import Arguments, Command, Option
from .. import control
from ..store import RUNNING, Container
from .shared import STORE, store_of


def run(arguments: Arguments) -> int:
    failed = 0
    if os.geteuid() == 0 and os.path.isdir(attachments.FOLDER):  # what those of before a crash had of CNI plugins
        with attachments.locked():
            attachments.collect(lambda text: print(f"joey: warning: {text}", file=sys.stderr))
    # those that share another's network come after it
    for container in sorted(store_of(arguments).all(), key=_shares):
        try:
            if (_down if arguments.switch("down") else _up)(container):
                print(container.name, flush=True)
        except (JoeyError, OSError) as error:
            print(f"joey: {container.name}: {error}", file=sys.stderr)
            failed = 1
    return failed


def _shares(container: Container) -> bool:
    try:
        return any(word.startswith("container:") for word in container.rich().networks)
    except (JoeyError, OSError):
        return False


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
    control.stop(container, by_force=True)
    with container.changed_life() as life:
        life.wanted = RUNNING
    return True


COMMAND = Command(
    "rich boot",
    "start the rich containers that ran when the host went down, and those with --restart always",
    run,
    options=(STORE, Option("--down", "", "shut down those that run, so that the next boot starts them again")),
    detail="For the host's own init: share/host/ of the host kit has a systemd unit and a SysV script that call it.",
)
