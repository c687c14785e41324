"""`joey fleet show`: what is known of the hosts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ....compat import jsonio
from ....compat.errors import JoeyError
from ....compat.files import write_atomically
from ....runtime.commands.planning import policy_of
from ....runtime.options import Arguments, Command, Option
from ....runtime.tables import Table
from .. import looking
from ..judging import COLUMNS, judge
from ..page import page
from .shared import HOSTS, JSON, POLICY, STORE, WORDS, chosen, store

if TYPE_CHECKING:
    from ....probes.report import KernelReport
    from ..store import Store


class Row(NamedTuple):
    """One host. `report` is None where there is an `error`, or where it was never looked at."""

    host: str
    report: KernelReport | None
    error: str = ""
    seconds: float = 0.0


def run(arguments: Arguments) -> int:
    place = store(arguments)
    words = arguments.words
    names = [host.name for host in chosen(arguments)] if words or arguments.given("hosts") else place.hosts()
    if not names:
        raise JoeyError(f"nothing is known yet in {place.folder}", "joey fleet probe HOST ...", "fleet")
    rows = [_row(place, name) for name in names]
    policy = policy_of(arguments)
    target = arguments.text("html")
    if target:
        known = [(row.host, row.report) for row in rows if row.report is not None]
        write_atomically(target, page(known, policy, place.checks()), 0o644)
        print(f"joey: {target} shows {len(known)} hosts", file=sys.stderr)
        return 0
    if arguments.switch("json"):
        print(jsonio.dumps(rows_json(rows, policy)))
    else:
        show(rows, policy)
    return 0


def _row(place: Store, name: str) -> Row:
    try:
        return Row(name, place.report(name), "", place.seen(name))
    except JoeyError as error:  # one that is damaged is no reason not to show the others
        print(f"joey: {name}: {error}", file=sys.stderr)
        return Row(name, None, str(error))


def rows_json(rows: list[Row], policy: str) -> dict[str, Any]:
    """The hosts, with what each would use and lose."""
    out = []
    for row in rows:
        value: dict[str, Any] = {"host": row.host, "error": row.error}
        if row.report is not None:
            made = judge(row.report, policy)
            value |= {
                "kernel": row.report.machine.get("release", ""),
                "machine": row.report.machine,
                "uid": row.report.key.get("uid", ""),
                "by": row.report.machine.get("by", ""),
                "untried": len(looking.untried(row.report)),
                "today": made.today,
                "mechanisms": {name: choice.mechanism for name, choice in made.plan.choices.items()},
                "unknown": list(made.untried),
                "refused": [f"{choice.feature}: {choice.reason}" for choice in made.refusals],
                "lost": [f"{choice.feature}: {choice.lost}" for choice in made.plan.losses],
            }
        out.append(value)
    return {"policy": policy, "hosts": out}


def show(rows: list[Row], policy: str) -> None:
    """The table for people, and a line of numbers below it."""
    head = ("host", "kernel", "distribution", "probed by", "today's images", *COLUMNS.values(), "refused", "lost")
    table = Table("", *head)
    kernels = set()
    for row in rows:
        if row.report is None:
            table.add(row.host, *["" for _ in head[1:]])
            continue
        made = judge(row.report, policy)
        machine = row.report.machine
        kernels.add(machine.get("release", ""))
        cells = [made.word(feature) for feature in COLUMNS]
        by = machine.get("by", "") + ("" if row.report.key.get("uid") == "0" else ", a plain user")
        table.add(row.host, machine.get("release", ""), machine.get("distribution", ""), by, made.today, *cells,
                  str(len(made.refusals)), str(len(made.plan.losses)))  # fmt: skip
    if table.rows:
        table.print()
    known = sum(row.report is not None for row in rows)
    print(f"{known} of {len(rows)} hosts, {len(kernels)} kernels; {policy} policy")


COMMAND = Command(
    "fleet show",
    "show what is known of the hosts, as a table or as a page",
    run,
    words=WORDS,
    most=-1,
    options=(
        HOSTS,
        STORE,
        Option("--html", "FILE", "write one page: to filter, to read on a phone, to print"),
        POLICY,
        JSON,
    ),
    detail=(
        "Without words: every host that was probed. A column says by which mechanism a container of today would get a\n"
        "feature there; `joey plan --report` on the host's report in the store says why, and docs/fallbacks.md what\n"
        "each gives up."
    ),
    examples=("joey fleet show", "joey fleet show --html fleet.html", "joey fleet show --json 'web*'"),
)
