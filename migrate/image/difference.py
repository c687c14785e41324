"""What differs between two images: paths added, removed and changed, each with what of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from ..trees.paths import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..progress import Progress
    from .read import Image

_CHUNK = 1 << 18
_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


class Facts(NamedTuple):
    """What is compared of an entry; `content` is a digest, a link's target or a device's number."""

    kind: str
    mode: int
    owner: str
    mtime: int
    size: int
    content: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]


class Difference(NamedTuple):
    """`sign` is "+", "-" or "*"; `what` names what changed."""

    sign: str
    path: bytes
    what: str


def facts_of(image: Image, progress: Progress) -> dict[bytes, Facts]:
    """Every path of an image with its layers applied. Raises ImageError, OSError."""
    found: dict[bytes, Facts] = {}
    for index in range(len(image.layers)):
        progress.stage(f"reading layer {index + 1} of {len(image.layers)} of {image.descriptor['digest'][:19]}")
        image.check_layer(index)
        with image.open_layer(index) as layer:
            reader = layer.reader()
            made: set[bytes] = set()
            buffer = memoryview(bytearray(_CHUNK))
            for entry in reader:
                folder, _, name = entry.path.rpartition(b"/")
                if name == _OPAQUE:
                    _drop(found, folder, made)
                    continue
                if name.startswith(_WHITEOUT):
                    hidden = (folder + b"/" if folder else b"") + name[len(_WHITEOUT) :]
                    _drop(found, hidden, set())
                    found.pop(hidden, None)
                    continue
                made.add(entry.path)
                if entry.first:
                    first = found.get(entry.first)
                    if first is not None:
                        found[entry.path] = first
                    continue
                known = found.get(entry.path)
                if entry.kind != "directory" and known is not None and known.kind == "directory":
                    _drop(found, entry.path, set())
                content = entry.target or (b"%d" % entry.device if entry.device else b"")
                if entry.open is not None:
                    digest = hashlib.sha256()
                    stream = entry.open()
                    while count := stream.readinto(buffer):
                        digest.update(buffer[:count])
                    content = digest.digest()
                owner = f"{entry.uid}:{entry.gid}"
                found[entry.path] = Facts(
                    entry.kind, entry.mode & 0o7777, owner, entry.mtime, entry.size, content, entry.xattrs
                )
                progress.at(reader.unpacked)
            layer.finish()
    return found


def _drop(found: dict[bytes, Facts], folder: bytes, keep: set[bytes]) -> None:
    """Forget what is below a folder, which may have no entry of its own."""
    known = found.get(folder)
    if folder and known is not None and known.kind != "directory":
        return
    prefix = folder + b"/" if folder else b""
    for path in [path for path in found if path and path.startswith(prefix) and path not in keep]:
        del found[path]


def differences(old: dict[bytes, Facts], new: dict[bytes, Facts], times: bool) -> Iterator[Difference]:
    """The differences by path; those of time alone only where asked for."""
    for path in sorted(old.keys() | new.keys(), key=in_order):
        before, after = old.get(path), new.get(path)
        if before is None:
            assert after is not None
            yield Difference("+", path, after.kind)
        elif after is None:
            yield Difference("-", path, before.kind)
        elif before != after:
            names = [
                name for name in Facts._fields
                if getattr(before, name) != getattr(after, name) and (times or name != "mtime")
            ]  # fmt: skip
            if names:
                yield Difference("*", path, ", ".join(names))
