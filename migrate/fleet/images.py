"""Images to hosts: an OCI image layout each in /var/lib/joey/images/NAME; what a host has already is not sent.

Every digest is checked here as the image is read, and there as its blobs arrive.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from ..image.layout import INDEX, REF_NAME, Layout
from ..image.read import open_image
from ..image.reference import parse
from .link import LinkError, Stream, script

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .link import Link

FOLDER = "/var/lib/joey/images"
_CHUNK = 1 << 18
_LARGEST_LIST = 8 << 20
_LINE = re.compile(r"(\d{1,15}) ([0-9a-f]{64})")


class Blob(NamedTuple):
    """`name` is its SHA-256 in hexadecimal."""

    name: str
    path: str
    size: int


class Image:
    """An image of a layout on this machine. Raises ImageError, UsageError."""

    def __init__(self, reference: str) -> None:
        found = parse(reference, ("oci",), "oci")
        image = open_image(Layout(found.place), found.name)
        self.digest = str(image.descriptor["digest"])
        self.hexadecimal = self.digest.partition(":")[2]
        paths = [image.check_layer(index) for index in range(len(image.layers))]
        paths += [image.layout.blob(part["digest"]) for part in (image.manifest["config"], image.descriptor)]
        blobs = (Blob(os.path.basename(path), path, os.path.getsize(path)) for path in paths)
        self.blobs = list({blob.name: blob for blob in blobs}.values())
        self._descriptor = {key: image.descriptor.get(key) for key in ("mediaType", "digest", "size")}

    def index(self, name: str) -> bytes:
        entry = {**self._descriptor, "annotations": {REF_NAME: name}}
        return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()

    def stream(self, name: str, blobs: list[Blob]) -> Stream:
        """A tar of the layout with these blobs."""
        texts = {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": self.index(name),
            "names": "".join(f"{blob.name}\n" for blob in self.blobs).encode(),
        }
        sizes = [len(text) for text in texts.values()] + [blob.size for blob in blobs]
        total = sum(512 + -(-size // 512) * 512 for size in sizes) + 1024

        def chunks() -> Iterator[bytes]:
            for path, text in texts.items():
                yield _header(path, len(text)) + text + bytes(-len(text) % 512)
            for blob in blobs:
                yield _header(f"blobs/sha256/{blob.name}", blob.size)
                left = blob.size
                with open(blob.path, "rb") as file:
                    while left:
                        data = file.read(min(left, _CHUNK))
                        if not data:
                            raise LinkError(f"{blob.path} became shorter while it was sent")
                        left -= len(data)
                        yield data
                yield bytes(-blob.size % 512)
            yield bytes(1024)

        return Stream(total, chunks)


def _header(path: str, size: int) -> bytes:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT)  # larger than 8 GiB, too


def reference(name: str) -> str:
    """What the image is called on a host."""
    return f"oci:{FOLDER}/{name}:{name}"


class Sent(NamedTuple):
    """Bytes that the desk sent, and those that came from other hosts."""

    size: int
    shared: int


def missing(link: Link, image: Image, name: str) -> list[Blob] | None:
    """The blobs that a host does not have, after `become_root`; None where it has the image under that name."""
    done = link.run_as_root(script("image-has.sh", FOLDER, name), limit=_LARGEST_LIST)
    lines = done.out.decode("utf-8", "replace").splitlines()
    there = {match[2]: int(match[1]) for line in lines if (match := _LINE.fullmatch(line))}
    found = [blob for blob in image.blobs if there.get(blob.name) != blob.size]
    return None if not found and f"image {image.hexadecimal}.{name}" in lines else found


def send(link: Link, image: Image, name: str) -> Sent:
    """Have the image on the host under a name, after `become_root`. Raises LinkError."""
    blobs = missing(link, image, name)
    return Sent(0 if blobs is None else send_blobs(link, image, name, blobs), 0)


def send_blobs(link: Link, image: Image, name: str, blobs: list[Blob]) -> int:
    """Send those blobs and what tells that they are the image; how many bytes. Raises LinkError."""
    data = image.stream(name, blobs)
    room = str(data.size // 1024 + 1024)
    link.send(data, script("lock.sh") + script("image-send.sh", FOLDER, name, image.hexadecimal, room))
    return data.size
