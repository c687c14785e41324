"""`joey fleet probe`: what the kernels of many hosts can do."""

from __future__ import annotations

import sys

from ....compat import jsonio
from ....compat.errors import UsageError
from ....runtime.commands.planning import policy_of
from ....runtime.options import Arguments, Command, Option
from .. import crew, looking
from .shared import HOSTS, JSON, POLICY, REACHING, STORE, WORDS, chosen, parallel, store, tell, way
from .show import Row, rows_json, show


def run(arguments: Arguments) -> int:
    only = arguments.text("way")
    if only and only not in looking.WAYS:
        raise UsageError(f'--way: no way "{only}"', "ways: " + ", ".join(looking.WAYS))
    fleet, place = chosen(arguments), store(arguments)
    rows: dict[str, Row] = {}
    for outcome in crew.each(fleet, lambda link: looking.look(link, only), way(arguments), parallel(arguments)):
        if outcome.value is not None:
            try:
                place.keep(outcome.host.name, outcome.value)
            except (OSError, ValueError) as error:
                outcome.value, outcome.error = None, f"its report can't be kept: {error}"
        tell(outcome)
        rows[outcome.host.name] = Row(outcome.host.name, outcome.value, outcome.error, outcome.seconds)
    ordered = [rows[host.name] for host in fleet]
    if arguments.switch("json"):
        print(jsonio.dumps(rows_json(ordered, policy_of(arguments))))
    else:
        show(ordered, policy_of(arguments))
    failed = [row.host for row in ordered if row.error]
    if failed:
        print(f"joey: {len(failed)} of {len(ordered)} hosts could not be probed", file=sys.stderr)
    return 1 if failed else 0


COMMAND = Command(
    "fleet probe",
    "ask every host what its kernel can do; nothing is installed there",
    run,
    words=WORDS,
    most=-1,
    options=(
        HOSTS,
        STORE,
        *REACHING,
        Option("--way", "WAY", "only by this: " + ", ".join(looking.WAYS)),
        POLICY,
        JSON,
    ),
    detail=(
        "By the best that a host has: the host kit; joey itself, loaded from memory by a Python of 3.11 or later; a\n"
        "collector for any Python since 2.6; sh. What a way can't try is taken as not there, and counted. As root, by\n"
        "sudo where the user is another one. Reports are kept, for `joey fleet show`, `fleet check` and\n"
        "`joey plan --report`."
    ),
    examples=(
        "joey fleet probe root@db1",
        "joey fleet probe --hosts fleet.yaml --parallel 50",
        "cat hosts | joey fleet probe --hosts -",
    ),
)
