"""The tree that an image's layers make: whiteouts applied, missing folders made up. Source: image-spec, layer.md."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from .entry import Entry
from .spool import SpoolTree

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"


class ArchiveTree(SpoolTree):
    """A tree of plain tar files, in which folders without an entry of their own are made up, as every unpacker does."""

    def finish(self) -> None:
        for path in list(_missing(self._entries)):
            self._entries[path] = Entry(path, stat.S_IFDIR | 0o755, 0, 0, 0)


class LayersTree(ArchiveTree):
    """A tree of layers that lie here as plain tar files, lowest first."""

    def keep(self, entry: Entry, made: set[bytes]) -> None:
        """Put an entry of a layer over what the layers below have. `made` is what this layer itself has so far."""
        folder, _, name = entry.path.rpartition(b"/")
        if name == _OPAQUE:
            self._drop_below(folder, made)
            return
        if name.startswith(_WHITEOUT):
            hidden = (folder + b"/" if folder else b"") + name[len(_WHITEOUT) :]
            self._entries.pop(hidden, None)
            self._drop_below(hidden, set())
            return
        known = self._entries.get(entry.path)
        if known is not None and known.kind == "directory" and entry.kind != "directory":
            self._drop_below(entry.path, set())
        made.add(entry.path)
        super().keep(entry, made)

    def _drop_below(self, folder: bytes, keep: set[bytes]) -> None:
        prefix = folder + b"/" if folder else b""
        for path in [path for path in self._entries if path and path.startswith(prefix) and path not in keep]:
            del self._entries[path]


def _missing(entries: dict[bytes, Entry]) -> Iterator[bytes]:
    found = {b""} | {path[:at] for path in entries for at in range(len(path)) if path[at] == 0x2F}
    return (path for path in found if path not in entries)
