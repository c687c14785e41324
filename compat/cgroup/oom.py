"""Being told that the kernel ran out of a group's memory: an eventfd on v1 (Linux 2.6.34), inotify on v2.

Source: the kernel's cgroup-v1 memory document, "OOM Control"; cgroup-v2 document, memory.events.
"""

from __future__ import annotations

import os

from .. import files, libc
from ..errors import JoeyError
from .group import Cgroup, Group

IN_MODIFY = 2


class OomWatch:
    """`fd` polls readable when something happened; `happened` then tells whether it was out of memory."""

    __slots__ = ("_control", "_group", "_kills", "fd")

    def __init__(self, cgroup: Cgroup) -> None:
        group = cgroup.group_of("memory")
        if group is None:
            raise JoeyError("no memory controller: out-of-memory events can't be told", slug="cgroup")
        self._group: Group = group
        self._control = -1
        self._kills = self._count()
        if group.version == 2:
            self.fd = libc.inotify_watch(f"{group.path}/memory.events", IN_MODIFY)
            return
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._control = os.open(f"{group.path}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        files.write_text(f"{group.path}/cgroup.event_control", f"{self.fd} {self._control}")

    def happened(self) -> bool:
        """Read what made `fd` readable. A v1 group's eventfd also fires when the group is removed."""
        try:
            os.read(self.fd, 4096)
        except BlockingIOError:
            return False
        if self._group.version == 1:
            return os.path.exists(f"{self._group.path}/cgroup.event_control")
        before, self._kills = self._kills, self._count()
        return self._kills > before

    def _count(self) -> int:
        if self._group.version == 1:
            return 0
        for line in files.read_text(f"{self._group.path}/memory.events").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return 0
