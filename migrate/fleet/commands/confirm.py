"""`joey fleet confirm`: an upgrade is kept on many hosts."""

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
    return roll_changes(arguments, fleet, name, "confirm", lambda link: machines.confirm(link, name, dry))


COMMAND = Command(
    "fleet confirm",
    "keep a rich container's upgrade on hosts: what was before it is removed",
    run,
    words=f"NAME {WORDS}",
    least=1,
    most=-1,
    options=(DRY, WAVE, HOSTS, STORE, *REACHING, JSON),
    examples=("joey fleet confirm shop web",),
)
