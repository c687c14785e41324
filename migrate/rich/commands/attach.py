"""`joey rich attach`: show what a rich container's init prints from now on."""

from __future__ import annotations

import sys

from ....runtime.options import Arguments, Command
from .. import logs
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    for line in logs.follow(f"{container.folder}/log"):
        if line:
            sys.stdout.buffer.write(logs.without_time(line) + b"\n")
            sys.stdout.flush()
        elif not container.supervisor():
            break
    return 0


COMMAND = Command(
    "rich attach",
    "show what a rich container's init prints from now on",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE,),
    detail="It ends with the container; Ctrl-C leaves that running. A login is `joey rich exec -t NAME bash`.",
)
