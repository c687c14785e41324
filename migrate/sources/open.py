"""Which source a command line names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ...compat.errors import UsageError
from ..disks.ova import is_appliance
from ..image import archive
from .application import ApplicationSource, is_archive, is_single
from .contract import Options
from .disk import DiskSource
from .packages import PackagesSource, is_package

if TYPE_CHECKING:
    from collections.abc import Callable

    from .contract import Source


def source_of(words: list[str], options: Options, done: Callable[[str, float], None]) -> Source:
    """The source of a command line's words. Raises UsageError."""
    if not options.root:
        if options.root_paths:
            raise UsageError("--root-path is for --root-from")
        return _source_of(words, options, done)
    if options.root.startswith("ssh://"):
        hint = f"joey migrate {options.root} --to oci:DIR:NAME, then --root-from oci:DIR:NAME"
        raise UsageError("--root-from: a live host is no root to take from", hint)
    from .minimal import MinimalSource

    below = Options(os.path.join(options.work, "root"))
    os.makedirs(below.work, exist_ok=True)
    below.reader, below.backing, below.ssh_options = options.reader, options.backing, options.ssh_options
    below.insecure, below.kind = options.insecure, "machine"
    root = _source_of([options.root], below, done)
    return MinimalSource(_source_of(words, options, done), root, options.root_paths, options.root)


def _source_of(words: list[str], options: Options, done: Callable[[str, float], None]) -> Source:
    if any(word.startswith("ssh://") for word in words):
        from .host import HostSource

        if len(words) > 1:
            raise UsageError("a host is a source of its own", f"give {words[0]} alone")
        return HostSource(words[0], options, done)
    words = [_image_at(word) for word in words]
    for word in words:
        transport = word.partition(":")[0]
        if transport in ("oci", "docker-archive", "docker") and ":" in word and not os.path.lexists(word):
            from ..image.reference import parse
            from .image import ImageSource

            if len(words) > 1:
                raise UsageError("an image is a source of its own", f"give {word} alone")
            return ImageSource(parse(word, ("oci", "docker-archive", "docker")), options, done)
    if any(is_package(word) for word in words):
        if other := [word for word in words if not is_package(word)]:
            raise UsageError(f"{other[0]} is no package", "packages are a source of their own")
        return PackagesSource(words, options, done)
    for word in words:
        if not os.path.lexists(word):
            raise UsageError(
                f"there is no {word}",
                "disk images of one machine, a folder, ssh://HOST, or oci:DIR:NAME",
            )
        if os.path.isdir(word) or (not is_appliance(word) and (is_archive(word) or is_single(word))):
            if len(words) > 1:
                raise UsageError("a folder or an archive is a source of its own", f"give {word} alone")
            return ApplicationSource(word, options, done)
    return DiskSource(words, options, done)


def _image_at(path: str) -> str:
    """An image that is given by its path alone, as a reference; any other word as it is."""
    if os.path.isfile(os.path.join(path, "oci-layout")) and os.path.isfile(os.path.join(path, "index.json")):
        return f"oci:{path}"
    if os.path.isfile(path) and archive.is_archive(path):
        return f"docker-archive:{path}"
    return path
