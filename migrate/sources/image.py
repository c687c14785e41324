"""An existing image, to be cut into layers anew or checked: a layout, a docker-archive, or one in a registry."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

from ..image import archive, connection, transfer
from ..image.layout import Layout
from ..image.read import Image, open_image
from ..image.reference import Reference
from ..progress import Progress
from ..trees.layers import LayersTree
from .contract import Opened, Options

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..trees.entry import Entry


class ImageSource:
    """An image; its settings (entrypoint, environment, ...) are proposed for the new one."""

    def __init__(self, reference: Reference, options: Options, done: Callable[[str, float], None]) -> None:
        self._reference = reference
        self._options = options
        self._done = done
        self._folder = ""
        self._digest = ""

    def __enter__(self) -> Opened:
        self._folder = tempfile.mkdtemp(prefix=".joey-layers-", dir=self._options.work)
        image = self._open()
        self._digest = str(image.descriptor["digest"])
        paths = []
        for index in range(len(image.layers)):
            self._done("unpacking layers", index / len(image.layers))
            image.check_layer(index)
            paths.append(f"{self._folder}/layer-{index}.tar")
            with image.open_layer(index) as layer, open(paths[-1], "wb") as target:
                layer.copy(target)
                layer.finish()
        opened = Opened(LayersTree(paths), "image", str(self._reference))
        opened.facts = {"reader": "layers", "image": self._digest}
        opened.settings = image.settings
        opened.architecture = str(image.config.get("architecture") or "")
        opened.about = {key: image.config[key] for key in ("author", "variant") if key in image.config}
        notes = image.manifest.get("annotations") or {}
        opened.annotations = {str(key): str(value) for key, value in notes.items() if not key.startswith("io.joey.")}
        return opened

    def _open(self) -> Image:
        kind, place, name = self._reference
        if kind == "oci":
            return open_image(Layout(place), name)
        layout = Layout(f"{self._folder}/layout")
        layout.create()
        try:
            if kind == "docker-archive":
                archive.extract(place, layout)
            else:
                self._done("pulling", 0)
                transfer.pull(connection.parse(place), layout, "it", self._options.insecure, Progress(quiet=True))
        finally:
            layout.close()
        return open_image(layout, name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def complete(self, wants: Callable[[Entry], bool]) -> None:
        """It is all here."""

    def digest(self) -> str:
        """That of its manifest."""
        return self._digest
