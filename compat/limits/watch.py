"""The memory and the number of a container's processes, added up; and which to end when a limit is passed.

Weaker than a controller: it looks a few times a second, so that a quick program gets beyond the limit for a moment, and
page cache counts for nobody. Source: proc(5), statm.
"""

from __future__ import annotations

import os

from .. import files
from ..errors import JoeyError
from ..process import start_time

_PAGE = os.sysconf("SC_PAGE_SIZE")


def own_memory(pid: int) -> int:
    """Bytes of memory that a process does not share with others or with files; 0 for one that has ended."""
    try:
        words = files.read_text(f"/proc/{pid}/statm").split()
        return max(0, int(words[1]) - int(words[2])) * _PAGE
    except (OSError, JoeyError, ValueError, IndexError):
        return 0


def threads(pid: int) -> int:
    """How many threads a process has; 0 for one that has ended, a zombie too: there is nothing to kill."""
    if not start_time(pid):
        return 0
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def to_end(pids: list[int], first: int, memory_limit: int, count_limit: int) -> list[int]:
    """The processes to kill so that the others are within the limits (0 or less: none).

    Of memory the largest go first, as by the kernel; of numbers the youngest (highest pids), the container's `first`
    last of all.
    """
    out: list[int] = []
    if memory_limit > 0:
        used = {pid: own_memory(pid) for pid in pids}
        total = sum(used.values())
        for pid in sorted(used, key=lambda pid: used[pid], reverse=True):
            if total <= memory_limit:
                break
            out.append(pid)
            total -= used[pid]
    if count_limit > 0:
        left = [pid for pid in pids if pid not in out]
        count = {pid: threads(pid) for pid in left}
        total = sum(count.values())
        for pid in sorted(left, key=lambda pid: (pid != first, pid), reverse=True):
            if total <= count_limit:
                break
            out.append(pid)
            total -= count[pid]
    return out
