"""The limits that joey's own processes keep, as they are now: `joey update` changes them while a container runs."""

from __future__ import annotations

import os

from ..compat import files, jsonio
from ..compat.errors import JoeyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


DEFAULT_PERIOD = 100_000  # microseconds; the kernel's


class Limits:
    """The memory limit (bytes), the process limit and the CPU quota (in CPUs) of a container: its config.json's, read
    anew when that changes.
    """

    def __init__(self, folder: str, resources: dict[str, Any]) -> None:
        self._path = f"{folder}/config.json"
        self._stamp: tuple[int, int] | None = None
        self._now = _limits(resources)

    def now(self) -> tuple[int, int, float]:
        """All three; 0 or less for none."""
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


def _limits(resources: dict[str, Any]) -> tuple[int, int, float]:
    memory, pids, cpu = (resources.get(name) or {} for name in ("memory", "pids", "cpu"))
    quota = (cpu.get("quota") or 0) / (cpu.get("period") or DEFAULT_PERIOD)
    return memory.get("limit") or 0, pids.get("limit") or 0, quota
