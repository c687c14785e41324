"""`joey fleet exec`: one command on many hosts."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from ....compat import jsonio
from ....runtime.options import Arguments, Command, Option
from ....runtime.tables import plain
from .. import crew
from ..link import LinkError
from ..waves import waves
from .shared import HOSTS, REACHING, STORE, WAVE, WORDS, chosen, parallel, tell, way

if TYPE_CHECKING:
    from typing import Any

    from ..link import Done, Link


def run(arguments: Arguments) -> int:
    command, *words = arguments.words
    fleet = chosen(arguments, words)
    as_user = arguments.switch("as-user")

    def job(link: Link) -> Done:
        if not as_user and not link.become_root():
            raise LinkError("there is no root, and no sudo without a password", "--as-user runs it as who logs in")
        script = f"PATH={shlex.quote(link.host.kit)}/bin:$PATH\n{command}"
        return link.run(script) if as_user else link.run_as_root(script)

    rows: dict[str, dict[str, Any]] = {}
    parts = waves(fleet, arguments.text("wave"))
    for part in parts:
        failed = False
        for outcome in crew.each(part, job, way(arguments), parallel(arguments)):
            tell(outcome)
            name, done = outcome.host.name, outcome.value
            row: dict[str, Any] = {"host": name, "error": outcome.error, "status": None, "output": "", "errors": ""}
            if done is not None:
                row |= {"status": done.status, "output": done.out.decode("utf-8", "replace"), "errors": done.err}
            rows[name] = row
            failed = failed or row["status"] != 0
            if not arguments.switch("json"):
                _print(row)
        if failed and part is not parts[-1]:
            left = len(fleet) - len(rows)
            print(f"joey: a host of the wave failed; the {left} that are left were not touched", file=sys.stderr)
            break
    ordered = [rows[host.name] for host in fleet if host.name in rows]
    if arguments.switch("json"):
        print(jsonio.dumps(ordered))
    good = sum(row["status"] == 0 for row in ordered)
    print(f"joey: it went well on {good} of {len(fleet)} hosts", file=sys.stderr)
    return 0 if good == len(fleet) else 1


def _print(row: dict[str, Any]) -> None:
    name = plain(row["host"])
    for text, stream in ((row["output"], sys.stdout), (row["errors"], sys.stderr)):
        for line in text.splitlines():
            print(f"{name}: {plain(line)}", file=stream, flush=True)
    if row["status"]:
        print(f"{name}: status {row['status']}", file=sys.stderr, flush=True)


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
        Option("--json", "", "print JSON"),
    ),
    detail=(
        "COMMAND is one word, for sh there; the kit's programs are found first, so `joey ...` is the kit's. Each line\n"
        "is printed behind its host's name. Exit status 1 where it failed on any host, or a host could not be reached."
    ),
    examples=("joey fleet exec 'joey rich ps' web", "joey fleet exec --wave 1,rest 'joey rich restart shop' web db1"),
)
