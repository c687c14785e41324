"""A container's groups, one in each hierarchy: made, limited, joined, frozen, killed, removed."""

from __future__ import annotations

import errno
import os
import time

from .. import files
from ..constants import SIGKILL
from ..errors import JoeyError, KernelError
from . import device_bpf
from .layout import DEFAULT_PARENT, Hierarchy
from .settings import Setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REMOVE_SECONDS = 5.0


class Group:
    """One directory in one hierarchy."""

    __slots__ = ("controllers", "path", "version")

    def __init__(self, version: int, controllers: tuple[str, ...], path: str) -> None:
        self.version = version
        self.controllers = controllers
        self.path = path

    def as_json(self) -> list[Any]:
        return [self.version, list(self.controllers), self.path]


class Cgroup:
    """All groups of one container. `made` are the directories joey created, parents before children."""

    __slots__ = ("groups", "made")

    def __init__(self, groups: list[Group], made: list[str] | None = None) -> None:
        self.groups = groups
        self.made = made if made is not None else []

    @classmethod
    def at(cls, hierarchies: list[Hierarchy], path: str) -> Cgroup:
        """The groups at `path` (absolute, below each hierarchy's mount)."""
        return cls([Group(item.version, item.controllers, item.mount.rstrip("/") + path) for item in hierarchies])

    @classmethod
    def from_json(cls, entries: list[list[Any]], made: list[str]) -> Cgroup:
        """The inverse of `as_json`; for a container's state file."""
        return cls([Group(version, tuple(names), path) for version, names, path in entries], made)

    def as_json(self) -> list[list[Any]]:
        return [group.as_json() for group in self.groups]

    def versions(self) -> dict[str, int]:
        """Controller -> version of the hierarchy it is in. v2's `io` counts as v1's `blkio`."""
        found = {}
        for group in self.groups:
            for name in group.controllers:
                found["blkio" if name == "io" else name] = group.version
        return found

    def group_of(self, controller: str) -> Group | None:
        """The group whose hierarchy carries `controller`, by its v1 or v2 name."""
        for group in self.groups:
            if controller in group.controllers or (controller == "blkio" and "io" in group.controllers):
                return group
        return None

    def claim(self) -> None:
        """Note in `made` the directories that `make` will create, so that they can be recorded before they exist."""
        for group in self.groups:
            missing = []
            path = group.path
            while not os.path.isdir(path):
                missing.append(path)
                path = path.rpartition("/")[0]
            self.made += reversed(missing)

    def make(self) -> None:
        """Create every directory, with v1's cpuset filled in and v2's controllers enabled on the way down."""
        for group in self.groups:
            for attempt in range(8):
                try:
                    self._make_one(group)
                    break
                except FileNotFoundError:  # a sibling's removal took the common parent away
                    if attempt == 7:
                        raise

    def _make_one(self, group: Group) -> None:
        missing = []
        path = group.path
        while not os.path.isdir(path):
            missing.append(path)
            path = path.rpartition("/")[0]
        for directory in reversed(missing):
            if group.version == 2:
                _enable_controllers(directory.rpartition("/")[0], group.controllers)
            try:
                os.mkdir(directory, 0o755)
            except FileExistsError:
                continue
            except OSError as error:
                raise KernelError("mkdir", error.errno or 0, directory) from None
            if directory not in self.made:
                self.made.append(directory)
            if group.version == 1 and "cpuset" in group.controllers:
                _inherit_cpuset(directory)

    def apply(self, settings: list[Setting]) -> None:
        """Write the settings. Raises JoeyError naming the config.json field and the file that refused."""
        for setting in settings:
            group = self.group_of(setting.controller)
            if group is None:
                group = next((item for item in self.groups if item.version == 2), None)
            if group is None:
                raise JoeyError(f"{setting.field}: no cgroup hierarchy carries {setting.controller}", slug="cgroup")
            path = f"{group.path}/{setting.file}"
            try:
                files.write_text(path, setting.value)
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                hint = "this kernel has no such file" if error.errno == errno.ENOENT else ""
                raise JoeyError(
                    f"{setting.field}: writing {setting.value} to {path}: {reason}", hint, "cgroup"
                ) from None

    def allow_devices(self, rules: list[dict[str, Any]]) -> None:
        """Apply OCI device rules, in order, after denying all: by devices.allow and .deny (v1) or eBPF (v2)."""
        group = self.group_of("devices")
        if group is None:
            unified = next((item for item in self.groups if item.version == 2), None)
            if unified is None:
                raise JoeyError("linux.resources.devices: no cgroup hierarchy can limit devices", slug="cgroup")
            device_bpf.attach(unified.path, device_bpf.program(rules))
            return
        _write_rule(group.path, False, "a")
        for rule in rules:
            kind = rule.get("type") or "a"
            wild = all(rule.get(key) is None or rule[key] < 0 for key in ("major", "minor"))
            if kind == "a" and wild and set(rule.get("access") or "rwm") == set("rwm"):
                _write_rule(group.path, rule["allow"], "a")
                continue
            kinds = {"a": "bc", "u": "c"}.get(kind, kind)
            major, minor = (_star(rule.get(key)) for key in ("major", "minor"))
            for letter in kinds:
                _write_rule(group.path, rule["allow"], f"{letter} {major}:{minor} {rule.get('access') or 'rwm'}")

    def join_v1_by_oneself(self) -> None:
        """Move the calling process, which has one thread, into its v1 groups, by writing 0 to their `tasks`.

        A thread that moves itself does not take the kernel's lock of all process groups, whose writers wait for an
        RCU grace period: 0.1 ms for ten hierarchies, against 8 to 45 ms through cgroup.procs.
        """
        for group in self.groups:
            if group.version == 1:
                try:
                    files.write_text(f"{group.path}/tasks", "0")
                except OSError as error:
                    reason = os.strerror(error.errno or 0)
                    raise JoeyError(f"can't enter {group.path}: {reason}", slug="cgroup") from None

    def join(self, pid: int, versions: tuple[int, ...] = (1, 2)) -> None:
        """Move a process into its groups. v1's `tasks` stands in where cgroup.procs is read-only (vanilla 2.6.32)."""
        for group in self.groups:
            if group.version not in versions:
                continue
            try:
                files.write_text(f"{group.path}/cgroup.procs", str(pid))
            except OSError as error:
                if group.version == 2 or error.errno not in (errno.EINVAL, errno.EACCES, errno.ENOENT):
                    raise JoeyError(
                        f"can't move process {pid} into {group.path}: {os.strerror(error.errno or 0)}",
                        "on cgroup v2 a group with controllers enabled below it can't hold processes"
                        if group.version == 2
                        else "",
                        "cgroup",
                    ) from None
                files.write_text(f"{group.path}/tasks", str(pid))

    def pids(self) -> list[int]:
        """Every process in the groups and below, in pid order. A vanished group counts as empty."""
        found: set[int] = set()
        for group in self.groups:
            for directory, _, _ in os.walk(group.path):
                for name in ("cgroup.procs", "tasks"):
                    try:
                        found.update(int(word) for word in files.read_text(f"{directory}/{name}").split())
                        break
                    except (OSError, ValueError):
                        continue
            if found:
                break
        return sorted(found)

    def freeze(self, frozen: bool) -> bool:
        """Freeze or thaw; False where no hierarchy has a freezer. Waits until the kernel says it is done."""
        for group in self.groups:
            if group.version == 1 and "freezer" in group.controllers:
                path, value = f"{group.path}/freezer.state", "FROZEN" if frozen else "THAWED"
                for _ in range(1000):
                    files.write_text(path, value)
                    if files.read_line(path) == value:
                        return True
                    time.sleep(0.001)
                raise JoeyError(f"{path} does not become {value}", slug="cgroup")
        for group in self.groups:
            if group.version == 2 and os.path.exists(f"{group.path}/cgroup.freeze"):
                files.write_text(f"{group.path}/cgroup.freeze", "1" if frozen else "0")
                for _ in range(1000):
                    if f"frozen {int(frozen)}" in files.read_text(f"{group.path}/cgroup.events"):
                        return True
                    time.sleep(0.001)
                raise JoeyError(f"{group.path} does not become {'frozen' if frozen else 'thawed'}", slug="cgroup")
        return False

    def frozen(self) -> bool:
        """Whether the processes are stopped by the freezer."""
        for group in self.groups:
            if group.version == 1 and "freezer" in group.controllers:
                return files.read_line(f"{group.path}/freezer.state") in ("FROZEN", "FREEZING")
        return any(
            group.version == 2 and files.read_line(f"{group.path}/cgroup.freeze") == "1" for group in self.groups
        )

    def kill(self) -> None:
        """SIGKILL every process inside, thawing first: a frozen v1 group can't die. Returns when none is left."""
        deadline = time.monotonic() + REMOVE_SECONDS
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, SIGKILL)
                except ProcessLookupError:
                    continue
            try:
                self.freeze(False)
            except OSError:
                pass  # the group may be gone, or half made: the deadline decides
            if time.monotonic() > deadline:
                raise JoeyError(
                    f"processes {pids} do not die", "they may hang in the kernel; see their /proc/PID/stack"
                )
            time.sleep(0.002)

    def remove(self) -> None:
        """Remove the groups joey made, what was made below them, and parents joey made that are empty now."""
        deadline = time.monotonic() + REMOVE_SECONDS
        for group in self.groups:
            if group.path not in self.made:
                continue
            for directory, _, _ in os.walk(group.path, topdown=False):
                _remove_directory(directory, deadline)
        shared = [
            parent for group in self.groups if (parent := group.path.rpartition("/")[0]).endswith(f"/{DEFAULT_PARENT}")
        ]
        for directory in [*reversed(self.made), *shared]:
            try:
                os.rmdir(directory)
            except OSError:
                continue  # shared with another container, or gone


