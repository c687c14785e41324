"""`joey fleet stop`: a rich container is shut down on many hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....runtime.options import Arguments, Command
from ...rich.model import check_name
from .. import machines
from ..link import LinkError
from .changes import DRY
from .shared import HOSTS, REACHING, STORE, WAVE, WORDS, chosen, roll, store

if TYPE_CHECKING:
    from ..crew import Outcome
    from ..link import Link


def run(arguments: Arguments) -> int:
    name, *words = arguments.words
    check_name(name)
    fleet, place, dry = chosen(arguments, words), store(arguments), arguments.switch("dry-run")
    if not dry:
        place.check()

    def job(link: Link) -> bytes:
        if not dry:
            return machines.must(link, "rich", "stop", name)
        if machines.known(link, name) is None:
            raise LinkError(f"there is no {name}")
        return b""

    def seen(outcome: Outcome[bytes]) -> bool:
        if dry:
            return True
        failed = f" failed: {outcome.error}" if outcome.error else ""
        place.note(outcome.host.name, f"{name}: stop{failed}", "", "")
        return not outcome.error

    rows = roll(arguments, fleet, job, seen)
    good = sum(not row.error for row in rows)
    print(f"{name} {'would be' if dry else 'is'} stopped on {good} of {len(fleet)} hosts")
    return 0 if good == len(fleet) else 1


COMMAND = Command(
    "fleet stop",
    "shut a rich container down on hosts",
    run,
    words=f"NAME {WORDS}",
    least=1,
    most=-1,
    options=(DRY, WAVE, HOSTS, STORE, *REACHING),
    detail="By its init's own way, as `joey rich stop`. `joey fleet exec 'joey rich start NAME'` starts it again.",
    examples=("joey fleet stop shop web7",),
)
