"""Rewritten files of the C library, one container's own."""

from __future__ import annotations

from ...compat import files
from . import Step


class CopyLibraries(Step):
    """Give the container files of its own: whoever has CAP_SYS_ADMIN in it, by `exec` perhaps, can make a read-only
    mount writable again, and must not reach what other containers run."""

    __slots__ = ("copies",)

    def __init__(self, copies: list[tuple[str, str]]) -> None:
        self.copies = copies  # source, target

    def describe(self) -> str:
        return "copy rewritten libraries to " + " ".join(target for _, target in self.copies)

    def run(self) -> None:
        for source, target in self.copies:
            with open(source, "rb") as file:
                files.write_atomically(target, file.read(), 0o755)
