"""An OCI image layout in a folder: written so that a killed joey leaves the images that were there, and no half one.

Source: image-spec, image-layout.md, image-index.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from typing import Any

from ...compat.errors import JoeyError
from ...compat.files import drop_abandoned, write_all
from . import digest as digests
from .digest import ImageError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
LARGEST_JSON = 8 << 20
_TEMPORARY = ".joey-"


class Layout:
    """An image layout. Several joeys may write to it at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = -1

    def create(self) -> None:
        """Make the layout, or take one that is there; whoever held it and was killed left files that go now."""
        os.makedirs(self.path, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another joey writes to it now: what is unfinished there may be its own
                fcntl.flock(self._lock, fcntl.LOCK_SH)  # once it has made it
                self._make()
            else:
                self._make()
                for name in os.listdir(f"{self.path}/blobs/sha256"):
                    if name.startswith(_TEMPORARY):
                        os.unlink(f"{self.path}/blobs/sha256/{name}")
                for name in ("oci-layout", "index.json"):
                    drop_abandoned(f"{self.path}/.{name}")
                fcntl.flock(self._lock, fcntl.LOCK_SH)
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        if not os.path.isfile(f"{self.path}/oci-layout"):
            ours = ("blobs", ".oci-layout.")  # of one that was killed before it had made it
            if not all(name.startswith(ours) for name in os.listdir(self.path)):
                raise JoeyError(
                    f"{self.path} is there already, and no OCI image layout", "name an empty or new folder", "exists"
                )
            self._replace("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        os.makedirs(f"{self.path}/blobs/sha256", exist_ok=True)

    def open(self) -> None:
        """Check that it is one. Raises ImageError."""
        try:
            with open(f"{self.path}/oci-layout", "rb") as file:
                version = json.loads(file.read(4096)).get("imageLayoutVersion")
        except (OSError, ValueError, AttributeError):
            raise ImageError(f"{self.path} is not an OCI image layout: it has no oci-layout file") from None
        if version != "1.0.0":
            raise ImageError(f"{self.path} is an image layout of version {version!r}; joey reads 1.0.0")

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _replace(self, name: str, data: bytes) -> None:
        temporary = f"{self.path}/.{name}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, f"{self.path}/{name}")

    def index(self) -> dict[str, Any]:
        """index.json, or an empty one. Raises ImageError."""
        try:
            with open(f"{self.path}/index.json", "rb") as file:
                found = parse(file.read(LARGEST_JSON + 1), f"{self.path}/index.json")
        except FileNotFoundError:
            return {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        objects(found, "manifests", f"{self.path}/index.json")
        return found

    def new_blob(self) -> Blob:
        """A file for a blob to come, whose name will be its digest."""
        return Blob(f"{self.path}/blobs/sha256")

    def put(self, data: bytes) -> str:
        """Add a small blob; its digest."""
        blob = self.new_blob()
        try:
            blob.write(data)
        except BaseException:
            blob.drop()
            raise
        digest = digests.of(data)
        blob.keep(digest)
        return digest

    def blob(self, digest: object) -> str:
        """The path of a blob. Raises ImageError where there is none, or it is a link."""
        path = f"{self.path}/blobs/sha256/{digests.check(digest).partition(':')[2]}"
        if os.path.islink(path) or not os.path.isfile(path):
            raise ImageError(f"{self.path} has no blob {digest}")
        return path

    def json(self, digest: object) -> dict[str, Any]:
        """A blob that is JSON, its digest checked. Raises ImageError."""
        path = self.blob(digest)
        with open(path, "rb") as file:
            data = file.read(LARGEST_JSON + 1)
        if len(data) > LARGEST_JSON:
            raise ImageError(f"{path} has more than {LARGEST_JSON >> 20} MiB: too large for JSON of an image")
        if hashlib.sha256(data).hexdigest() != str(digest).partition(":")[2]:
            raise ImageError(f"the blob {digest} of {self.path} does not have that digest")
        return parse(data, path)

    def tag(self, descriptor: dict[str, Any], name: str) -> None:
        """Put a manifest into the index under a name, in the place of what had that name."""
        lock = os.open(f"{self.path}/blobs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._tag(descriptor, name)
        finally:
            os.close(lock)

    def _tag(self, descriptor: dict[str, Any], name: str) -> None:
        index = self.index()
        kept = [entry for entry in index["manifests"] if (entry.get("annotations") or {}).get(REF_NAME) != name]
        index["manifests"] = [
            *kept,
            {**descriptor, "annotations": {**descriptor.get("annotations", {}), REF_NAME: name}},
        ]
        self._replace("index.json", encoded(index))


class Blob:
    """A blob that is being written: kept under its digest, or thrown away."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = f"{folder}/{_TEMPORARY}{secrets.token_hex(8)}"
        self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes) -> None:
        """Write all of it. Raises OSError."""
        write_all(self.fd, data)

    def keep(self, digest: str) -> None:
        """Give it its name; a blob of that name and size that is there already stays."""
        target = f"{self._folder}/{digests.check(digest).partition(':')[2]}"
        if os.path.isfile(target) and os.path.getsize(target) == os.fstat(self.fd).st_size:
            self.drop()
            return
        os.fsync(self.fd)
        os.close(self.fd)
        os.rename(self._path, target)

    def drop(self) -> None:
        os.close(self.fd)
        os.unlink(self._path)


def parse(data: bytes, name: str) -> dict[str, Any]:
    """JSON that is an object. Raises ImageError."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{name} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ImageError(f"{name} is not a JSON object")
    return value


def objects(value: dict[str, Any], key: str, name: str, most: int = 100_000) -> list[dict[str, Any]]:
    """A list of descriptors: each an object whose size, digest and annotations are what they must be.

    Raises ImageError.
    """
    found = value.get(key)
    if not isinstance(found, list) or len(found) > most:
        raise ImageError(f"{name}: its {key} are no list, or one of more than {most}")
    for item in found:
        if not isinstance(item, dict):
            raise ImageError(f"{name}: its {key} are no list of objects")
        size, notes = item.get("size", 0), item.get("annotations") or {}
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 50:
            raise ImageError(f"{name}: a size of {size!r} among its {key}")
        if not isinstance(notes, dict) or not all(isinstance(word, str) for word in notes.values()):
            raise ImageError(f"{name}: annotations among its {key} that are no texts")
    return found


def encoded(value: dict[str, Any]) -> bytes:
    """The same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
