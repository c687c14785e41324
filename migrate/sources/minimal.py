"""An application with a minimal root below it: of a given root file system only what the application wants."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from ...compat.errors import UsageError
from ..inventory.wanted import Wanted
from ..trees.joined import JoinedTree, RootTree
from .application import is_system

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..inventory.application import Application
    from ..trees.entry import Entry
    from .contract import Opened, Source


class MinimalSource:
    """`source` with what `root` has of it. Machines need none: what is below them is theirs."""

    def __init__(self, source: Source, root: Source, paths: list[str], title: str) -> None:
        self._source = source
        self._root = root
        self._paths = paths
        self._title = title
        self._picked: frozenset[bytes] = frozenset()
        self._opened = ExitStack()

    def __enter__(self) -> Opened:
        with ExitStack() as stack:
            found = stack.enter_context(self._source)
            if found.application is None:
                raise UsageError(
                    "--root-from is for applications",
                    "a machine has a root file system of its own, an image its layers",
                )
            self._join(found, found.application, stack.enter_context(self._root))
            self._opened = stack.pop_all()
        return found

    def _join(self, found: Opened, application: Application, below: Opened) -> None:
        if not is_system(below.tree):
            raise UsageError(f"{self._title} is no root file system", "it has neither /etc nor /usr")
        root = RootTree(below.tree)
        wanted = Wanted(root, found.tree)
        architecture = below.architecture or wanted.architecture
        if found.architecture and architecture and found.architecture != architecture:
            raise UsageError(f"{self._title} is {architecture}, the application {found.architecture}")
        found.architecture = application.architecture = found.architecture or architecture
        wanted.basics()
        wanted.application(application)
        for path in self._paths:
            wanted.named(path)
        wanted.close()
        self._picked = frozenset(wanted.paths)
        found.tree = JoinedTree(found.tree, root, wanted.paths)
        found.facts["root"] = self._title
        found.notes += [*below.notes, *wanted.told(self._title)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def complete(self, wants: Callable[[Entry], bool]) -> None:
        """Have what is wanted of both."""
        self._source.complete(wants)
        self._root.complete(lambda entry: entry.path in self._picked and wants(entry))

    def digest(self) -> str:
        """The application's."""
        return self._source.digest()
