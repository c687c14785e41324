"""What long work says while it goes on: a bar on a terminal, a line at its beginning elsewhere. To standard error."""

from __future__ import annotations

import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def of(what: str, unit: str, total: int = 0) -> Iterator[Callable[[int], None]]:
    """Say that work goes on; gives what to call with the number of units that are done. `total` 0 is not known."""
    if not sys.stderr.isatty():
        print(f"joey: {what}", file=sys.stderr)
        yield lambda count: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ImportError:  # a bare host
        print(f"joey: {what}", file=sys.stderr)
        yield lambda count: None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn(f"{{task.completed}} {unit}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total or None)
        yield lambda count: bar.update(task, completed=count)
