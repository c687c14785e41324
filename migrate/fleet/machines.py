"""Rich containers on hosts, by the `joey rich` that is there: what is there, starting one, giving it another image."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from . import images
from .link import LinkError

if TYPE_CHECKING:
    from .images import Image
    from .link import Done, Link


class Change(NamedTuple):
    """What was done to one. `before` and `after` are digests of images, "" for none; `size`: bytes sent."""

    before: str
    after: str
    size: int


def joey(link: Link, *words: str) -> Done:
    """joey there, as root: the kit's, else whatever is in its PATH. Raises LinkError where root can't be had."""
    if not link.become_root():
        raise LinkError("containers are root's, and there is no sudo without a password")
    return link.run_as_root(
        f"PATH={shlex.quote(link.host.kit)}/bin:$PATH:/usr/local/bin\nexec joey {shlex.join(words)}"
    )


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
        found = json.loads(must(link, "rich", "ps", "--all", "--json"))
        return [dict(row) for row in found]
    except (ValueError, TypeError, RecursionError):
        raise LinkError("its joey answers what is no list of containers", "another version of the kit?") from None


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


def run(link: Link, image: Image, name: str, options: list[str], gate: str) -> Change:
    """Make the container and start it. One that does not come up, or whose gate fails, is removed again."""
    there = known(link, name)
    before = image_of(there)
    if there and before != image.digest:
        raise LinkError(f"{name} is there, with another image", f"joey fleet upgrade IMAGE {name}")
    if there:
        if there.get("status") == "stopped":
            must(link, "rich", "start", name)
        _gate(link, gate)
        return Change(before, image.digest, 0)
    size = images.send(link, image, name)
    try:
        must(link, "rich", "run", "--name", name, *options, images.reference(name))
        _gate(link, gate)
    except LinkError as error:
        joey(link, "rich", "rm", "--force", name)
        raise LinkError(f"{error}; it was removed again", error.hint) from None
    return Change("", image.digest, size)


def upgrade(link: Link, image: Image, name: str, gate: str) -> Change:
    """Give it another image. Where it does not come up, or its gate fails, the one before is put back and runs."""
    there = known(link, name)
    if there is None:
        raise LinkError(f"there is no {name}", f"joey fleet run IMAGE {name}")
    before = image_of(there)
    if before == image.digest:
        _gate(link, gate)
        return Change(before, before, 0)
    size = images.send(link, image, name)
    must(link, "rich", "upgrade", "--image", images.reference(name), name)
    try:
        _gate(link, gate)
    except LinkError as error:
        must(link, "rich", "rollback", name)
        raise LinkError(f"{error}; it was rolled back", error.hint) from None
    return Change(before, image.digest, size)


def _gate(link: Link, command: str) -> None:
    if command:
        done = link.run_as_root(f"PATH={shlex.quote(link.host.kit)}/bin:$PATH\n{command}")
        if done.status:
            raise LinkError(f"the gate failed: {done.reason}")
