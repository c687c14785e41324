"""`joey resume`: see pause.py."""

from .pause import RESUME as COMMAND

__all__ = ["COMMAND"]
