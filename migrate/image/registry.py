"""A registry's side of images: blobs and manifests, in pieces that can be taken up again.

Source: OCI distribution-spec 1.1.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import time
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from . import digest as digests
from .connection import TRIES, Again, Connection, RegistryError, drain, joined, split
from .digest import ImageError
from .layout import INDEX, LARGEST_JSON, MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_ACCEPT = ", ".join((INDEX, MANIFEST, _DOCKER_LIST, _DOCKER_MANIFEST))
CHUNK = 16 << 20
_READ = 1 << 18


class Registry(Connection):
    """The manifests and blobs of one repository."""

    def manifest(self, reference: str) -> tuple[bytes, str, str]:
        """(text, media type, digest) of a manifest or index. Raises RegistryError, ImageError."""
        response = self.request("GET", self.url(f"manifests/{reference}"), {"Accept": _ACCEPT})
        data = self._all(response)
        if len(data) > LARGEST_JSON:
            raise ImageError(f"{self.name}: a manifest of more than {LARGEST_JSON >> 20} MiB")
        digest = digests.of(data)
        if ":" in reference and digest != reference:
            raise ImageError(f"{self.name}: the manifest that was sent does not have the digest {reference}")
        kind = (response.headers.get("Content-Type") or "").partition(";")[0].strip()
        return data, kind, digest

    def _all(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read(LARGEST_JSON + 1)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise RegistryError(f"{self.name}: the manifest was cut off: {error}", "the same command goes on") from None

    def _rest(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read(1)
        except (OSError, ValueError, http.client.HTTPException):
            return b""  # what is needed is there, and its digest will tell

    def put_manifest(self, data: bytes, media_type: str, reference: str) -> None:
        self.actions = "pull,push"
        url = self.url(f"manifests/{reference}")
        self.request("PUT", url, {"Content-Type": media_type}, data).read(LARGEST_JSON)

    def has(self, digest: str) -> bool:
        response = self.request("HEAD", self.url(f"blobs/{digest}"), allowed=(404,))
        response.read()
        return response.status == 200

    def push(self, digest: str, file: IO[bytes], size: int, done: Callable[[int], None]) -> None:
        """Send a blob in pieces; what a broken connection cut off is taken up where the registry has it.

        `done` is told how many bytes are there. Raises RegistryError, OSError.
        """
        self.actions = "pull,push"
        try:
            self._push(digest, file, size, done)
        except Again as error:
            raise self._broken(1, error) from None

    def _push(self, digest: str, file: IO[bytes], size: int, done: Callable[[int], None]) -> None:
        if self.has(digest):
            done(size)
            return
        location, at = self._begin(), 0
        broken = 0
        while at < size:
            file.seek(at)
            data = file.read(min(CHUNK, size - at))
            if not data:
                raise ImageError(f"the blob {digest} is shorter than it says")
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{at}-{at + len(data) - 1}"}
            try:
                response = self.once("PATCH", location, headers, data)
            except Again as error:
                trouble = error
            else:
                if response.status < 400:
                    location = self._next(response, location)
                    at += len(data)
                    done(at)
                    continue
                if response.status not in (404, 416):  # it has more, or less, than was thought
                    raise self.refusal(response)
                drain(response)
                trouble = Again(f"status {response.status}")
            broken += 1
            if broken >= TRIES:
                raise self._broken(broken, trouble)
            time.sleep(0.5 * broken)
            location, at = self._where(location)
            done(at)
        end = location + ("&" if "?" in location else "?") + "digest=" + quote(digest, safe="")
        self.request("PUT", end, {"Content-Length": "0"}).read(LARGEST_JSON)

    def _broken(self, count: int, error: Again) -> RegistryError:
        return RegistryError(
            f"{self.name.host}: the connection broke {count} times: {error}", "the same command goes on"
        )

    def _next(self, response: http.client.HTTPResponse, url: str) -> str:
        """Where the next piece goes. It stays with this registry: what is sent there has its credentials."""
        drain(response)
        location = joined(url, response.headers.get("Location", ""), self.name.host)
        parts = split(location, self.name.host)
        if (parts.scheme, parts.netloc) != (self.scheme, self.address):
            raise RegistryError(f"{self.name.host} wants the upload to go to {parts.netloc}")
        return location

    def _begin(self) -> str:
        """Where the first piece of a new upload goes."""
        url = self.url("blobs/uploads/")
        return self._next(self.request("POST", url, {"Content-Length": "0"}), url)

    def _where(self, location: str) -> tuple[str, int]:
        """How far an upload came, and where it goes on. Some registries forget one that broke amid a piece."""
        response = self.request("GET", location, allowed=(404, 416))
        if response.status >= 400:
            drain(response)
            return self._begin(), 0
        found = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", response.headers.get("Range", ""))
        end = int(found[1]) if found else 0
        if response.headers.get("Location"):
            return self._next(response, location), end + 1 if end else 0
        drain(response)
        return location, end + 1 if end else 0

    def pull(self, digest: str, size: int, target: IO[bytes], done: Callable[[int], None]) -> None:
        """Fetch a blob of a size to the end of a file that has its beginning; its digest is checked.

        Raises RegistryError, ImageError, OSError.
        """
        found = hashlib.sha256()
        target.seek(0)
        at = 0
        while data := target.read(_READ):
            found.update(data)
            at += len(data)
        broken = 0
        while at < size:
            try:
                at = self._fetch(digest, size, target, at, found, done)
            except Again as error:
                at = target.tell()
                broken += 1
                if broken >= TRIES:
                    raise self._broken(broken, error) from None
                time.sleep(0.5 * broken)
        if at != size or f"sha256:{found.hexdigest()}" != digest:
            target.truncate(0)
            raise ImageError(f"{self.name}: the blob {digest} that was sent does not have that digest")

    def _fetch(
        self, digest: str, size: int, target: IO[bytes], at: int, found: Any, done: Callable[[int], None]
    ) -> int:
        headers = {"Range": f"bytes={at}-"} if at else {}
        response = self.request("GET", self.url(f"blobs/{digest}"), headers)
        if at and response.status != 206:
            skipped = 0  # it knows no ranges: what is there already is passed over
            while skipped < at:
                data = self._read(response, min(_READ, at - skipped))
                skipped += len(data)
        while at < size:
            data = self._read(response, min(_READ, size - at))
            target.write(data)
            found.update(data)
            at += len(data)
            done(at)
        if self._rest(response):
            raise ImageError(f"{self.name}: the blob {digest} has more than the {size} bytes it says")
        return at

    def _read(self, response: http.client.HTTPResponse, size: int) -> bytes:
        try:
            data = response.read(size)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Again(str(error) or type(error).__name__) from None
        if not data:
            self.close()
            raise Again("it ended too soon")
        return data
