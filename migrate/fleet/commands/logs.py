"""`joey fleet logs`: what a rich container's init has printed, on many hosts."""

from __future__ import annotations

from ....runtime.options import Arguments, Command, Option
from ....runtime.tables import plain
from ...rich.model import check_name
from .. import machines
from .shared import HOSTS, REACHING, STORE, WORDS, chosen, roll


def run(arguments: Arguments) -> int:
    name, *words = arguments.words
    check_name(name)
    fleet = chosen(arguments, words)
    tail = str(max(0, arguments.number("tail", 10)))
    rows = roll(
        arguments, fleet, lambda link: machines.must(link, "rich", "logs", "--tail", tail, name),
        lambda outcome: not outcome.error,
    )  # fmt: skip
    for row in rows:
        for line in (row.value or b"").decode("utf-8", "replace").splitlines():
            print(f"{plain(row.host.name)}: {plain(line)}")
    return 1 if any(row.error for row in rows) else 0


COMMAND = Command(
    "fleet logs",
    "show the last lines of a rich container's log on hosts",
    run,
    words=f"NAME {WORDS}",
    least=1,
    most=-1,
    options=(Option("--tail", "N", "so many lines of each host", default="10"), HOSTS, STORE, *REACHING),
    examples=("joey fleet logs --tail 3 shop",),
)
