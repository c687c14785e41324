"""Tables for people: rich on a terminal, plain aligned text in a pipe."""

from __future__ import annotations

import shutil
import sys

COLOURS = {"works": "green", "absent": "yellow", "blocked": "magenta", "broken": "red", "refused": "red"}


class Table:
    """Rows under a title and a header; a cell that is a known state is coloured on a terminal."""

    def __init__(self, title: str, *header: str) -> None:
        self.title = title
        self.header = list(header)
        self.rows: list[list[str]] = []

    def add(self, *cells: str) -> None:
        """A row; what a terminal would obey is escaped: names come from bundles, images and disks."""
        self.rows.append([plain(cell) for cell in cells])

    def print(self) -> None:
        """To standard output, in the way that suits it."""
        if not sys.stdout.isatty():
            self._print_plain()
            return
        try:
            self._print_rich()
        except ImportError:  # a bare host: joey itself needs nothing but the standard library
            self._print_plain()

    def _print_plain(self) -> None:
        print(f"{self.title}" if self.title else "", end="\n" if self.title else "")
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        for line in lines:
            print(("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))).rstrip())
        print()

    def _print_rich(self) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=self.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for place, name in enumerate(self.header):
            table.add_column(name, overflow="fold", no_wrap=place == 0)
        for row in self.rows:
            table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
        Console(width=shutil.get_terminal_size((120, 24)).columns).print(table)


def plain(text: str) -> str:
    """A text without what a terminal would obey, or could not show."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
