"""Images between a layout and a registry. What is there already is not sent again."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from .connection import Name
from .digest import ImageError, of_file
from .digest import check as check_digest
from .layout import INDEX, MANIFEST, objects, parse
from .read import LISTS, Image, of_here
from .registry import Registry

if TYPE_CHECKING:
    from ..progress import Progress
    from .layout import Layout


def push(image: Image, name: Name, insecure: bool, progress: Progress) -> str:
    """Send an image: its blobs, then its manifest under a tag; its digest. Raises RegistryError, ImageError."""
    registry = Registry(name, insecure)
    try:
        blobs = [image.manifest["config"], *image.layers]
        progress.stage(f"pushing to {name}", sum(blob.get("size", 0) for blob in blobs))
        before = 0
        for blob in {blob["digest"]: blob for blob in blobs}.values():
            path = image.layout.blob(blob["digest"])
            size = os.path.getsize(path)
            with open(path, "rb") as file:
                registry.push(blob["digest"], file, size, partial(_at, progress, before))
            before += size
        with open(image.layout.blob(image.descriptor["digest"]), "rb") as file:
            data = file.read()
        media_type = image.manifest.get("mediaType") or image.descriptor.get("mediaType") or MANIFEST
        registry.put_manifest(data, str(media_type), name.reference)
        return str(image.descriptor["digest"])
    finally:
        registry.close()


def pull(name: Name, layout: Layout, tag: str, insecure: bool, progress: Progress) -> str:
    """Fetch this machine's image of a name into a layout; its manifest's digest. Raises RegistryError, ImageError."""
    registry = Registry(name, insecure)
    try:
        data, media_type, digest = registry.manifest(name.reference)
        for _ in range(4):
            value = parse(data, str(name))
            if (value.get("mediaType") or media_type) not in (INDEX, *LISTS):
                break
            chosen = of_here(objects(value, "manifests", str(name)), str(name))
            data, media_type, digest = registry.manifest(check_digest(chosen.get("digest")))
        else:
            raise ImageError(f"{name}: indexes of indexes of indexes")
        blobs = objects({"blobs": [value.get("config"), *objects(value, "layers", str(name))]}, "blobs", str(name))
        before = 0
        if not all("size" in blob for blob in blobs):
            raise ImageError(f"{name}: a blob without a size")
        progress.stage(f"pulling {name}", sum(blob["size"] for blob in blobs))
        for blob in blobs:
            _pull_blob(registry, blob, layout, before, progress)
            before += blob["size"]
        layout.put(data)
        layout.tag({"mediaType": value.get("mediaType") or media_type, "digest": digest, "size": len(data)}, tag)
        return digest
    finally:
        registry.close()


def _pull_blob(registry: Registry, blob: dict[str, Any], layout: Layout, before: int, progress: Progress) -> None:
    digest = check_digest(blob.get("digest"))
    target = f"{layout.path}/blobs/sha256/{digest.partition(':')[2]}"
    if os.path.isfile(target) and os.path.getsize(target) == blob["size"] and of_file(target) == digest:
        return
    partial = f"{layout.path}/blobs/sha256/.partial-{digest.partition(':')[2]}"
    fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    with open(fd, "r+b") as file:
        registry.pull(digest, blob["size"], file, lambda count: progress.at(before + count))
        file.flush()
        os.fsync(file.fileno())
    os.rename(partial, target)


def _at(progress: Progress, before: int, count: int) -> None:
    progress.at(before + count)
