"""`joey fleet ps`: the rich containers of many hosts."""

from __future__ import annotations

from ....compat import jsonio
from ....runtime.options import Arguments, Command
from ....runtime.tables import Table
from .. import machines
from .shared import HOSTS, JSON, REACHING, STORE, WORDS, chosen, roll


def run(arguments: Arguments) -> int:
    fleet = chosen(arguments)
    rows = roll(arguments, fleet, machines.containers, lambda outcome: not outcome.error)
    if arguments.switch("json"):
        print(jsonio.dumps([
            {"host": row.host.name, "error": row.error, "containers": row.value or []} for row in rows
        ]))  # fmt: skip
    else:
        table = Table("", "host", "name", "status", "health", "addresses", "image")
        for row in rows:
            for item in row.value or []:
                networks = item.get("networks")
                shown = " ".join(str(word) for word in networks) if isinstance(networks, list) else ""
                cells = (str(item.get(key) or "") for key in ("name", "status", "health"))
                table.add(row.host.name, *cells, shown, str(item.get("image") or ""))
        table.print()
    return 1 if any(row.error for row in rows) else 0


COMMAND = Command(
    "fleet ps",
    "list the rich containers of hosts",
    run,
    words=WORDS,
    most=-1,
    options=(HOSTS, STORE, *REACHING, JSON),
    examples=("joey fleet ps", "joey fleet ps --json web"),
)
