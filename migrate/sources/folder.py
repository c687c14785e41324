"""A directory as a machine's root file system: an unpacked archive, a chroot, a mounted disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..trees.folder import FolderTree
from .contract import Opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..trees.entry import Entry


class FolderSource:
    def __init__(self, path: str) -> None:
        self._tree = FolderTree(path)
        self._path = path

    def __enter__(self) -> Opened:
        opened = Opened(self._tree, "folder", os.path.basename(os.path.abspath(self._path)) or "/")
        opened.facts = {"reader": "folder"}
        return opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tree.close()

    def complete(self, wants: Callable[[Entry], bool]) -> None:
        """It is all here."""

    def digest(self) -> str:
        """A folder has no bytes of its own to name."""
        return ""
