"""`joey start`."""

from __future__ import annotations

from .. import container
from ..options import Arguments, Command
from .common import container_of


def run(arguments: Arguments) -> int:
    container.start(container_of(arguments))
    return 0


COMMAND = Command("start", "start a created container", run, words="ID", least=1, most=1)
