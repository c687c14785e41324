"""`joey rich run`: create and start."""

from __future__ import annotations

from ....runtime.options import Arguments, Command, Option
from .. import control
from . import create
from .shared import MAKING


def run(arguments: Arguments) -> int:
    container = create.make(arguments)
    control.start(container, wait=not arguments.switch("no-wait"))
    print(container.name)
    return 0


COMMAND = Command(
    "rich run",
    "make a rich container and start it",
    run,
    words="[IMAGE] [PROGRAM [ARGUMENT...]]",
    most=-1,
    options=(*MAKING, Option("--no-wait", "", "do not wait until it is up")),
    stop_at_word=True,
    detail="It stays where its start fails: joey rich logs shows why, joey rich start tries again.",
    examples=("joey rich run --name shop --network bridge oci:images:shop",),
)
