"""Where an image goes: a layout as it is written, or what is made of a layout of its own when it is complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from ...compat.errors import JoeyError
from . import archive, bundle, connection, transfer
from .layout import Layout
from .read import open_image

if TYPE_CHECKING:
    from types import TracebackType

    from ..progress import Progress
    from .reference import Reference

_PREFIX = ".joey-image-"
TRANSPORTS = ("oci", "docker-archive", "bundle", "docker")


class Destination:
    """A context whose value is the layout to write to; `finish` makes of it what the reference names."""

    def __init__(self, reference: Reference, insecure: bool, work: str) -> None:
        self._reference = reference
        self._insecure = insecure
        self._work = work
        self._temporary = ""
        self._layout: Layout | None = None

    def check(self) -> None:
        """Whether it can be written, before any work is done. Raises JoeyError."""
        place = self._reference.place
        if self._reference.transport == "docker-archive":
            archive.check_target(place)
        elif self._reference.transport == "bundle" and os.path.lexists(place) and not bundle.can_take(place):
            raise JoeyError(f"{place} is there already and not empty", "name a new folder", "exists")

    def __enter__(self) -> Layout:
        place = self._reference.place
        if self._reference.transport != "oci":
            folder = self._work if self._reference.transport == "docker" else os.path.dirname(os.path.abspath(place))
            _clean(folder)
            place = self._temporary = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=folder)
        self._layout = Layout(place)
        self._layout.create()
        return self._layout

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._layout is not None:
            self._layout.close()
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def finish(self, progress: Progress) -> list[str]:
        """Make what the reference names; warnings. Raises OSError, JoeyError."""
        assert self._layout is not None
        if self._reference.transport == "docker-archive":
            image = open_image(self._layout)
            progress.stage("writing the archive", sum(layer.get("size", 0) for layer in image.layers))
            archive.write(image, self._reference.place, self._reference.name, progress.at)
        elif self._reference.transport == "bundle":
            return bundle.unpack(open_image(self._layout), self._reference.place, bundle.Limits(), progress)
        elif self._reference.transport == "docker":
            transfer.push(open_image(self._layout), connection.parse(self._reference.place), self._insecure, progress)
        return []


def _clean(folder: str) -> None:
    """Remove what killed runs left in a folder: their process is in the name."""
    for name in os.listdir(folder):
        pid = name.removeprefix(_PREFIX).partition("-")[0] if name.startswith(_PREFIX) else ""
        if pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            path = os.path.join(folder, name)
            if os.lstat(path).st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)
