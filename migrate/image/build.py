"""An image in the making: layers written side by side, then its config and manifest. Source: image-spec, config.md."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Self

from .layerwriter import LayerWriter, Written
from .layout import CONFIG, MANIFEST, encoded

if TYPE_CHECKING:
    from ..trees.entry import Entry
    from .layout import Blob, Layout
    from .read import Image

ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "386",
    "i386": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}


class LayerSet:
    """Layers of one image by name, lowest first, each made when its first entry comes.

    Every layer gets the directories above what is in it, so that none depends on another for them. Use as a context:
    what was not finished is thrown away.
    """

    def __init__(self, layout: Layout, kind: str, level: int) -> None:
        self._layout = layout
        self._kind = kind
        self._level = level
        self._open: dict[str, tuple[LayerWriter, Blob]] = {}
        self._stacks: dict[str, list[bytes]] = {}
        self.finished: dict[str, Written] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for writer, blob in self._open.values():
            writer.abort()
            blob.drop()
        self._open.clear()

    def add(self, layer: str, entry: Entry, parents: list[Entry]) -> None:
        """Add an entry to a layer. `parents` are the directories above it, the root first, as they shall be there."""
        if layer not in self._open:
            blob = self._layout.new_blob()
            self._open[layer] = LayerWriter(blob.fd, self._kind, self._level), blob
            self._stacks[layer] = []
        writer, stack = self._open[layer][0], self._stacks[layer]
        depth = 0
        while depth < len(stack) and depth < len(parents) and stack[depth] == parents[depth].path:
            depth += 1
        del stack[depth:]
        for parent in parents[depth:]:
            writer.add(parent)
            stack.append(parent.path)
        writer.add(entry)
        if entry.kind == "directory":
            stack.append(entry.path)

    def finish(self, order: list[str]) -> list[tuple[str, Written]]:
        """Close all layers; those that got an entry, in order."""
        found = []
        for name in order:
            if name in self._open:
                writer, blob = self._open[name]
                written = writer.close()
                blob.keep(written.digest)
                del self._open[name]
                found.append((name, written))
        return found


def moment(nanoseconds: int) -> str:
    """A time as RFC 3339, within the years that it can write."""
    seconds = min(max(nanoseconds // 1_000_000_000, 0), 253402300799)
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def write_image(
    layout: Layout,
    layers: list[tuple[str, Written]],
    config: dict[str, Any],
    architecture: str,
    created: str,
    annotations: dict[str, str],
    tag: str,
    base: Image | None = None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write an image's config and manifest, and name it in the index; the manifest's descriptor.

    `config` is the image config's `config` object. Annotations of a layer tell what it is. The layers of a `base` come
    below; they must be in the layout. `about` is what else the config says (author, variant).
    """
    below = base.config.get("history") if base else None
    history = [
        *(below if isinstance(below, list) else []),
        *({"created": created, "created_by": f"joey migrate: {name}"} for name, _ in layers),
    ]
    diff_ids = [*(base.diff_ids if base else []), *(written.diff_id for _, written in layers)]
    whole = {
        **(about or {}),
        "architecture": architecture,
        "os": "linux",
        "created": created,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": history,
    }
    data = encoded(whole)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, layout.put(data), len(data)),
        "layers": [
            *(base.layers if base else []),
            *(
                {
                    **descriptor(written.media_type, written.digest, written.size),
                    "annotations": {"io.joey.layer": name},
                }
                for name, written in layers
            ),
        ],
        "annotations": annotations,
    }
    text = encoded(manifest)
    found = {
        **descriptor(MANIFEST, layout.put(text), len(text)),
        "platform": {"architecture": architecture, "os": "linux"},
    }
    layout.tag(found, tag)
    return found
