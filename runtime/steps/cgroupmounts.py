"""The child's step for a `cgroup` mount: the container's own groups, by a cgroup namespace or bound one by one."""

from __future__ import annotations

import os

from ...compat import libc, mounting
from ...compat.cgroup.group import Cgroup, Group
from ...compat.constants import MOUNT_ATTR_RDONLY, MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC
from ...compat.mountflags import TRACKING, MountOptions
from ...compat.mounting import at
from ...compat.rootpath import Root
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def cgroup_places(destination: str, groups: list[Group]) -> list[tuple[str, Group]]:
    """Where a `cgroup` mount shows each group: a lone v2 group at the destination, others by their controllers."""
    if len(groups) == 1 and groups[0].version == 2:
        return [(destination, groups[0])]
    out = []
    for group in groups:
        name = ",".join(name.removeprefix("name=") for name in group.controllers) if group.version == 1 else "unified"
        out.append((f"{destination}/{name}", group))
    return out


class MountCgroups(Step):
    """A `cgroup` mount: the container's own groups, and nothing above them."""

    __slots__ = ("destination", "groups", "namespaced", "options", "root", "tracking")

    def __init__(self, root: Root, entry: dict[str, Any], cgroup: Cgroup, namespaced: bool) -> None:
        self.root = root
        unified = [group for group in cgroup.groups if group.version == 2]
        self.groups = unified if entry["type"] == "cgroup2" and unified else cgroup.groups
        self.namespaced = namespaced
        self.destination = os.path.normpath("/" + entry["destination"].lstrip("/"))
        words = entry.get("options") or []
        self.tracking = TRACKING in words
        self.options = MountOptions([word for word in words if word != TRACKING])

    def describe(self) -> str:
        how = "by cgroup namespace" if self.namespaced else "by bind mounts of its own groups"
        return f"mount cgroups on {self.destination} {how}"

    def run(self) -> None:
        groups = self.groups
        flags = (self.options.flags & ~(MS_RDONLY | MS_BIND | MS_REC)) | MS_NOSUID | MS_NODEV | MS_NOEXEC
        places = cgroup_places(self.destination, groups)
        if places and places[0][0] == self.destination:
            self._one(self.destination, groups[0].path, "cgroup2", "", flags, writable=self.tracking)
            return
        if not groups:
            fd = self.root.make_directories(self.destination)
            try:
                libc.mount("/sys/fs/cgroup", at(fd), "", MS_BIND | MS_REC)
            finally:
                os.close(fd)
            fd = self.root.open(self.destination)
            try:
                mounting.remount_tree_one_by_one(at(fd), MOUNT_ATTR_RDONLY, 0)
            finally:
                os.close(fd)
            return
        fd = self.root.make_directories(self.destination)
        try:
            libc.mount("tmpfs", at(fd), "tmpfs", flags, "mode=755")
        finally:
            os.close(fd)
        for place, group in places:
            names = [name.removeprefix("name=") for name in group.controllers]
            data = ",".join(group.controllers) if group.version == 1 else ""
            bare = group.version == 2 or group.controllers == ("name=systemd",)
            kind = "cgroup" if group.version == 1 else "cgroup2"
            self._one(place, group.path, kind, data, flags, writable=self.tracking and bare)
            for name in names if group.version == 1 and len(names) > 1 else ():
                parent = self.root.open(self.destination)
                os.symlink(",".join(names), name, dir_fd=parent)
                os.close(parent)
        if self.options.flags & MS_RDONLY:
            self._read_only(self.destination, MS_RDONLY)

    def _one(self, place: str, group: str, kind: str, data: str, flags: int, writable: bool = False) -> None:
        fd = self.root.make_directories(place)
        try:
            if self.namespaced:
                libc.mount("cgroup", at(fd), kind, flags, data)
            else:
                libc.mount(group, at(fd), "", MS_BIND)
        finally:
            os.close(fd)
        extra = flags & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        self._read_only(place, extra | (0 if writable else self.options.flags & MS_RDONLY))

    def _read_only(self, place: str, flags: int) -> None:
        fd = self.root.open(place)
        try:
            mounting.remount_by_bind(at(fd), flags)
        finally:
            os.close(fd)