def _remove_directory(directory: str, deadline: float) -> None:
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise JoeyError(
                    f"can't remove cgroup {directory}: {os.strerror(error.errno or 0)}", slug="cgroup"
                ) from None
        time.sleep(0.002)


def _enable_controllers(directory: str, controllers: tuple[str, ...]) -> None:
    """Hand the controllers down to children of `directory` (cgroup.subtree_control), each on its own."""
    present = files.read_line(f"{directory}/cgroup.subtree_control").split()
    for name in controllers:
        if name not in present:
            try:
                files.write_text(f"{directory}/cgroup.subtree_control", f"+{name}")
            except OSError:
                continue  # a limit that needs it fails by name when it is written


def _inherit_cpuset(directory: str) -> None:
    """A new v1 cpuset is empty and takes no process until it has CPUs and memory nodes: copy the parent's."""
    parent = directory.rpartition("/")[0]
    for name in ("cpuset.cpus", "cpuset.mems"):
        files.write_text(f"{directory}/{name}", files.read_line(f"{parent}/{name}"))


def _write_rule(path: str, allow: bool, rule: str) -> None:
    file = f"{path}/devices.{'allow' if allow else 'deny'}"
    try:
        files.write_text(file, rule)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise JoeyError(f"linux.resources.devices: writing {rule} to {file}: {reason}", slug="cgroup") from None


def _star(number: int | None) -> str:
    return "*" if number is None or number < 0 else str(number)
