"""`joey rich rollback`: go back to what a rich container was before its upgrade."""

from __future__ import annotations

from ....runtime.options import Arguments, Command
from .. import changing
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    changing.rollback(container_of(arguments))
    return 0


COMMAND = Command(
    "rich rollback",
    "go back to what a rich container was before its upgrade",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE,),
)
