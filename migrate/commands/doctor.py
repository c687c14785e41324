"""`joey doctor`: what is wrong with joey here, and what helps."""

from __future__ import annotations

import os

from ...compat import jsonio
from ...compat.errors import UsageError
from ...runtime.commands.common import root_of
from ...runtime.options import Arguments, Command, Option
from ...runtime.tables import Table
from ..doctor import PROBLEM, WELL, examine, mend


def run(arguments: Arguments) -> int:
    done = []
    if arguments.switch("mend"):
        if os.geteuid() != 0:
            raise UsageError("--mend takes root")
        done = mend()
    found = examine(root_of(arguments), arguments.text("store"))
    problems = [note for note in found if note.state == PROBLEM]
    if arguments.switch("json"):
        print(jsonio.dumps({"mended": [note._asdict() for note in done], "found": [note._asdict() for note in found]}))
        return 1 if problems else 0
    table = Table("", "what", "state", "found", "what helps")
    for note in (*(note for note in done if note.state != WELL), *found):
        table.add(note.check, note.state, note.what, note.help)
    table.print()
    print(f"{len(problems)} problems" if problems else "nothing is wrong")
    return 1 if problems else 0


COMMAND = Command(
    "doctor",
    "say what is wrong with joey and its containers here, and what helps",
    run,
    options=(
        Option("--mend", "", "put back what a reloaded firewall or a killed name server took from networks"),
        Option("--store", "DIR", "where rich containers are kept (default: $JOEY_RICH or /var/lib/joey/rich)"),
        Option("--json", "", "print JSON"),
    ),
    detail=(
        "It looks at joey's own files, the kernel, room on disk, programs of the host, containers, rich containers,\n"
        "networks and leftovers, and changes nothing without --mend. Exit status 1 where there is a problem."
    ),
    examples=("joey doctor", "joey doctor --json", "joey --root /run/other doctor"),
)
