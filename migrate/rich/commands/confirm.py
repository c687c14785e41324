"""`joey rich confirm`: keep an upgrade: what was before it is removed."""

from __future__ import annotations

from ....runtime.options import Arguments, Command
from .. import changing
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    changing.confirm(container_of(arguments))
    return 0


COMMAND = Command(
    "rich confirm",
    "keep an upgrade: what was before it is removed",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE,),
)
