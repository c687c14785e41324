"""`joey list`."""

from __future__ import annotations

from ...compat import jsonio
from ...compat.errors import UsageError
from ..options import Arguments, Command, Option
from ..state import all_states
from ..tables import plain
from .common import root_of
from .state import shown


def run(arguments: Arguments) -> int:
    states = all_states(root_of(arguments))
    rows = [shown(state) for state in states]
    if arguments.switch("quiet"):
        for state in states:
            print(state.id)
    elif arguments.text("format") == "json":
        print(jsonio.dumps(rows or None))
    elif arguments.text("format") == "table":
        columns = ("id", "pid", "status", "bundle", "created", "owner")
        table = [[name.upper() for name in columns], *([str(row[name]) for name in columns] for row in rows)]
        print_table(table)
    else:
        raise UsageError(f'--format: unknown format "{arguments.text("format")}"', "formats: table, json")
    return 0


def print_table(table: list[list[str]]) -> None:
    """Rows as aligned columns; what a terminal would obey is escaped."""
    table = [[plain(cell) for cell in row] for row in table]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        print("   ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


COMMAND = Command(
    "list",
    "list containers",
    run,
    options=(
        Option("--format -f", "FORMAT", "table or json", default="table"),
        Option("--quiet -q", "", "ids only"),
    ),
)
