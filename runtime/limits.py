"""The limits that joey's own processes keep, as they are now: `joey update` changes them while a container runs."""

from __future__ import annotations

import os

from ..compat import files, jsonio
from ..compat.errors import JoeyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Limits:
    """The memory limit (bytes) and the process limit of a container: its config.json's, read anew when that changes."""

    def __init__(self, folder: str, resources: dict[str, Any]) -> None:
        self._path = f"{folder}/config.json"
        self._stamp: tuple[int, int] | None = None
        self._now = _limits(resources)

    def now(self) -> tuple[int, int]:
        """Both; 0 or less for none."""
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp != self._stamp:
                config = jsonio.loads(files.read_text(self._path, 64 << 20))
                self._now = _limits((config.get("linux") or {}).get("resources") or {})
                self._stamp = stamp
        except (OSError, JoeyError, ValueError):
            pass  # what held goes on holding
        return self._now

    def count(self) -> int:
        return self.now()[1]


def _limits(resources: dict[str, Any]) -> tuple[int, int]:
    return (resources.get("memory") or {}).get("limit") or 0, (resources.get("pids") or {}).get("limit") or 0
