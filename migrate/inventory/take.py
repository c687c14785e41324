"""The inventory of a tree: every part of this folder asked once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..disks import guest
from ..trees.entry import text
from . import files, people, ports, score, services, settings, system
from .model import Inventory
from .packages import packages

if TYPE_CHECKING:
    from ..sources.contract import Opened


def take(opened: Opened) -> Inventory:
    """Read what a machine is. Raises OSError, TreeError where the source can't be read."""
    tree = opened.tree
    found = Inventory(source=opened.title)
    system.look(tree, found)
    known = packages(tree)
    found.package_manager = known.kind
    found.packages = [{"name": p.name, "version": p.version, "architecture": p.architecture} for p in known.found]
    found.services = services.services(tree, found.init, found.runlevel)
    found.ports = ports.ports(tree)
    found.accounts = people.accounts(tree)
    found.groups = people.groups(tree)
    found.sudo = people.sudo(tree)
    found.jobs = people.jobs(tree)
    found.settings = settings.settings(tree)
    for line in guest.parse(text(tree, b"etc/fstab", 1 << 20)):
        found.mounts.append(
            {"device": line.device, "target": line.target, "type": line.type, "kind": guest.kind_of(line)}
        )
    files.look(tree, found, known.owners)
    found.notes = [*opened.notes, *known.losses, *tree.losses]
    score.judge(found)
    return found
