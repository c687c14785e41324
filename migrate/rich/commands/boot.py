"""`joey rich boot`: after the host has started."""

from __future__ import annotations

import sys

from ....compat.errors import JoeyError
from ....runtime.options import Arguments, Command
from .. import control
from ..store import RUNNING
from .shared import STORE, store_of


def run(arguments: Arguments) -> int:
    failed = 0
    for container in store_of(arguments).all():
        try:
            rich, life = container.rich(), container.life()
            wanted = life.wanted == RUNNING or (rich.restart == "always" and life.starts > 0)
            if wanted and not (container.running() and container.supervisor()):
                print(container.name, flush=True)
                control.start(container, wait=False)
        except (JoeyError, OSError) as error:
            print(f"joey: {container.name}: {error}", file=sys.stderr)
            failed = 1
    return failed


COMMAND = Command(
    "rich boot",
    "start the rich containers that ran when the host went down, and those with --restart always",
    run,
    options=(STORE,),
    detail="For the host's own init: tools/host/ has a systemd unit and a SysV script that call it.",
)
