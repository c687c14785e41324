"""`joey fleet journal`: what was done to hosts."""

from __future__ import annotations

from ....compat import jsonio
from ....runtime.options import Arguments, Command
from ....runtime.tables import Table
from .shared import JSON, STORE, store


def run(arguments: Arguments) -> int:
    host = arguments.words[0] if arguments.words else ""
    rows = store(arguments).journal(host)
    if arguments.switch("json"):
        print(jsonio.dumps(rows))
        return 0
    table = Table("", "when", "who", "host", "what", "before", "after")
    for row in rows:
        cells = [str(row.get(key, "")) for key in ("when", "who", "host", "what", "before", "after")]
        table.add(*cells[:4], *(cell.removeprefix("sha256:")[:16] for cell in cells[4:]))
    table.print()
    return 0


COMMAND = Command(
    "fleet journal",
    "show what was done to hosts, when and by whom",
    run,
    words="[HOST]",
    most=1,
    options=(STORE, JSON),
    examples=("joey fleet journal", "joey fleet journal web7"),
)
