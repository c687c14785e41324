"""Rewritten files of the C library, one container's own."""

from __future__ import annotations

from ...compat import files
from ..state import State
from . import Step


class CopyLibraries(Step):
    """Give the container files of its own: whoever has CAP_SYS_ADMIN in it, by `exec` perhaps, can make a read-only
    mount writable again, and must not reach what other containers run."""

    __slots__ = ("copies", "state")

    def __init__(self, copies: list[tuple[str, str]], state: State) -> None:
        self.copies = copies  # source, target
        self.state = state

    def describe(self) -> str:
        return "copy rewritten libraries to " + " ".join(target for _, target in self.copies)

    def run(self) -> None:
        if any(target.startswith(f"{self.state.public}/") for _, target in self.copies):
            self.state.make_public()
        for source, target in self.copies:
            with open(source, "rb") as file:
                files.write_atomically(target, file.read(), 0o755)
