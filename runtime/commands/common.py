"""What every command on a container shares. Few imports: `state`, `kill`, `start` and `delete` are to be quick."""

from __future__ import annotations

import os

from .. import state
from ..options import Arguments


def container_of(arguments: Arguments) -> state.State:
    """The container named by the first word. Raises StateError."""
    return state.load(root_of(arguments), arguments.words[0])


def root_of(arguments: Arguments) -> str:
    """--root, absolute."""
    return os.path.abspath(arguments.shared.text("root"))
