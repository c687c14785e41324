"""One migration: a source and a recipe in, an image in a layout out, and the report of what became of everything."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import __version__
from .image import build
from .image.read import BASE_LAYERS
from .inventory.packages import packages
from .pack import LAYERS, Packer, Report
from .recipe import text as recipe_text
from .trees.folder import FolderTree
from .trees.joined import JoinedTree, RootTree
from .trees.layers import LowerTree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .image.layerreader import LayerReader
    from .image.layerwriter import Written
    from .image.layout import Layout
    from .image.read import Image
    from .progress import Progress
    from .recipe.model import ImageSettings, Recipe
    from .sources.contract import Opened, Source


class Result:
    """`manifest` is the descriptor in the layout's index."""

    def __init__(
        self, manifest: dict[str, Any], layers: list[tuple[str, Written]], report: Report, seconds: float
    ) -> None:
        self.manifest = manifest
        self.layers = layers
        self.report = report
        self.seconds = seconds


def migrate(
    source: Source, opened: Opened, recipe: Recipe, layout: Layout, progress: Progress,
    base: Image | None = None, below: RootTree | None = None,
) -> Result:  # fmt: skip
    """Write an image of an opened source, above the layers of a base where there is one; `below` is what that has.

    Raises OSError, JoeyError; then the layout has no image of it.
    """
    start = time.monotonic()
    progress.stage("reading the package database")
    known = packages(opened.tree)
    packer = Packer(recipe, known)
    report = packer.report
    source.complete(packer.wants)
    report.warnings += [*opened.notes, *known.losses]
    progress.stage("writing layers", _used(opened))
    with build.LayerSet(layout, recipe.compression, recipe.level) as layers:
        for layer, entry, parents in packer.entries(opened.tree):
            layers.add(layer, entry, parents)
            progress.at(report.size)
        written = layers.finish(list(LAYERS))
    report.warnings += opened.tree.losses
    progress.stage("writing the image")
    image = recipe.image
    if base is not None and below is not None:
        base.copy_layers(layout)
        report.warnings += _lacking(opened, below)
    manifest = build.write_image(
        layout,
        written,
        config_of(image, base, opened.settings),
        image.architecture or (base and base.config.get("architecture")) or "amd64",
        image.created or build.moment(report.newest),
        {**opened.annotations, **provenance(source, opened, recipe, base)},
        image.name,
        base,
        opened.about,
    )
    return Result(manifest, written, report, time.monotonic() - start)


def _used(opened: Opened) -> int:
    return opened.tree.used() if isinstance(opened.tree, FolderTree) else 0


def provenance(source: Source, opened: Opened, recipe: Recipe, base: Image | None = None) -> dict[str, str]:
    """What an image says of where it came from."""
    found = {
        "io.joey.version": __version__,
        "io.joey.source": opened.title,
        "io.joey.source.kind": opened.kind,
        "io.joey.recipe.digest": recipe_digest(recipe),
    }
    if base is not None:
        found["io.joey.base.digest"] = str(base.descriptor["digest"])
        found[BASE_LAYERS] = str(len(base.layers))
    if digest := source.digest():
        found["io.joey.source.digest"] = digest
    return found


def recipe_digest(recipe: Recipe) -> str:
    """The digest of what a recipe decides; comments and the order of its keys do not count."""
    data = recipe_text.write(replace(recipe, comments={}), {}, {})
    return "sha256:" + hashlib.sha256(data.encode()).hexdigest()


def lower(image: Image, count: int) -> RootTree:
    """What the lowest layers of an image have at each path. Raises ImageError, TreeError."""

    def layers() -> Iterator[LayerReader]:
        for index in range(count):
            with image.open_layer(index) as layer:
                yield layer.reader()

    return RootTree(LowerTree(layers()))


def put_over(opened: Opened, below: RootTree) -> None:
    """Have an application's files follow the links of what is below it, whose folders stay as they are."""
    opened.tree = JoinedTree(opened.tree, below, ())


def _lacking(opened: Opened, below: RootTree) -> list[str]:
    """What an application wants that neither it nor its base has, a sentence each."""
    application = opened.application
    if application is None:
        return []
    lasts = {path.rpartition(b"/")[2] for path in below.paths()}
    found = [
        f"{who} wants the library {library}, which the base does not have"
        for library, who in application.libraries.items()
        if library.encode() not in lasts
    ]
    return found + [
        f"{who} wants {path}, which the base does not have"
        for path, who in (*application.interpreters.items(), *application.commands.items())
        if path.rpartition("/")[2].encode() not in lasts
    ]


def config_of(image: ImageSettings, base: Image | None, former: dict[str, Any]) -> dict[str, Any]:
    """The `config` of an image; what it does not say its base says. `former` is that of the image it is made of, whose
    settings that no recipe knows stay. Source: image-spec, config.md; Moby's image specification 1.2.
    """
    check = former.get("Healthcheck")
    health: dict[str, Any] = {"Test": image.health} if image.health else {}
    if isinstance(check, dict) and image.health == check.get("Test"):
        health = check  # with its times
    found: dict[str, Any] = {
        "Entrypoint": image.entrypoint,
        "Cmd": image.command,
        "Env": image.environment,
        "User": image.user,
        "WorkingDir": image.working_directory,
        "StopSignal": image.stop_signal,
        "Healthcheck": health,
        "Labels": image.labels,
        "ExposedPorts": {port if "/" in port else f"{port}/tcp": {} for port in image.ports},
        "Volumes": {path: {} for path in image.volumes},
    }
    unknown = {key: value for key, value in former.items() if key not in found}
    settings = {**(base.settings if base else {}), **unknown}
    if base and found["Entrypoint"]:
        settings.pop("Cmd", None)  # it is for the base's entrypoint
    mine = {key: value for key, value in found.items() if value}
    if base and isinstance(settings.get("Env"), list):
        own = {item.partition("=")[0] for item in image.environment}
        kept = [item for item in settings["Env"] if str(item).partition("=")[0] not in own]
        mine["Env"] = [*kept, *image.environment]
    return {**settings, **mine}
