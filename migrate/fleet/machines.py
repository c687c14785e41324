"""Rich containers on hosts, by the `joey rich` that is there: what is there, starting one, giving it another image."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from . import images
from .link import LinkError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .images import Image
    from .link import Done, Link


_LARGEST = 4 << 20  # of what joey says there
_UNDO = 120.0  # seconds for taking a change back


class Change(NamedTuple):
    """What was done to one. `before` and `after` are digests of images, "" for none; `size`: bytes that the desk sent,
    `shared`: those that came from other hosts."""

    before: str
    after: str
    size: int = 0
    shared: int = 0


class Rollout(NamedTuple):
    """An image that hosts are to run, what has to be well on them, and how it gets there.

    `dry`: change nothing, and say what would be changed.
    """

    image: Image
    name: str
    gate: str
    send: Callable[[Link, Image, str], images.Sent]
    dry: bool = False


def joey(link: Link, *words: str) -> Done:
    """joey there, as root: the kit's, else whatever is in its PATH. Raises LinkError where root can't be had."""
    if not link.become_root():
        raise LinkError("containers are root's, and there is no sudo without a password")
    return link.run_as_root(link.joey(*words), limit=_LARGEST)


def must(link: Link, *words: str) -> bytes:
    """The output of joey there. Raises LinkError with its own words where it fails."""
    done = joey(link, *words)
    if done.status == 127:
        raise LinkError("there is no joey there", "joey fleet deploy --kit FILE")
    if done.status:
        said = [line.removeprefix("joey: ") for line in done.err.splitlines() if line.startswith("joey: ")]
        raise LinkError(said[0][:300] if said else done.reason)
    return done.out


def containers(link: Link) -> list[dict[str, Any]]:
    """All rich containers of the host, as `joey rich ps --json` tells."""
    try:
        found = json.loads(must(link, "rich", "ps", "--all", "--json"), parse_constant=_no_number)
        return [dict(row) for row in found]
    except (ValueError, TypeError, RecursionError):
        raise LinkError("its joey answers what is no list of containers", "another version of the kit?") from None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def known(link: Link, name: str) -> dict[str, Any] | None:
    """All about one, as `joey rich inspect --json` tells; None where there is none of that name."""
    if not any(row.get("name") == name for row in containers(link)):
        return None
    try:
        return dict(json.loads(must(link, "rich", "inspect", "--json", name)))
    except (ValueError, TypeError, RecursionError):
        raise LinkError("its joey answers what is no container", "another version of the kit?") from None


def image_of(container: dict[str, Any] | None) -> str:
    """The digest of the image that a container is made of, from where its files are; "" for none."""
    parts = str(container.get("lower", "")).split("/") if container else []
    return f"sha256:{parts[-2]}" if len(parts) > 2 and parts[-3] == ".images" else ""


def run(link: Link, rollout: Rollout, options: list[str]) -> Change:
    """Make the container and start it. One that does not come up, or whose gate fails, is removed again."""
    image, name = rollout.image, rollout.name
    there = known(link, name)
    before = image_of(there)
    if there and before != image.digest:
        raise LinkError(f"{name} is there, with another image", f"joey fleet upgrade IMAGE {name}")
    if rollout.dry:
        return _as_it_would(link, rollout, there)
    if there:
        _have_run(link, there, name)
        _gate(link, rollout.gate)
        return Change(before, image.digest)
    sent = rollout.send(link, image, name)
    must(link, "rich", "create", "--name", name, *options, images.reference(name))  # what fails here has made nothing
    try:
        must(link, "rich", "start", name)
        _gate(link, rollout.gate)
    except LinkError as error:
        _take_back(link, error, "removed again", "rich", "rm", "--force", name)
    return Change("", image.digest, *sent)


def _as_it_would(link: Link, rollout: Rollout, there: dict[str, Any] | None) -> Change:
    """What a change to an image would be."""
    before, image = image_of(there), rollout.image
    if there and before == image.digest:
        if there.get("status") == "stopped":
            link.notes.append(f"{rollout.name} is stopped, and would be started")
        return Change(before, before)
    blobs = images.missing(link, image, rollout.name)
    return Change(before, image.digest, 0 if blobs is None else image.stream(rollout.name, blobs).size)


def _have_run(link: Link, there: dict[str, Any], name: str) -> None:
    """Start one that is stopped. Raises LinkError for one that neither runs nor can be started."""
    status = there.get("status")
    if status == "stopped":
        must(link, "rich", "start", name)
    elif status != "running":
        raise LinkError(f"{name} is {str(status)[:40]}", f"joey rich logs {name} there")


def _take_back(link: Link, error: LinkError, done: str, *words: str) -> NoReturn:
    """Undo a change that failed, by a new connection with time of its own: the old one may be what failed."""
    try:
        with link.again(_UNDO) as other:
            must(other, *words)
    except LinkError as problem:
        told = f"{error}; and it could not be {done}: {problem}"
        raise LinkError(told, "run this again: it goes on from there") from None
    raise LinkError(f"{error}; it was {done}", error.hint) from None


def upgrade(link: Link, rollout: Rollout) -> Change:
    """Give it another image. Where it does not come up, or its gate fails, the one before is put back and runs."""
    image, name = rollout.image, rollout.name
    there = known(link, name)
    if there is None:
        raise LinkError(f"there is no {name}", f"joey fleet run IMAGE {name}")
    before = image_of(there)
    if rollout.dry:
        if before != image.digest and there.get("upgraded"):
            raise LinkError(f"{name} has an upgrade that is not confirmed", f"joey fleet confirm {name}, or rollback")
        return _as_it_would(link, rollout, there)
    sent = images.Sent(0, 0)
    if before != image.digest:
        sent = rollout.send(link, image, name)
        must(link, "rich", "upgrade", "--image", images.reference(name), name)
    try:
        if before == image.digest:
            _have_run(link, there, name)
        _gate(link, rollout.gate)
    except LinkError as error:
        if before == image.digest and not there.get("upgraded"):
            raise  # there is nothing to go back to
        _take_back(link, error, "rolled back", "rich", "rollback", name)
    return Change(before, image.digest, *sent)


def rollback(link: Link, name: str, dry: bool = False) -> Change:
    """Take an upgrade back, or say that it would be; where there is none any more, nothing. Raises LinkError."""
    there = known(link, name)
    if there is None:
        raise LinkError(f"there is no {name}", f"joey fleet run IMAGE {name}")
    before = image_of(there)
    if not there.get("upgraded"):
        link.notes.append(f"{name} has no upgrade to go back from")
        return Change(before, before)
    if dry:
        return Change(before, "the one before")
    must(link, "rich", "rollback", name)
    return Change(before, image_of(known(link, name)))


def confirm(link: Link, name: str, dry: bool = False) -> Change:
    """Keep an upgrade, or say whether there is one; one that is confirmed already is left. Raises LinkError."""
    there = known(link, name)
    if there is None:
        raise LinkError(f"there is no {name}", f"joey fleet run IMAGE {name}")
    if dry:
        link.notes.append(f"{name} has an upgrade" if there.get("upgraded") else f"{name} has no upgrade to confirm")
    elif there.get("upgraded"):
        must(link, "rich", "confirm", name)
    return Change(image_of(there), image_of(there))


def _gate(link: Link, command: str) -> None:
    if command:
        done = link.run_as_root(f"PATH={shlex.quote(link.host.kit)}/bin:$PATH\n{command}")
        if done.status:
            raise LinkError(f"the gate failed: {done.reason}")
