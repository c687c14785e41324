"""Which cgroup hierarchies are mounted where, and which controllers each carries."""

from __future__ import annotations

import os

from .. import files

# Where joey mounts v1 hierarchies that nobody mounted, on hosts that have none at all (2.6.32 without cgconfig).
OWN_MOUNTS = "/run/joey/cgroup"

# The group, at each hierarchy's root, below which containers are that did not choose a path of their own.
DEFAULT_PARENT = "joey"

# v1 controllers joey places a container in, in the order it does so.
CONTROLLERS = ("cpuset", "cpu", "cpuacct", "memory", "pids", "blkio", "devices", "freezer", "hugetlb", "net_cls",
               "net_prio", "perf_event", "rdma", "misc")  # fmt: skip


class Hierarchy:
    """A mounted hierarchy. `controllers` are v1 names, a v1 "name=..." or v2 names; `root` is the mount's own root."""

    __slots__ = ("controllers", "mount", "root", "version")

    def __init__(self, version: int, mount: str, controllers: tuple[str, ...], root: str = "/") -> None:
        self.version = version
        self.mount = mount
        self.controllers = controllers
        self.root = root

    @property
    def name(self) -> str:
        """The directory name a container sees: "memory", "cpu,cpuacct", "systemd" (v1); "" for v2."""
        if self.version == 2:
            return ""
        return ",".join(name.removeprefix("name=") for name in self.controllers)


def hierarchies(mounts: list[files.Mount] | None = None) -> list[Hierarchy]:
    """The mounted hierarchies, the first mount of each."""
    found = []
    seen: set[tuple[str, ...]] = set()
    for mount in files.mounts() if mounts is None else mounts:
        if mount.fstype == "cgroup2":
            names = tuple(files.read_line(f"{mount.target}/cgroup.controllers").split())
            key: tuple[str, ...] = ("cgroup2",)
            entry = Hierarchy(2, mount.target, names, mount.root)
        elif mount.fstype == "cgroup":
            names = tuple(word for word in mount.options if word in CONTROLLERS or word.startswith("name="))
            key = names
            entry = Hierarchy(1, mount.target, names, mount.root)
        else:
            continue
        if key not in seen and os.path.isdir(mount.target):
            seen.add(key)
            found.append(entry)
    return found


def own_paths(text: str | None = None) -> dict[str, str]:
    """The caller's cgroup in each hierarchy: controller or "name=..." -> path, "" for v2. Source: cgroups(7)."""
    if text is None:
        text = files.read_text("/proc/self/cgroup")
    paths = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


def enabled_controllers() -> tuple[str, ...]:
    """The controllers /proc/cgroups lists as enabled: what a v1 hierarchy could be mounted with."""
    try:
        lines = files.read_text("/proc/cgroups").splitlines()
    except OSError:
        return ()
    rows = [line.split() for line in lines if not line.startswith("#")]
    return tuple(row[0] for row in rows if len(row) == 4 and row[3] == "1")


def own_place(controller: str) -> str:
    """Where joey mounts a hierarchy for `controller`: beside the others, where every tool looks; else OWN_MOUNTS.

    containerd's metrics, for one, fail when a hierarchy of /proc/PID/cgroup is not beside the others.
    """
    for item in hierarchies():
        folder = os.path.dirname(item.mount)
        if item.version == 1 and os.access(folder, os.W_OK):
            return f"{folder}/{controller}"
    return f"{OWN_MOUNTS}/{controller}"


def mount_own(controller: str) -> Hierarchy:
    """Mount a v1 hierarchy for `controller` at `own_place`, for every later container of this boot.

    Raises KernelError: EBUSY when another hierarchy holds the controller.
    """
    from .. import libc

    target = own_place(controller)
    if target.startswith(f"{OWN_MOUNTS}/"):
        files.make_private_directories(target)
        # a container's process binds its groups when it is root of its user namespace only: it must get through here
        for folder in (os.path.dirname(OWN_MOUNTS), OWN_MOUNTS):
            os.chmod(folder, 0o711)
    elif not os.path.isdir(target):
        os.mkdir(target, 0o755)
    libc.mount("cgroup", target, "cgroup", 2 | 4 | 8, controller)
    return Hierarchy(1, target, (controller,))
