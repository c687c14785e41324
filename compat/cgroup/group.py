"""A container's groups, one in each hierarchy: made, limited, joined, frozen, killed, removed."""

from __future__ import annotations

import errno
import os
import time

from .. import files
from ..constants import SIGKILL
from ..errors import JoeyError, KernelError
from .layout import DEFAULT_PARENT, Hierarchy, hierarchies, own_paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .settings import Setting

REMOVE_SECONDS = 5.0
V2_HINT = "on cgroup v2 a group with controllers enabled below it can't hold processes"
MAKE_ATTEMPTS = 100


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
    """All groups of one container. `made` are the directories joey created, parents before children.

    `beside`: a process of the container; who can't join its v2 group joins the one below it that this process is in.
    """

    __slots__ = ("beside", "groups", "made")

    def __init__(self, groups: list[Group], made: list[str] | None = None) -> None:
        self.beside = 0
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

    def below(self, paths: dict[str, str]) -> Cgroup:
        """The groups at relative paths: controller -> path, "" for all. Raises JoeyError for one that is not there."""
        known = {name for group in self.groups for name in (*group.controllers, "")}
        unknown = [name for name in paths if name not in known]
        if unknown:
            raise JoeyError(f"no cgroup hierarchy carries {unknown[0]}", slug="cgroup")
        out = []
        for group in self.groups:
            named = next((paths[name] for name in group.controllers if name in paths), paths.get("", ""))
            path = f"{group.path}/{named}" if named else group.path
            if not os.path.isdir(path):
                raise JoeyError(f"the cgroup {path} does not exist", "make it inside the container first", "cgroup")
            out.append(Group(group.version, group.controllers, path))
        return Cgroup(out)

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
            for attempt in range(MAKE_ATTEMPTS):
                try:
                    self._make_one(group)
                    break
                except FileNotFoundError as error:  # a sibling's removal took the common parent away
                    if attempt == MAKE_ATTEMPTS - 1:
                        raise KernelError("mkdir", errno.ENOENT, error.filename or group.path) from None

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
            except FileNotFoundError:
                raise
            except OSError as error:
                raise KernelError("mkdir", error.errno or 0, directory) from None
            if directory not in self.made:
                self.made.append(directory)
        if group.version == 1 and "cpuset" in group.controllers:
            _inherit_cpuset(group.path)

    def apply(self, settings: list[Setting]) -> None:
        """Write the settings. Raises JoeyError naming the config.json field and the file that refused."""
        for setting in settings:
            path = self._file_of(setting)
            try:
                files.write_text(path, setting.value)
            except OSError as error:
                raise _refused(setting, path, error) from None

    def update(self, settings: list[Setting]) -> None:
        """Write the settings to groups that have others; all of them or, on an error, none. Raises JoeyError.

        Limits that bind each other (memory and memory+swap, quota and period) take a new pair in one order only, which
        depends on the old one: what is refused is tried once more after the rest.
        """
        before: list[tuple[str, str]] = []
        late: list[Setting] = []
        try:
            for attempt, todo in ((1, settings), (2, late)):
                for setting in todo:
                    path = self._file_of(setting)
                    had = _present_value(path, setting.value)
                    try:
                        files.write_text(path, setting.value)
                    except OSError as error:
                        if attempt == 1 and error.errno in (errno.EINVAL, errno.EBUSY):
                            late.append(setting)
                            continue
                        raise _refused(setting, path, error) from None
                    before.append((path, had))
        except JoeyError:
            for path, had in reversed(before):
                try:
                    files.write_text(path, had)
                except OSError:
                    continue  # a file that can't be read back, or takes its old value in another order only
            raise

    def _file_of(self, setting: Setting) -> str:
        group = self.group_of(setting.controller)
        if group is None:
            group = next((item for item in self.groups if item.version == 2), None)
        if group is None:
            raise JoeyError(f"{setting.field}: no cgroup hierarchy carries {setting.controller}", slug="cgroup")
        path = f"{group.path}/{setting.file}"
        if setting.other and not os.path.exists(path):
            return f"{group.path}/{setting.other}"
        return path

    def allow_devices(self, rules: list[dict[str, Any]], in_use: bool = False) -> None:
        """Apply OCI device rules, in order, after denying all: by devices.allow and .deny (v1) or eBPF (v2).

        `in_use`: the group has processes; they keep what both the old and the new rules allow all the while.
        """
        from . import device_bpf, device_list  # here: what only starts or ends containers does without ctypes

        group = self.group_of("devices")
        if group is None:
            unified = next((item for item in self.groups if item.version == 2), None)
            if unified is None:
                raise JoeyError("linux.resources.devices: no cgroup hierarchy can limit devices", slug="cgroup")
            old = device_bpf.attached(unified.path) if in_use else []
            device_bpf.attach(unified.path, device_bpf.program(rules))
            device_bpf.detach(unified.path, old)
            return
        if in_use:
            steps = device_list.changes(files.read_text(f"{group.path}/devices.list"), rules)
        else:
            steps = device_list.writes(rules)
        for allow, text in steps:
            _write_rule(group.path, allow, text)

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
                if group.version == 2 and self.beside and error.errno in (errno.EBUSY, errno.EOPNOTSUPP, errno.ENOENT):
                    files.write_text(f"{self._group_of_process(group)}/cgroup.procs", str(pid))
                    continue
                if group.version == 2 or error.errno not in (errno.EINVAL, errno.EACCES, errno.ENOENT):
                    raise JoeyError(
                        f"can't move process {pid} into {group.path}: {os.strerror(error.errno or 0)}",
                        V2_HINT if group.version == 2 else "",
                        "cgroup",
                    ) from None
                files.write_text(f"{group.path}/tasks", str(pid))

    def clone_into(self, flags: int) -> int:
        """Clone a child that is born in the v2 group; 0 in the child, its pid in the parent. Raises JoeyError."""
        group = next(item for item in self.groups if item.version == 2)
        try:
            return _clone_into(group.path, flags)
        except KernelError as error:
            if self.beside and error.errno in (errno.EBUSY, errno.EOPNOTSUPP, errno.ENOENT):
                return _clone_into(self._group_of_process(group), flags)
            raise JoeyError(f"can't start a process in {group.path}: {error.message}", V2_HINT, "cgroup") from None

    def _group_of_process(self, group: Group) -> str:
        """The v2 group that `beside` is in, which is at or below the container's: it handed its controllers down."""
        path = own_paths(files.read_text(f"/proc/{self.beside}/cgroup")).get("", "")
        for item in hierarchies():
            inside = f"{item.mount}{path}"
            if item.version == 2 and (inside + "/").startswith(group.path + "/") and ".." not in path.split("/"):
                return inside
        raise JoeyError(f"can't join {group.path}: it has groups with controllers below it", slug="cgroup")

    def in_use(self) -> bool:
        """Whether there are processes in the groups or below, those of other pid namespaces included."""
        return bool(self._procs())

    def task_files(self) -> list[str]:
        """The files that list the threads in the groups themselves, one for each hierarchy."""
        return [f"{group.path}/{'tasks' if group.version == 1 else 'cgroup.threads'}" for group in self.groups]

    def pids(self) -> list[int]:
        """Every process in the groups and below, in pid order. A vanished group counts as empty.

        Processes outside of our pid namespace, which read as 0, are left out: kill(0) would be our own process group.
        """
        return sorted(self._procs() - {0})

    def _procs(self) -> set[int]:
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
        return found

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
    """A new v1 cpuset is empty and takes no process until it has CPUs and memory nodes: copy the parent's.

    The parent's come first where it has none yet: another joey may have made it a moment ago.
    """
    parent = directory.rpartition("/")[0]
    for name in ("cpuset.cpus", "cpuset.mems"):
        if files.read_text(f"{directory}/{name}").strip() or not os.path.exists(f"{parent}/{name}"):
            continue
        _inherit_cpuset(parent)
        files.write_text(f"{directory}/{name}", files.read_text(f"{parent}/{name}").strip())


