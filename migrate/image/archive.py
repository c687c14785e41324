"""A docker-archive: what `docker save` writes, and `docker load`, `podman load` and skopeo read.

An image layout in a tar, with the manifest.json of old engines beside its index. Source: moby image/spec 1.2.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from typing import TYPE_CHECKING, Any

from ...compat.errors import JoeyError
from .digest import ImageError
from .layout import LARGEST_JSON, Layout, encoded, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from .read import Image

_MOST_MEMBERS = 20_000
_FIRST_MEMBERS = 3
_SAVED = re.compile(r"blobs/sha256(/|$)|[0-9a-f]{64}(/|\.json$|\.tar$|$)")


def write(image: Image, path: str, name: str, done: Callable[[int], None] = lambda count: None) -> None:
    """Write an image to an archive, complete or not at all. `name` is NAME:TAG, or "". Raises OSError."""
    temporary = f"{path}.{os.getpid()}.tmp"
    blobs = [image.descriptor["digest"], image.manifest["config"]["digest"]]
    blobs += [layer["digest"] for layer in image.layers]
    saved = [
        {
            "Config": _place(image.manifest["config"]["digest"]),
            "RepoTags": [name if ":" in name.rpartition("/")[2] else f"{name}:latest"] if name else [],
            "Layers": [_place(layer["digest"]) for layer in image.layers],
        }
    ]
    index = image.layout.index()
    index["manifests"] = [image.descriptor]
    total = 0
    try:
        with open(temporary, "xb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for title, data in (
                    ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
                    ("index.json", encoded(index)),
                    ("manifest.json", json.dumps(saved).encode()),
                ):
                    archive.addfile(_info(title, len(data)), io.BytesIO(data))
                for digest in dict.fromkeys(blobs):
                    source = image.layout.blob(digest)
                    with open(source, "rb") as blob:
                        size = os.fstat(blob.fileno()).st_size
                        archive.addfile(_info(_place(digest), size), blob)
                    total += size
                    done(total)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise


def _place(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info


def extract(path: str, layout: Layout) -> None:
    """Put the images of an archive into a layout of their own: a newer one's as they are, an older one's made of it.

    Raises ImageError, OSError.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            members: dict[str, tarfile.TarInfo] = {}
            for member in archive:
                if len(members) >= _MOST_MEMBERS:
                    raise ImageError(f"{path} has more than {_MOST_MEMBERS} entries")
                members[member.name.removeprefix("./")] = member
            if "manifest.json" not in members:
                raise ImageError(f"{path} is no docker-archive: it has no manifest.json")
            saved = json.loads(_read(archive, members, "manifest.json", path))
            if not isinstance(saved, list) or not saved or not all(isinstance(item, dict) for item in saved):
                raise ImageError(f"{path}: its manifest.json lists no image")
            for item in saved:
                _add(archive, members, item, layout, path)
    except (tarfile.TarError, EOFError, ValueError, TypeError, RecursionError) as error:
        raise ImageError(f"{path} is a damaged archive: {error}") from None


def _read(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: Any, path: str) -> bytes:
    member = members.get(name) if isinstance(name, str) else None
    file = archive.extractfile(member) if member is not None and member.isreg() else None
    if file is None or member is None or member.size > LARGEST_JSON:
        raise ImageError(f"{path}: {name!r} is not in it, or too large")
    return file.read()


def _add(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], item: Any, layout: Layout, path: str) -> None:
    """One image of an archive, as a manifest with its blobs in the layout."""
    from . import compress
    from .build import descriptor
    from .layout import CONFIG, MANIFEST

    config = _read(archive, members, item.get("Config"), path)
    parse(config, f"{path}: {item.get('Config')}")
    layers = []
    if not isinstance(item.get("Layers"), list):
        raise ImageError(f"{path}: an image without a list of layers")
    for name in item["Layers"]:
        member = members.get(name)
        for _ in range(8):  # an old engine saves a layer that is there twice as a link
            if member is None or not member.issym():
                break
            member = members.get(os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname)))
        file = archive.extractfile(member) if member is not None and member.isreg() else None
        if file is None or member is None:
            raise ImageError(f"{path}: the layer {name!r} is not in it")
        digest, head = _store(file, layout)
        kind = compress.kind_of(head)
        layers.append(descriptor(compress.MEDIA_TYPES.get(kind, compress.LAYER), digest, member.size))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, layout.put(config), len(config)),
        "layers": layers,
    }
    text = encoded(manifest)
    found = descriptor(MANIFEST, layout.put(text), len(text))
    for name in item.get("RepoTags") or [""]:
        layout.tag(found, str(name))


def _store(file: Any, layout: Layout) -> tuple[str, bytes]:
    import hashlib

    blob = layout.new_blob()
    found = hashlib.sha256()
    head = b""
    try:
        while data := file.read(1 << 20):
            head = head or data[:8]
            found.update(data)
            blob.write(data)
    except BaseException:
        blob.drop()
        raise
    digest = f"sha256:{found.hexdigest()}"
    blob.keep(digest)
    return digest, head


def check_target(path: str) -> None:
    """Raises JoeyError where an archive can't be put."""
    if os.path.lexists(path):
        raise JoeyError(f"{path} is there already", "remove it, or name another file", "exists")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise JoeyError(f"there is no folder {os.path.dirname(path)}", slug="exists")


def is_archive(path: str) -> bool:
    """Whether a file is what `docker save` writes, compressed or not, by the names of its first members."""
    try:
        with tarfile.open(path, "r:*") as archive:
            for _ in range(_FIRST_MEMBERS):
                member = archive.next()
                if member is None:
                    return False
                name = member.name.removeprefix("./")
                if name == "oci-layout" or _SAVED.match(name):
                    return True
                if name == "manifest.json":  # web applications have one, too
                    value = json.loads(_read(archive, {name: member}, name, path))
                    return isinstance(value, list) and all("Layers" in item for item in value)
    except (tarfile.TarError, EOFError, OSError, ValueError, TypeError, ImageError):
        pass
    return False
