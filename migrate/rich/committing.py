"""An image of what a rich container has become: the old image's files, and what was written since."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ...compat import libc
from ...compat.constants import CLONE_NEWNS, MS_PRIVATE, MS_RDONLY, MS_REC
from ...compat.errors import JoeyError, KernelError
from ...runtime.layers import FOLDER as LAYERS
from ..image import build
from ..image.layerwriter import LayerWriter
from ..trees.folder import FolderTree
from . import shifted
from .model import parse_id_map

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..image.layout import Layout
    from ..progress import Progress
    from ..trees.entry import Entry
    from .model import Rich
    from .store import Container


def write(container: Container, layout: Layout, tag: str, now: int, progress: Progress) -> None:
    """Write the image into a layout. Raises OSError, JoeyError; then there is none."""
    rich = container.rich()
    config = {
        "Env": [f"{name}={value}" for name, value in rich.env.items()],
        "Entrypoint": rich.argv if rich.init in ("none", "tini") else ["/sbin/init", *rich.argv],
        "WorkingDir": rich.cwd,
        "Labels": dict(rich.labels),
    }
    with _files(container, shifted.lower_of(container, rich)) as path:
        tree = FolderTree(path)
        try:
            progress.stage("writing the layer", tree.used())
            size = 0
            with build.LayerSet(layout, "gzip", 1) as layers:
                parents: list[Entry] = []
                for entry in _as_inside(tree, rich):
                    while parents and not _is_above(parents[-1].path, entry.path):
                        parents.pop()
                    layers.add("machine", entry, parents)
                    if entry.kind == "directory":
                        parents.append(entry)
                    size += entry.size
                    progress.at(size)
                written = layers.finish(["machine"])
        finally:
            tree.close()
    notes = {"io.joey.rich.name": rich.name, "io.joey.rich.from": rich.image or rich.lower}
    build.write_image(layout, written, config, _architecture(), build.moment(now), notes, tag)


def export(container: Container, target: str, progress: Progress) -> None:
    """Write the container's files to a tar. Raises OSError, JoeyError; then there is none."""
    rich = container.rich()
    new = f"{target}.{os.getpid()}.new"
    with _files(container, shifted.lower_of(container, rich)) as path:
        tree = FolderTree(path)
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            progress.stage("writing the archive", tree.used())
            writer = LayerWriter(fd, "none", 0)
            size = 0
            try:
                for entry in _as_inside(tree, rich):
                    writer.add(entry)
                    size += entry.size
                    progress.at(size)
            except BaseException:
                writer.abort()
                raise
            writer.close()
            os.fsync(fd)
            os.rename(new, target)
        except BaseException:
            os.unlink(new)
            raise
        finally:
            os.close(fd)
            tree.close()


def _as_inside(tree: FolderTree, rich: Rich) -> Iterator[Entry]:
    """The entries with the owners that they have in the container; an id that is not in its map stays as it is."""
    if not rich.id_map:
        yield from tree.entries()
        return
    first, count = parse_id_map(rich.id_map)
    for entry in tree.entries():
        uid, gid = (number - first if first <= number < first + count else number for number in (entry.uid, entry.gid))
        entry.uid, entry.gid = uid, gid
        yield entry


def _is_above(folder: bytes, path: bytes) -> bool:
    return not folder or path.startswith(folder + b"/")


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


@contextmanager
def _files(container: Container, lower: str) -> Iterator[str]:
    """A directory with the container's files, without the fixes where they are a layer of their own."""
    upper = f"{container.bundle}/{LAYERS}/upper"
    merged = f"{container.bundle}/rootfs"
    if not os.path.isdir(upper):
        if not os.path.isdir(merged) or not os.listdir(merged):
            raise JoeyError(f"{container.name} has written nothing yet", "its image is the one it was made of")
        yield merged
        return
    libc.unshare(CLONE_NEWNS)
    libc.mount("none", "/", "", MS_REC | MS_PRIVATE)
    with tempfile.TemporaryDirectory(dir=container.folder) as place:
        try:
            libc.mount("overlay", place, "overlay", MS_RDONLY, f"lowerdir={upper}:{lower}")
        except KernelError as error:
            raise JoeyError(f"its layers can't be mounted: {error.message}") from None
        try:
            yield place
        finally:
            libc.umount(place)
