"""Rolling a change of rich containers out: its options, its journal, its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....compat import jsonio
from ....runtime.options import Option
from ....runtime.tables import Table
from ...sizes import shown_size
from .. import images
from ..images import Image
from ..machines import Rollout
from ..sharing import Sharing
from .shared import chosen, roll, store

if TYPE_CHECKING:
    from collections.abc import Callable

    from ....runtime.options import Arguments
    from ..crew import Outcome
    from ..hosts import Host
    from ..link import Link
    from ..machines import Change

GATE = Option("--gate", "COMMAND", "for sh on the host: it has to say, by status 0, that all is well")


DRY = Option("--dry-run", "", "change nothing: only say what would be changed, and sent")


SHARE = Option("--share", "", "have hosts give the image to each other: the desk's line carries it once")


def roll_image(
    arguments: Arguments, reference: str, name: str, words: list[str], what: str, job: Callable[[Link, Rollout], Change]
) -> int:
    """Have hosts run an image, wave by wave; the exit status."""
    fleet = chosen(arguments, words)
    rollout = Rollout(Image(reference), name, arguments.text("gate"), images.send, arguments.switch("dry-run"))
    if not arguments.switch("share") or rollout.dry:
        return roll_changes(arguments, fleet, name, what, lambda link: job(link, rollout))
    with Sharing(len(fleet)) as sharing:
        shared = rollout._replace(send=sharing.send)
        return roll_changes(arguments, fleet, name, what, lambda link: job(link, shared))


def roll_changes(arguments: Arguments, fleet: list[Host], name: str, what: str, job: Callable[[Link], Change]) -> int:
    """Do it wave by wave, note what changed unless it is a --dry-run, and tell; the exit status."""
    place, dry = store(arguments), arguments.switch("dry-run")
    if not dry:
        place.check()

    def seen(outcome: Outcome[Change]) -> bool:
        change = outcome.value
        if dry:
            return True  # the next wave is asked, too
        if change is not None and change.before != change.after:
            place.note(outcome.host.name, f"{name}: {what}", change.before, change.after)
        elif change is None:
            place.note(outcome.host.name, f"{name}: {what} failed: {outcome.error}", "", "")
        return not outcome.error

    rows = roll(arguments, fleet, job, seen)
    if arguments.switch("json"):
        print(jsonio.dumps([
            {"host": row.host.name, "error": row.error, "seconds": round(row.seconds, 2),
             **(row.value._asdict() if row.value else {})} for row in rows
        ]))  # fmt: skip
    else:
        shares = arguments.switch("share")
        now, sent = ("image it would have", "would be sent") if dry else ("image now", "sent")
        table = Table(name, "host", "image before", now, sent, *["from hosts"] * shares, "s")
        for row in rows:
            change = row.value
            cells = [change.before, change.after, shown_size(change.size)] if change else ["", "failed", ""]
            cells += [shown_size(change.shared) if change else ""] * shares
            table.add(row.host.name, *(cell.removeprefix("sha256:")[:16] for cell in cells), f"{row.seconds:.1f}")
        table.print()
    return 1 if len(rows) < len(fleet) or any(row.error for row in rows) else 0
