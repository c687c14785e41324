"""`joey rich top`: list the processes of a rich container."""

from __future__ import annotations

import os
import sys

from ....runtime.options import Arguments, Command
from .. import control
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    if container.rich().isolation == "vm":
        done = control.inside(container, ["ps", *(arguments.words[1:] or ["-ef"])])
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        return done.returncode
    os.execv(control.joey(container)[0], control.joey(container, "ps", container.name, *arguments.words[1:]))
    return 0


COMMAND = Command(
    "rich top",
    "list the processes of a rich container",
    run,
    words="NAME [PS OPTIONS]",
    least=1,
    most=-1,
    options=(STORE,),
    stop_at_word=True,
)