def _refused(setting: Setting, path: str, error: OSError) -> JoeyError:
    reason = os.strerror(error.errno or 0)
    hint = "this kernel has no such file" if error.errno == errno.ENOENT else ""
    if error.errno == errno.EBUSY and setting.field.startswith("linux.resources.memory"):
        reason = f"unable to set memory limit to {setting.value}: more is in use ({reason})"
    return JoeyError(f"{setting.field}: writing {setting.value} to {path}: {reason}", hint, "cgroup")


def _present_value(path: str, new: str) -> str:
    """A limit as it can be written again when `new` was; "" where it can't be read.

    A file with a line for each device takes one of them at a time ("8:0 1048576", "8:0 rbps=max wbps=...").
    """
    try:
        text = files.read_text(path).strip()
    except OSError:
        return ""
    device, space, _ = new.partition(" ")
    if not space or ":" not in device:
        return text
    present = next((line for line in text.splitlines() if line.partition(" ")[0] == device), "")
    if present:
        return present
    name = path.rpartition("/")[2]
    nothing = {"io.max": "rbps=max wbps=max riops=max wiops=max", "io.weight": "default"}
    return f"{device} {nothing.get(name, '0')}"


def _clone_into(path: str, flags: int) -> int:
    from .. import libc  # here: what only starts or ends containers does without ctypes

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return libc.clone_into(flags, fd)
    finally:
        os.close(fd)


def _write_rule(path: str, allow: bool, rule: str) -> None:
    file = f"{path}/devices.{'allow' if allow else 'deny'}"
    try:
        files.write_text(file, rule)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise JoeyError(f"linux.resources.devices: writing {rule} to {file}: {reason}", slug="cgroup") from None
