"""`joey rich inspect`: all about a rich container."""

from __future__ import annotations

import dataclasses
import json
import os

from ....compat import jsonio
from ....compat.files import read_text
from ....runtime.options import Arguments, Command, Option
from ....runtime.state import State
from ....runtime.tables import Table
from .shared import STORE, container_of

_LOST = "io.joey.rich.lost."


def _lost(state: State) -> dict[str, str]:
    """What it does without: of the runtime's plan, and of what joey rich adds."""
    own = {key.removeprefix(_LOST): value for key, value in state.annotations.items() if key.startswith(_LOST)}
    return {**state.losses, **own}


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    rich, life, state = container.rich(), container.life(), container.running()
    path = f"{container.folder}/fixes.json"
    fixes = json.loads(read_text(path)) if os.path.exists(path) else []
    value = {
        **dataclasses.asdict(rich),
        "status": container.status(),
        "pid": state.pid if state else 0,
        "supervisor": container.supervisor(),
        "life": life.as_json(),
        "fixes": fixes,
        "mechanisms": state.mechanisms if state else {},
        "lost": _lost(state) if state else {},
        "addresses": [entry.get("shown", "") for entry in state.networks] if state else [],
        "upgraded": os.path.isdir(f"{container.folder}/before"),
        "written": f"{container.bundle}/joey-layers",
    }
    if arguments.switch("json"):
        print(jsonio.dumps(value))
        return 0
    table = Table(rich.name, "what", "is")
    for key in ("status", "image", "lower", "init", "hostname", "networks", "addresses", "volumes", "quotas", "memory",
                "cpus", "pids", "io_weight", "io", "env", "restart", "health", "hooks", "upgraded",
                "written"):  # fmt: skip
        if value[key]:
            table.add(key, value[key] if isinstance(value[key], str) else json.dumps(value[key]))
    for feature, lost in value["lost"].items() if isinstance(value["lost"], dict) else ():
        table.add(f"lost: {feature}", lost)
    table.print()
    table = Table("What is changed of its machine", "path", "why")
    for fix in fixes:
        table.add(fix["path"], fix["why"])
    table.print()
    return 0


COMMAND = Command(
    "rich inspect",
    "show all about a rich container, what was changed of its machine too",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE, Option("--json", "", "print JSON")),
)
