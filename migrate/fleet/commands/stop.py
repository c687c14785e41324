"""`joey fleet stop`: a rich container is shut down on many hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....runtime.options import Arguments, Command
from ...rich.model import check_name
from .. import machines
from .shared import HOSTS, REACHING, STORE, WAVE, WORDS, chosen, roll, store

if TYPE_CHECKING:
    from ..crew import Outcome
    from ..link import Link


def run(arguments: Arguments) -> int:
    name, *words = arguments.words
    check_name(name)
    fleet, place = chosen(arguments, words), store(arguments)
    place.check()

    def job(link: Link) -> bytes:
        return machines.must(link, "rich", "stop", name)

    def seen(outcome: Outcome[bytes]) -> bool:
        failed = f" failed: {outcome.error}" if outcome.error else ""
        place.note(outcome.host.name, f"{name}: stop{failed}", "", "")
        return not outcome.error

    rows = roll(arguments, fleet, job, seen)
    good = sum(not row.error for row in rows)
    print(f"{name} is stopped on {good} of {len(fleet)} hosts")
    return 0 if good == len(fleet) else 1


COMMAND = Command(
    "fleet stop",
    "shut a rich container down on hosts",
    run,
    words=f"NAME {WORDS}",
    least=1,
    most=-1,
    options=(WAVE, HOSTS, STORE, *REACHING),
    detail="By its init's own way, as `joey rich stop`. `joey fleet exec 'joey rich start NAME'` starts it again.",
    examples=("joey fleet stop shop web7",),
)
