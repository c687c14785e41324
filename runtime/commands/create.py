"""`joey create`: a container whose process waits for `joey start`."""

from __future__ import annotations

from ..options import Arguments, Command
from .run import CREATE_OPTIONS, make, passed_fds


def run(arguments: Arguments) -> int:
    passed_fds(arguments)
    made = make(arguments, detach=True, wait_for_start=True)
    if made is not None:
        _, start = made
        start.channel.send(b"go")
    return 0


COMMAND = Command(
    "create",
    "create a container that waits to be started",
    run,
    words="ID",
    least=1,
    most=1,
    options=CREATE_OPTIONS,
    detail="Everything is set up and checked now; `joey start ID` only executes the program.",
    examples=("joey create -b /srv/bundle web && joey start web",),
)
