"""`joey fleet deploy`: the host kit, on many hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....compat import jsonio
from ....compat.errors import UsageError
from ....runtime.options import Arguments, Command, Option
from ....runtime.tables import Table
from ...sizes import shown_size
from .. import kit
from .shared import HOSTS, JSON, REACHING, STORE, WAVE, WORDS, chosen, roll, store

if TYPE_CHECKING:
    from ..crew import Outcome
    from ..kit import Sent
    from ..link import Link


def run(arguments: Arguments) -> int:
    back, dry = arguments.switch("rollback"), arguments.switch("dry-run")
    if bool(arguments.text("kit")) == back:
        raise UsageError("what is to be deployed?", "--kit FILE, or --rollback")
    fleet, place = chosen(arguments), store(arguments)
    what = "kit: rollback" if back else "kit: deploy"
    if not dry:
        place.check()
    made = None if back else kit.Kit(arguments.text("kit"))

    def job(link: Link) -> Sent:
        if dry:
            there = kit.state(link)
            return kit.Sent(there.digest, there.before if made is None else made.digest, 0, 0)

        def begun(before: str, after: str) -> None:
            place.note(link.host.name, f"{what} begun", before, after)

        return kit.go_back(link, begun) if made is None else kit.deploy(link, made, begun)

    def seen(outcome: Outcome[Sent]) -> bool:
        sent = outcome.value
        if dry:
            return not outcome.error
        if sent is None:
            place.note(outcome.host.name, f"{what} failed: {outcome.error}", "", "")
        elif sent.before != sent.after or sent.size:
            place.note(outcome.host.name, what, sent.before, sent.after)
        return not outcome.error

    rows = roll(arguments, fleet, job, seen)
    if arguments.switch("json"):
        print(jsonio.dumps([
            {"host": row.host.name, "error": row.error, **(row.value._asdict() if row.value else {})} for row in rows
        ]))  # fmt: skip
    else:
        _show(rows, dry)
    return 1 if len(rows) < len(fleet) or any(row.error for row in rows) else 0


def _show(rows: list[Outcome[Sent]], dry: bool) -> None:
    table = Table(
        "", "host", "kit before", "kit now" if not dry else "kit it would have", "files sent", "bytes sent", "s"
    )
    for row in rows:
        if row.value is None:
            table.add(row.host.name, "", "failed", "", "", f"{row.seconds:.1f}")
        else:
            sent = row.value
            size = shown_size(sent.size)
            table.add(row.host.name, sent.before or "none", sent.after, str(sent.files), size, f"{row.seconds:.1f}")
    table.print()


COMMAND = Command(
    "fleet deploy",
    "bring the host kit to hosts, or go back to the one before",
    run,
    words=WORDS,
    most=-1,
    options=(
        Option("--kit", "FILE", "the kit, as tools/hostkit makes it: an archive, or a folder"),
        Option("--rollback", "", "switch to the kit before this one"),
        Option("--dry-run", "", "only say what each host has, and would have"),
        WAVE,
        HOSTS,
        STORE,
        *REACHING,
        JSON,
    ),
    detail=(
        "Only files that a host does not have are sent. The kit is checked there by its SHA-256 sums, and has to run,\n"
        "before one rename switches to it; a host where anything fails keeps what it had. The kit before stays.\n"
        "Containers that run go on by the kit that started them. What was done is in the store's journal."
    ),
    examples=(
        "joey fleet deploy --kit dist/joey-kit-0.1.0-x86_64.tar.gz --wave 1,10%,rest",
        "joey fleet deploy --rollback web7",
    ),
)
