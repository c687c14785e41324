"""What every source gives: a tree to read, what it is called, and how it can be told from others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..inventory.application import Application
    from ..trees.entry import Entry, Tree


class Options:
    """How a source is to be read. `reader` is "" for the best that works; `work` a folder for what it takes."""

    def __init__(self, work: str) -> None:
        self.work = work
        self.reader = ""
        self.root_volume = ""
        self.skipped_mounts: list[str] = []
        self.backing = False
        self.ssh_options: list[str] = []
        self.insecure = False
        self.kind = ""
        self.prefix = ""
        self.root = ""  # where a minimal root below an application is taken from
        self.root_paths: list[str] = []


class Opened:
    """A source that is open. `facts` go into the image's annotations and the recipe; `notes` into the report."""

    def __init__(self, tree: Tree, kind: str, title: str) -> None:
        self.tree = tree
        self.kind = kind
        self.title = title
        self.facts: dict[str, str] = {}
        self.notes: list[str] = []
        self.settings: dict[str, Any] = {}  # of an image: its config's `config`
        self.architecture = ""
        self.about: dict[str, Any] = {}  # and what else that says of it: author, variant
        self.annotations: dict[str, str] = {}  # of its manifest
        self.application: Application | None = None


class Source(Protocol):
    """A context whose value is the opened source; what it mounted or made is gone after it."""

    def __enter__(self) -> Opened: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def complete(self, wants: Callable[[Entry], bool]) -> None:
        """Have everything at hand that is wanted of the tree; until then only what an inventory reads need be."""

    def digest(self) -> str:
        """What the source was, as "sha256:...", or "" where it has no fixed bytes. May be waited for."""
