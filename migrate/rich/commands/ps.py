"""`joey rich ps`: rich containers."""

from __future__ import annotations

import sys
import time

from ....compat import jsonio
from ....compat.errors import JoeyError
from ....runtime.options import Arguments, Command, Option
from ....runtime.tables import Table
from ..store import Container
from .shared import STORE, store_of


def _row(container: Container) -> dict[str, object]:
    rich, life, state = container.rich(), container.life(), container.running()
    return {
        "name": rich.name, "status": container.status(), "health": life.health, "init": rich.init,
        "pid": state.pid if state else 0, "image": rich.image or rich.lower, "restarts": life.restarts,
        "started": life.started, "lastStatus": life.last_status, "error": life.error,
        "networks": [entry.get("shown", "") for entry in state.networks] if state else [],
    }  # fmt: skip


def run(arguments: Arguments) -> int:
    rows, status = [], 0
    for container in store_of(arguments).all():
        try:
            rows.append(_row(container))
        except FileNotFoundError:
            continue  # it has just been removed
        except JoeyError as error:
            print(f"joey: {error.message}", file=sys.stderr)
            status = 1
    if not arguments.switch("all"):
        rows = [row for row in rows if row["status"] != "stopped"]
    if arguments.switch("json"):
        print(jsonio.dumps(rows))
        return status
    if arguments.switch("quiet"):
        for row in rows:
            print(row["name"])
        return status
    table = Table("", "name", "status", "init", "for", "addresses", "image")
    for row in rows:
        since = float(str(row["started"]))
        age = f"{int(time.time() - since) // 60} min" if since and row["status"] != "stopped" else ""
        shown = f"{row['status']} ({row['health']})" if row["health"] else str(row["status"])
        networks = row["networks"] if isinstance(row["networks"], list) else []
        table.add(str(row["name"]), shown, str(row["init"]), age, " ".join(networks), str(row["image"]))
    table.print()
    return status


COMMAND = Command(
    "rich ps",
    "list rich containers that run",
    run,
    options=(
        STORE,
        Option("--all -a", "", "those that are stopped too"),
        Option("--quiet -q", "", "names only"),
        Option("--json", "", "print JSON"),
    ),
)
