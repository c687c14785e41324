"""`joey rich verify`: a rich container beside the machine it came from."""

from __future__ import annotations

import dataclasses
import os
import tempfile

from ....compat import jsonio
from ....runtime.options import Arguments, Command, Option
from ....runtime.tables import Table
from ...inventory.take import take
from ...progress import Progress
from ...sources.contract import Options
from ...sources.open import source_of
from ..parity import compare, read_inventory
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    against = arguments.text("against")
    if not against:
        from ....compat.errors import UsageError

        raise UsageError("against what?", "--against inventory.json, or the machine's disk")
    if against.endswith(".json") and os.path.isfile(against):
        old = read_inventory(against)
    else:
        with (
            Progress() as progress,
            tempfile.TemporaryDirectory(dir="/var/tmp") as place,
            source_of([against], Options(place), progress.share) as opened,
        ):
            old = take(opened).as_json()
    found = compare(container, old)
    bad = [each for each in found if not each.why]
    if arguments.switch("json"):
        print(jsonio.dumps({"unexplained": len(bad), "differences": [dataclasses.asdict(each) for each in found]}))
        return 1 if bad else 0
    table = Table("", "what", "the machine", "the container", "why")
    for each in [*bad, *(each for each in found if each.why)]:
        table.add(each.what, each.old[:60], each.new[:60], each.why or "NOT EXPLAINED")
    if found:
        table.print()
    print(f"{len(found)} differences, {len(bad)} of them not explained")
    return 1 if bad else 0


COMMAND = Command(
    "rich verify",
    "compare a running rich container with the machine it came from",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(
        STORE,
        Option(
            "--against",
            "SOURCE",
            "an inventory (joey migrate inspect --json), or a source of joey migrate",
        ),
        Option("--json", "", "print JSON"),
    ),
    detail=(
        "Distribution, packages, accounts, groups, sudo, cron, services that run, ports that are listened on, mounts,\n"
        "kernel settings as they are seen inside, other settings, and CHECK of CNI\n"
        "plugins. Exit status 1 where a difference is not explained."
    ),
    examples=("joey migrate inspect shop.vmdk --json >shop.json", "joey rich verify --against shop.json shop"),
)
