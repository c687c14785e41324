"""What the verbs of `joey fleet` share: their options, and telling of hosts that failed."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, TypeVar

from ....compat.errors import UsageError
from ....runtime.options import Option
from ....runtime.tables import plain
from .. import crew, hosts
from ..crew import PARALLEL
from ..link import Way
from ..store import Store, default_folder
from ..waves import waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ....runtime.options import Arguments
    from ..crew import Outcome
    from ..hosts import Host
    from ..link import Link

Value = TypeVar("Value")

HOSTS = Option(
    "--hosts", "FILE", f"the hosts of the fleet; - reads names (default: {hosts.DEFAULT_FILE}, if it is there)"
)
STORE = Option("--store", "DIR", "where what is known is kept (default: $JOEY_FLEET or ~/.local/share/joey/fleet)")
REACHING = (
    Option("--parallel", "N", "hosts at a time", default=str(PARALLEL)),
    Option("--timeout", "SECONDS", "how long all the work on one host may take (default: what the file says, or 120)"),
    Option("--connect-timeout", "SECONDS", "how long to wait for a host's answer", default="10"),
    Option("--ssh-config", "FILE", "an ssh_config instead of yours"),
)
WAVE = Option("--wave", "SIZES", "so many hosts first, and on only where that went well: 1,10%,rest")
JSON = Option("--json", "", "print JSON")
POLICY = Option("--policy", "POLICY", "strict (default) or permissive, as for `joey run`")
WORDS = "[HOST|GROUP|!HOST ...]"


def chosen(arguments: Arguments, words: list[str] | None = None) -> list[Host]:
    """The hosts that the command line names. Raises HostsError, UsageError."""
    found = hosts.read(arguments.text("hosts")).select(arguments.words if words is None else words)
    seconds = arguments.number("timeout", 0)
    if seconds < 0:
        raise UsageError("--timeout: seconds, 1 or more")
    return [dataclasses.replace(host, timeout=seconds) for host in found] if seconds else found


def way(arguments: Arguments) -> Way:
    return Way(arguments.text("ssh-config"), max(1, arguments.number("connect-timeout", 10)))


def parallel(arguments: Arguments) -> int:
    count = arguments.number("parallel", PARALLEL)
    if count < 1:
        raise UsageError("--parallel: 1 or more")
    return count


def store(arguments: Arguments) -> Store:
    return Store(arguments.text("store") or default_folder())


def tell(outcome: Outcome[Any]) -> None:
    """Say on standard error what went wrong on a host, or was met there."""
    name = plain(outcome.host.name)
    for note in outcome.notes:
        print(f"joey: {name}: {plain(note)}", file=sys.stderr, flush=True)
    if outcome.error:
        hint = f" ({plain(outcome.hint)})" if outcome.hint else ""
        print(f"joey: {name}: {plain(outcome.error)}{hint}", file=sys.stderr, flush=True)


def roll(
    arguments: Arguments, fleet: list[Host], job: Callable[[Link], Value], seen: Callable[[Outcome[Value]], bool]
) -> list[Outcome[Value]]:
    """Do a job wave by wave, as --wave says; the outcomes, in the order of the hosts.

    `seen` takes each as it comes, and says whether it went well: after a wave in which one did not, the hosts that
    are left are not touched, and that is told.
    """
    found: dict[str, Outcome[Value]] = {}
    parts = waves(fleet, arguments.text("wave"))
    for number, part in enumerate(parts):
        bad = 0
        for outcome in crew.each(part, job, way(arguments), parallel(arguments)):
            found[outcome.host.name] = outcome
            tell(outcome)
            bad += not seen(outcome)
        left = len(fleet) - len(found)
        if bad and left:
            hint = "mend them and run this again: what is done is not done twice"
            told = f"{bad} of {len(part)} hosts of wave {number + 1} failed; the {left} that are left were not touched"
            print(f"joey: {told} ({hint})", file=sys.stderr)
            break
    return [found[host.name] for host in fleet if host.name in found]
