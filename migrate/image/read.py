"""An image in a layout: its manifest, config and layers, every digest and size checked."""

from __future__ import annotations

import hashlib
import io
import os
import re
from typing import IO, TYPE_CHECKING, Any, Self

from . import compress
from .ahead import ReadAhead
from .build import ARCHITECTURES
from .digest import ImageError, of_file
from .layerreader import LayerReader
from .layout import INDEX, REF_NAME, Layout, objects

if TYPE_CHECKING:
    from collections.abc import Callable

LISTS = ("application/vnd.docker.distribution.manifest.list.v2+json",)
_CHUNK = 1 << 20
MOST_LAYERS = 1000
BASE_LAYERS = "io.joey.base.layers"  # an annotation: how many layers are a base's


class Image:
    """`manifest` and `config` as they are written; `descriptor` is the manifest's."""

    def __init__(self, layout: Layout, descriptor: dict[str, Any]) -> None:
        self.layout = layout
        self.descriptor = descriptor
        self.manifest = layout.json(descriptor.get("digest"))
        self.layers = objects(self.manifest, "layers", "the manifest", MOST_LAYERS)
        notes = self.manifest.get("annotations") or {}
        if not isinstance(notes, dict):
            raise ImageError("the manifest's annotations are not a mapping")
        self.config = layout.json(_object(self.manifest, "config").get("digest"))
        diff_ids = _object(self.config, "rootfs").get("diff_ids")
        if not isinstance(diff_ids, list) or len(diff_ids) != len(self.layers):
            raise ImageError("the image's config and manifest do not have the same number of layers")
        self.diff_ids: list[Any] = diff_ids

    @property
    def settings(self) -> dict[str, Any]:
        """The `config` of its config: entrypoint, environment, ..."""
        value = self.config.get("config")
        return value if isinstance(value, dict) else {}

    @property
    def own(self) -> range:
        """The layers that are not of a base."""
        word = str((self.manifest.get("annotations") or {}).get(BASE_LAYERS, "0"))
        count = int(word) if re.fullmatch(r"[0-9]{1,4}", word) else 0
        return range(min(count, len(self.layers)), len(self.layers))

    def check_layer(self, index: int, done: Callable[[int], None] = lambda count: None) -> str:
        """The path of a layer's blob whose digest and size were compared. Raises ImageError."""
        layer = self.layers[index]
        path = self.layout.blob(layer.get("digest"))
        size = os.path.getsize(path)
        if size != layer.get("size"):
            raise ImageError(f"layer {layer['digest']} has {size} bytes, not {layer.get('size')}")
        if of_file(path, done) != layer["digest"]:
            raise ImageError(f"layer {layer['digest']} does not have that digest: it is damaged")
        return path

    def copy_layers(self, layout: Layout) -> None:
        """Have this image's layers in another layout, their digests checked. Raises ImageError, OSError."""
        for index, layer in enumerate(self.layers):
            path = self.check_layer(index)
            if os.path.exists(f"{layout.path}/blobs/sha256/{layer['digest'][7:]}"):
                continue
            blob = layout.new_blob()
            try:
                with open(path, "rb") as file:
                    while data := file.read(_CHUNK):
                        blob.write(data)
            except BaseException:
                blob.drop()
                raise
            blob.keep(layer["digest"])

    def open_layer(self, index: int) -> OpenLayer:
        """A layer as a tar stream that is hashed while it is read."""
        path = self.layout.blob(self.layers[index].get("digest"))
        return OpenLayer(path, str(self.layers[index].get("digest"))[:19], self.diff_ids[index])


class _Hashing:
    """A stream whose bytes are hashed as they pass."""

    def __init__(self, file: compress.Stream) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def readinto(self, buffer: memoryview) -> int:
        count = self._file.readinto(buffer)
        if count:
            self.hash.update(buffer[:count])
        return count


class OpenLayer:
    """A context: a layer's file, and what reads it. `finish` compares its diff_id once all is read."""

    def __init__(self, path: str, name: str, diff_id: Any) -> None:
        self._raw = open(path, "rb")  # noqa: SIM115  (closed at the context's end)
        kind = compress.kind_of(self._raw.read(6))
        self._raw.seek(0)
        self._name = name
        self._diff_id = diff_id
        self._hashing = _Hashing(compress.reader(self._raw, kind))
        self._ahead = ReadAhead(self._hashing)
        self._stream = io.BufferedReader(self._ahead, _CHUNK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._raw.close()

    def reader(self, most: int = 1 << 60, most_entries: int = 1 << 40) -> LayerReader:
        return LayerReader(self._stream, self._name, most, most_entries)

    def copy(self, target: IO[bytes]) -> None:
        """Write the whole tar stream to a file. Raises ImageError where it is damaged, OSError."""
        reader = self.reader()
        buffer = memoryview(bytearray(_CHUNK))
        while count := reader.raw(buffer):
            target.write(buffer[:count])

    def finish(self) -> None:
        """Raises ImageError where the content is not what the config says. Everything must have been read."""
        if f"sha256:{self._hashing.hash.hexdigest()}" != self._diff_id:
            raise ImageError(f"layer {self._name}: its content is not that of diff_id {self._diff_id!r}")


def _object(value: dict[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    if not isinstance(found, dict):
        raise ImageError(f"the image has no {key}")
    return found


def open_image(layout: Layout, name: str = "") -> Image:
    """The image of a name in a layout; without one the only image there. Raises ImageError."""
    layout.open()
    entries = objects(layout.index(), "manifests", layout.path)
    found = [entry for entry in entries if not name or name in (_name_of(entry), entry.get("digest"))]
    if not found:
        names = ", ".join(sorted(filter(None, map(_name_of, entries)))) or "none with a name"
        raise ImageError(f"{layout.path} has no image {name}".rstrip(), f"it has: {names}")
    if len({entry.get("digest") for entry in found}) > 1:
        if name:
            found = [of_here(found, layout.path)]
        else:
            names = ", ".join(filter(None, map(_name_of, entries)))
            raise ImageError(f"{layout.path} has several images", f"name one: {layout.path}:NAME of {names}")
    return image_of(layout, found[0])


def image_of(layout: Layout, descriptor: dict[str, Any]) -> Image:
    """The image of a descriptor; of an index this machine's. Raises ImageError."""
    for _ in range(4):
        if descriptor.get("mediaType") not in (INDEX, *LISTS):
            return Image(layout, descriptor)
        descriptor = of_here(objects(layout.json(descriptor.get("digest")), "manifests", layout.path), layout.path)
    raise ImageError(f"{layout.path}: indexes of indexes of indexes")


def _name_of(entry: dict[str, Any]) -> str:
    notes = entry.get("annotations")
    return str(notes.get(REF_NAME, "")) if isinstance(notes, dict) else ""


def of_here(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """This machine's entry of an index with several platforms. Raises ImageError where there is none."""
    machine = ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    for entry in entries:
        platform = entry.get("platform")
        if isinstance(platform, dict) and platform.get("architecture") == machine and platform.get("os") == "linux":
            return entry
    if len(entries) == 1:
        return entries[0]
    raise ImageError(f"{name} has no image for linux/{machine}")
