"""`joey fleet rollback`: an upgrade is taken back on many hosts."""

from __future__ import annotations

from ....runtime.options import Arguments, Command
from ...rich.model import check_name
from .. import machines
from .changes import DRY, roll_changes
from .shared import HOSTS, JSON, REACHING, STORE, WAVE, WORDS, chosen


def run(arguments: Arguments) -> int:
    name, *words = arguments.words
    check_name(name)
    fleet, dry = chosen(arguments, words), arguments.switch("dry-run")
    return roll_changes(arguments, fleet, name, "rollback", lambda link: machines.rollback(link, name, dry))


COMMAND = Command(
    "fleet rollback",
    "take a rich container's upgrade back on hosts, in waves",
    run,
    words=f"NAME {WORDS}",
    least=1,
    most=-1,
    options=(DRY, WAVE, HOSTS, STORE, *REACHING, JSON),
    detail=(
        "By `joey rich rollback` there: image, layer and settings are those of before the upgrade, and it runs again.\n"
        "A host whose container has no upgrade to go back from, or has confirmed it, stays as it is and is told."
    ),
    examples=("joey fleet rollback shop", "joey fleet rollback --wave 1,rest shop web"),
)
