"""How far long work is: a bar with rate and time left on a terminal, a line per stage elsewhere. To standard error."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

from ..runtime.tables import plain

if TYPE_CHECKING:
    from types import TracebackType

_STEP = 0.1  # seconds between two drawings


class Progress:
    """A context. `stage` begins a new piece of work, `at` says how far it is; `quiet` says nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._what = ""
        self._next = 0.0

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            try:
                self._start()
            except ImportError:  # a bare host
                self._bar = None
        return self

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._bar.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def stage(self, what: str, total: int = 0) -> None:
        """New work: of `total` bytes, 0 for not known."""
        if what == self._what:
            return
        self._what = what
        if self._bar is None:
            if not self._quiet:
                print(f"joey: {plain(what)}", file=sys.stderr, flush=True)
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(plain(what), total=total or None)

    def at(self, count: int) -> None:
        """So many bytes are done."""
        if self._bar is not None and (now := time.monotonic()) >= self._next:
            self._next = now + _STEP
            self._bar.update(self._task, completed=count)

    def share(self, what: str, share: float) -> None:
        """Work of which only a share, 0 to 1, is known."""
        self.stage(what, 100)
        self.at(int(share * 100))
