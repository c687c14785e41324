"""`joey fleet upgrade`: another image for the rich containers of many hosts."""

from __future__ import annotations

from ....runtime.options import Arguments, Command
from ...rich.model import check_name
from .. import machines
from .changes import DRY, GATE, SHARE, roll_image
from .shared import HOSTS, JSON, REACHING, STORE, WAVE, WORDS


def run(arguments: Arguments) -> int:
    reference, name, *words = arguments.words
    check_name(name)
    return roll_image(arguments, reference, name, words, "upgrade", machines.upgrade)


COMMAND = Command(
    "fleet upgrade",
    "give a rich container another image on hosts, in waves, with a way back",
    run,
    words=f"IMAGE NAME {WORDS}",
    least=2,
    most=-1,
    options=(GATE, SHARE, DRY, WAVE, HOSTS, STORE, *REACHING, JSON),
    detail=(
        "By `joey rich upgrade` there: one that does not come up, is not well by its health check, or whose gate\n"
        "fails, is rolled back and runs as before; the hosts of later waves are not touched. What was before is\n"
        "kept until `joey fleet confirm NAME`; `joey fleet rollback NAME` goes back."
    ),
    examples=("joey fleet upgrade --wave 1,10%,rest --gate 'curl -fs http://10.71.0.2/' oci:images:shop-2 shop web",),
)
