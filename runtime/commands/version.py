"""`joey version`: the same as `joey --version`."""

from __future__ import annotations

from ..cli import version
from ..options import Arguments, Command


def run(arguments: Arguments) -> int:
    print(version(), end="")
    return 0


COMMAND = Command("version", "print the version", run)
