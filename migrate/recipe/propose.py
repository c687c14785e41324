"""The recipe that joey proposes for a source: what starts, which ports and volumes, and how much each rule matches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..inventory import files, ports, system
from ..inventory.model import Inventory
from .model import ImageSettings, Recipe
from .rules import RULES, Filter

if TYPE_CHECKING:
    from ..inventory.application import Application
    from ..sources.contract import Opened
    from ..trees.entry import Tree

# how each init is told to stop; systemd by its manual, sysvinit and upstart by the power failure of init(8)
_STOP_SIGNALS = {
    "systemd": "SIGRTMIN+3",
    "sysvinit": "SIGPWR",
    "upstart": "SIGPWR",
    "busybox": "SIGUSR2",
    "openrc": "SIGTERM",
}


def propose(opened: Opened) -> Recipe:
    """A recipe for a source. Raises OSError, TreeError."""
    tree = opened.tree
    recipe = Recipe()
    if opened.application is not None:
        _application(opened.application, recipe)
        return recipe
    if opened.kind == "image":
        _as_it_was(opened, recipe.image)
        return recipe
    found = Inventory()
    system.look(tree, found)
    image = recipe.image
    image.architecture = found.architecture
    if found.init:
        image.entrypoint = ["/sbin/init"]
        image.stop_signal = _STOP_SIGNALS.get(found.init, "")
        image.labels["io.joey.init"] = found.init
        recipe.comments["entrypoint"] = f"the whole machine, by its own init ({found.init}); or one program of it"
        recipe.comments["stop-signal"] = f"how {found.init} is told to shut down"
    elif tree.status(b"bin/sh") is not None:
        image.command = ["/bin/sh"]
        recipe.comments["command"] = "no init was found"
    listening = ports.ports(tree)
    image.ports = [f"{port.number}/{port.protocol}" for port in listening]
    if listening:
        recipe.comments["ports"] = "; ".join(f"{port.number} of {port.service}, {port.where}" for port in listening)
    for path, kind in files.DATABASES:
        if tree.names(path):
            image.volumes.append("/" + path.decode())
            recipe.comments["volumes"] = (recipe.comments.get("volumes", "") + f"; {kind}").lstrip("; ")
    return recipe


def _application(found: Application, recipe: Recipe) -> None:
    image = recipe.image
    image.architecture = found.architecture
    image.entrypoint = found.entrypoint
    recipe.comments["entrypoint"] = found.reasons.get("entrypoint", "")
    image.working_directory = found.working_directory
    image.ports = [f"{number}/tcp" for number in sorted(found.ports)]
    recipe.comments["ports"] = "; ".join(f"{number} in {where}" for number, where in sorted(found.ports.items()))
    image.volumes = sorted(found.volumes)
    recipe.comments["volumes"] = "by their names, what it writes to" if found.volumes else ""
    image.user, image.health = found.user, found.health
    recipe.comments.update({key: found.reasons.get(key, "") for key in ("user", "health")})


def _as_it_was(opened: Opened, image: ImageSettings) -> None:
    """An image's own settings, which are somebody's decisions already."""
    found = opened.settings

    def texts(key: str) -> list[str]:
        value = found.get(key) or []
        return [str(item) for item in value] if isinstance(value, (list, dict)) else []

    image.entrypoint, image.command, image.environment = texts("Entrypoint"), texts("Cmd"), texts("Env")
    image.ports, image.volumes = sorted(texts("ExposedPorts")), sorted(texts("Volumes"))
    image.user, image.stop_signal = str(found.get("User") or ""), str(found.get("StopSignal") or "")
    image.working_directory = str(found.get("WorkingDir") or "")
    check = found.get("Healthcheck")
    image.health = [str(word) for word in check.get("Test") or []] if isinstance(check, dict) else []
    labels = found.get("Labels")
    image.labels = {str(key): str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}
    image.architecture = opened.architecture


def matches(tree: Tree) -> dict[str, tuple[int, int]]:
    """(entries, bytes) that each rule matches in a tree, whether it applies or not. Raises OSError, TreeError."""
    every = Filter(list(RULES), [])
    found: dict[str, tuple[int, int]] = {}
    for entry in tree.entries():
        rule = every.rule(entry.path)
        if rule is not None and rule.touches(entry.kind):
            count, size = found.get(rule.name, (0, 0))
            found[rule.name] = count + 1, size + (0 if entry.first else entry.size)
    return found
