"""Rewritten files of the C library, for a container that could change them for others."""

from __future__ import annotations

from ...compat import files
from . import Step


class CopyLibraries(Step):
    """Give the container files of its own: with CAP_SYS_ADMIN it could make a read-only mount writable again."""

    __slots__ = ("copies",)

    def __init__(self, copies: list[tuple[str, str]]) -> None:
        self.copies = copies  # source, target

    def describe(self) -> str:
        return "copy rewritten libraries to " + " ".join(target for _, target in self.copies)

    def run(self) -> None:
        for source, target in self.copies:
            with open(source, "rb") as file:
                files.write_atomically(target, file.read(), 0o755)
