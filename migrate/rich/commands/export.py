"""`joey rich export`: the files of a rich container, as a tar."""

from __future__ import annotations

import os

from ....compat.errors import JoeyError
from ....runtime.options import Arguments, Command
from ...progress import Progress
from ..committing import export
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    target = os.path.abspath(arguments.words[1])
    if os.path.lexists(target):
        raise JoeyError(f"{target} is there already", "name another file", "exists")
    with Progress() as progress, container.locked():
        export(container, target, progress)
    return 0


COMMAND = Command(
    "rich export",
    "write the files of a rich container to a tar",
    run,
    words="NAME FILE",
    least=2,
    most=2,
    options=(STORE,),
    detail=(
        "Owners, modes, times, links, devices and attributes, as GNU tar has them (posix format); not its volumes,\n"
        "nor what joey changed of the machine. A container that runs may write meanwhile: pause or stop it."
    ),
)
