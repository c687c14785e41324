"""`joey rich stats`: what a rich container uses."""

from __future__ import annotations

import json

from ....compat import jsonio
from ....compat.errors import JoeyError
from ....runtime.options import Arguments, Command, Option
from ....runtime.tables import Table
from ...sizes import shown_size
from .. import control
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    done = control.call(container, "events", "--stats", container.name)
    if done.returncode:
        raise JoeyError(done.stderr.strip().removeprefix("joey: "))
    data = json.loads(done.stdout)["data"]
    if arguments.switch("json"):
        print(jsonio.dumps(data))
        return 0
    memory, pids = data.get("memory", {}).get("usage", {}), data.get("pids", {})
    table = Table("", "what", "used", "limit")
    limit = memory.get("limit", 0)
    table.add("memory", shown_size(memory.get("usage", 0)), shown_size(limit) if 0 < limit < 1 << 60 else "none")
    table.add("processes", str(pids.get("current", 0)), str(pids.get("limit") or "none"))
    table.add("CPU seconds", f"{data.get('cpu', {}).get('usage', {}).get('total', 0) / 1e9:.1f}", "")
    table.print()
    return 0


COMMAND = Command(
    "rich stats",
    "show what a rich container uses of memory, CPUs and processes",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(STORE, Option("--json", "", "all counters, as JSON")),
)
