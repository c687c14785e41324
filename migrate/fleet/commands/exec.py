"""`joey fleet exec`: one command on many hosts."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from ....compat import jsonio
from ....runtime.options import Arguments, Command, Option
from ....runtime.tables import plain
from ..link import LinkError
from .shared import HOSTS, JSON, REACHING, STORE, WAVE, WORDS, chosen, roll

if TYPE_CHECKING:
    from typing import Any

    from ..crew import Outcome
    from ..link import Done, Link

_PIECE = 1 << 14  # characters


def run(arguments: Arguments) -> int:
    command, *words = arguments.words
    fleet = chosen(arguments, words)
    as_user = arguments.switch("as-user")

    def job(link: Link) -> Done:
        if not as_user and not link.become_root():
            raise LinkError("there is no root, and no sudo without a password", "--as-user runs it as who logs in")
        script = f"PATH={shlex.quote(link.host.kit)}/bin:$PATH\n{command}"
        return link.run(script) if as_user else link.run_as_root(script)

    def seen(outcome: Outcome[Done]) -> bool:
        done = outcome.value
        if done is not None and not arguments.switch("json"):
            _print(outcome.host.name, done)
            outcome.value = done._replace(out=b"", err="")  # a thousand hosts' output is not kept
        return done is not None and done.status == 0

    found = roll(arguments, fleet, job, seen)
    if arguments.switch("json"):
        print(jsonio.dumps([_row(outcome) for outcome in found]))
    good = sum(outcome.value is not None and outcome.value.status == 0 for outcome in found)
    print(f"joey: it went well on {good} of {len(fleet)} hosts", file=sys.stderr)
    return 0 if good == len(fleet) else 1


def _row(outcome: Outcome[Done]) -> dict[str, Any]:
    row: dict[str, Any] = {"host": outcome.host.name, "error": outcome.error}
    if (done := outcome.value) is not None:
        row |= {"status": done.status, "output": done.out.decode("utf-8", "replace"), "errors": done.err}
    return row


def _print(host: str, done: Done) -> None:
    name = plain(host)
    for text, stream in ((done.out.decode("utf-8", "replace"), sys.stdout), (done.err, sys.stderr)):
        for line in text.splitlines():
            for place in range(0, max(1, len(line)), _PIECE):  # a line may be as long as all of it
                print(f"{name}: {plain(line[place : place + _PIECE])}", file=stream, flush=True)
    if done.status:
        print(f"{name}: status {done.status}", file=sys.stderr, flush=True)


COMMAND = Command(
    "fleet exec",
    "run a command on hosts",
    run,
    words=f"COMMAND {WORDS}",
    least=1,
    most=-1,
    options=(
        Option("--as-user", "", "as the user who logs in, not as root"),
        WAVE,
        HOSTS,
        STORE,
        *REACHING,
        JSON,
    ),
    detail=(
        "COMMAND is one word, for sh there; the kit's programs are found first, so `joey ...` is the kit's. Each line\n"
        "is printed behind its host's name. Exit status 1 where it failed on any host, or a host could not be reached."
    ),
    examples=("joey fleet exec 'joey rich ps' web", "joey fleet exec --wave 1,rest 'joey rich restart shop' web db1"),
)
