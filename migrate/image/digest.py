"""Digests of blobs: "sha256:" and 64 hexadecimal digits, nothing else. Source: image-spec, descriptor.md."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from ...compat.errors import JoeyError

if TYPE_CHECKING:
    from collections.abc import Callable

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageError(JoeyError):
    """An image is damaged, or not what it says it is."""

    slug = "image"


def check(digest: object) -> str:
    """The digest, if it is one. Raises ImageError: it becomes part of a path."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ImageError(f"{digest!r} is not a sha256 digest")
    return digest


def of_file(path: str, done: Callable[[int], object] = lambda count: None) -> str:
    """The digest of a file; `done` is told the size of each piece. Raises OSError."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            found.update(data)
            done(len(data))
    return f"sha256:{found.hexdigest()}"


def of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
