"""`joey rich wire`: hand a container's links on to its virtual machine (joey's own, a hook)."""

from __future__ import annotations

import json
import sys

from ....runtime.options import Arguments, Command
from ..vm import machine
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    state = json.loads(sys.stdin.read(1 << 20))
    machine.wire(container_of(arguments), int(state["pid"]))
    return 0


COMMAND = Command(
    "rich wire",
    "hand a container's links on to its virtual machine (joey's own)",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE,),
)
