"""The parent's steps around the clone: cgroups, id maps, hooks of the runtime's namespaces, waiting for the child."""

from __future__ import annotations

import errno
import os

from ...compat import files, idmap, libc
from ...compat.cgroup import layout
from ...compat.cgroup.group import Cgroup, Group
from ...compat.cgroup.settings import settings
from ...compat.constants import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_RECURSIVE,
    CLONE_NEWTIME,
    MOUNT_ATTR_IDMAP,
    MS_REC,
    OPEN_TREE_CLONE,
    RLIMITS,
)
from ...compat.errors import JoeyError, StepError
from ...compat.namespaces import open_namespace
from . import Step
from .cloning import NewProcess
from .process import describe_rlimits, rlimit_value, write_time_offsets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..state import State
    from .rootfs import MountEntry


class MountHierarchy(Step):
    """Mount a v1 hierarchy for a controller that nobody mounted, and put the container's group in it."""

    __slots__ = ("cgroup", "controller", "path")

    def __init__(self, cgroup: Cgroup, controller: str, path: str) -> None:
        self.cgroup = cgroup
        self.controller = controller
        self.path = path

    def describe(self) -> str:
        return f"mount the cgroup controller {self.controller} at {layout.own_place(self.controller)}"

    def run(self) -> None:
        mounted = [item for item in layout.hierarchies() if self.controller in item.controllers]
        item = mounted[0] if mounted else layout.mount_own(self.controller)
        self.cgroup.groups.append(Group(item.version, item.controllers, item.mount + self.path))


class MakeCgroup(Step):
    """Create the container's cgroups."""

    __slots__ = ("cgroup", "ours", "state")

    def __init__(self, cgroup: Cgroup, state: State) -> None:
        self.cgroup = cgroup
        self.state = state
        self.ours = False  # until then the processes in them are somebody else's

    def describe(self) -> str:
        return "create cgroups " + (
            ", ".join(group.path for group in self.cgroup.groups) or "(where joey mounted them)"
        )

    def run(self) -> None:
        for group in self.cgroup.groups:
            if self._in_use(group):
                raise JoeyError(f"the cgroup {group.path} exists and has processes", "choose another linux.cgroupsPath")
            if frozen := _frozen_at(group):
                raise JoeyError(
                    f"container's cgroup unexpectedly frozen: {frozen}",
                    "thaw it, or choose another linux.cgroupsPath",
                    "cgroup",
                )
        self.ours = True
        self.cgroup.claim()
        self.state.save()  # before they are there: a killed joey's are removed by what was recorded
        self.cgroup.make()

    def _in_use(self, group: Group) -> bool:
        return os.path.isdir(group.path) and Cgroup([group]).in_use()

    def undo(self) -> None:
        if self.ours:
            self.cgroup.kill()
            self.cgroup.remove()


def _frozen_at(group: Group) -> str:
    """The group, or the next above it that is there, where it is frozen: who joins it is stopped, too."""
    if group.version == 1 and "freezer" not in group.controllers:
        return ""
    path = group.path
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path if Cgroup([Group(group.version, group.controllers, path)]).frozen() else ""


class LimitCgroup(Step):
    """Write the resource limits."""

    __slots__ = ("cgroup", "resources")

    def __init__(self, cgroup: Cgroup, resources: dict[str, Any]) -> None:
        self.cgroup = cgroup
        self.resources = resources

    def describe(self) -> str:
        words = [f"{item.file}={item.value}" for item in settings(self.resources, self.cgroup.versions())]
        return "set limits " + (", ".join(words) or "of the controllers joey mounts")

    def run(self) -> None:
        self.cgroup.apply(settings(self.resources, self.cgroup.versions()))


class LimitDevices(Step):
    """Apply the device rules."""

    __slots__ = ("cgroup", "rules")

    def __init__(self, cgroup: Cgroup, rules: list[dict[str, Any]]) -> None:
        self.cgroup = cgroup
        self.rules = rules

    def describe(self) -> str:
        return f"deny all devices, then apply {len(self.rules)} rules"

    def run(self) -> None:
        self.cgroup.allow_devices(self.rules)


class RecordPid(Step):
    """Write the process's pid into the container's state, before anything else may fail."""

    __slots__ = ("clone", "state")

    def __init__(self, state: State, clone: NewProcess) -> None:
        self.state = state
        self.clone = clone

    def describe(self) -> str:
        return "record the process in the container's state"

    def run(self) -> None:
        self.state.set_process(self.clone.pid)


class JoinCgroup(Step):
    """Move the new process into those of the container's cgroups that it can't enter by itself."""

    __slots__ = ("cgroup", "clone", "versions")

    def __init__(self, cgroup: Cgroup, clone: NewProcess, versions: tuple[int, ...]) -> None:
        self.cgroup = cgroup
        self.clone = clone
        self.versions = versions

    def describe(self) -> str:
        groups = [group.path for group in self.cgroup.groups if group.version in self.versions]
        return "move the process into " + ", ".join(groups)

    def run(self) -> None:
        self.cgroup.join(self.clone.pid, self.versions)


class WriteIdMaps(Step):
    """Write the user namespace's id maps."""

    __slots__ = ("clone", "gids", "uids")

    def __init__(self, clone: NewProcess, uids: list[idmap.Mapping], gids: list[idmap.Mapping]) -> None:
        self.clone = clone
        self.uids = uids
        self.gids = gids

    def describe(self) -> str:
        words = [" ".join(str(number) for number in mapping) for mapping in self.uids]
        return "map user ids (inside, outside, count) " + ", ".join(words)

    def run(self) -> None:
        idmap.write_maps(self.clone.pid, self.uids, self.gids)


class AdjustOomScore(Step):
    """Write oom_score_adj of the new process, or of the calling one."""

    __slots__ = ("clone", "score")

    def __init__(self, score: int, clone: NewProcess | None) -> None:
        self.score = score
        self.clone = clone

    def describe(self) -> str:
        return f"set oom_score_adj {self.score}"

    def run(self) -> None:
        place = f"/proc/{self.clone.pid if self.clone else 'self'}"
        try:
            files.write_text(f"{place}/oom_score_adj", str(self.score))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            # before Linux 2.6.36 the scale was -17 to 15
            files.write_text(f"{place}/oom_adj", str(max(-17, min(15, self.score * 17 // 1000))))


class SetRlimitsFromOutside(Step):
    """Set resource limits of a process in a user namespace, which may not raise its own."""

    __slots__ = ("clone", "limits")

    def __init__(self, clone: NewProcess, limits: list[dict[str, Any]]) -> None:
        self.clone = clone
        self.limits = limits

    def describe(self) -> str:
        return "set " + describe_rlimits(self.limits)

    def run(self) -> None:
        import resource

        for limit in self.limits:
            pair = (rlimit_value(limit["soft"]), rlimit_value(limit["hard"]))
            try:
                resource.prlimit(self.clone.pid, RLIMITS.index(limit["type"]), pair)
            except (OSError, ValueError) as error:
                raise StepError(f"{limit['type']}: {error}") from None


class OpenIdMapped(Step):
    """Clone a bind mount's source, id-mapped; the child attaches it."""

    __slots__ = ("gids", "mount", "uids")

    def __init__(self, mount: MountEntry, uids: list[idmap.Mapping], gids: list[idmap.Mapping]) -> None:
        self.mount = mount
        self.uids = uids
        self.gids = gids

    def describe(self) -> str:
        words = [" ".join(str(number) for number in mapping) for mapping in self.uids]
        return f"map the ids of {self.mount.source} (inside, outside, count) " + ", ".join(words)

    def run(self) -> None:
        recursive = bool(self.mount.options.flags & MS_REC)
        namespace = idmap.user_namespace(self.uids, self.gids)
        try:
            flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
            self.mount.tree = libc.open_tree(AT_FDCWD, self.mount.source, flags)
            attribute = libc.MountAttr(MOUNT_ATTR_IDMAP, 0, 0, namespace)
            whole = recursive and self.mount.options.idmap == "ridmap"
            libc.mount_setattr(self.mount.tree, "", AT_EMPTY_PATH | (AT_RECURSIVE if whole else 0), attribute)
        finally:
            os.close(namespace)

    def undo(self) -> None:
        if self.mount.tree >= 0:
            os.close(self.mount.tree)
            self.mount.tree = -1


class MakeTimeNamespace(Step):
    """Make the time namespace for the child, whose clone puts it in; joey itself stays where it is."""

    __slots__ = ("_own", "offsets")

    def __init__(self, offsets: str) -> None:
        self.offsets = offsets
        self._own = -1

    def describe(self) -> str:
        return "make a time namespace" + (f" with offsets {self.offsets.strip()!r}" if self.offsets else "")

    def run(self) -> None:
        self._own = open_namespace("/proc/self/ns/time")
        libc.unshare(CLONE_NEWTIME)
        if self.offsets:
            write_time_offsets(self.offsets)

    def leave(self) -> None:
        """Make later children of joey again children of its own time."""
        libc.setns(self._own, CLONE_NEWTIME)
        os.close(self._own)

    def undo(self) -> None:
        return  # joey ends, or has left it


class Release(Step):
    """Let the waiting child go on."""

    __slots__ = ("clone", "what")

    def __init__(self, clone: NewProcess, what: str) -> None:
        self.clone = clone
        self.what = what

    def describe(self) -> str:
        return f"let the process {self.what}"

    def run(self) -> None:
        try:
            self.clone.channel.send(b"go")
        except JoeyError:
            self.clone.wait_for(b"never")  # the child's own error says more than a broken pipe


class Await(Step):
    """Wait until the child reports a point of its start."""

    __slots__ = ("clone", "word")

    def __init__(self, clone: NewProcess, word: bytes) -> None:
        self.clone = clone
        self.word = word

    def describe(self) -> str:
        return f"wait for the process to be {self.word.decode()}"

    def run(self) -> None:
        self.clone.wait_for(self.word)


class RunRuntimeHooks(Step):
    """Run hooks in the runtime's own namespaces (prestart, createRuntime)."""

    __slots__ = ("hooks", "kind", "state")

    def __init__(self, kind: str, hooks: list[dict[str, Any]], state: State) -> None:
        self.kind = kind
        self.hooks = hooks
        self.state = state

    def describe(self) -> str:
        return f"run {self.kind} hooks " + ", ".join(hook["path"] for hook in self.hooks)

    def run(self) -> None:
        from ..hooks import run_hooks

        run_hooks(self.kind, self.hooks, self.state.oci("creating"), cwd=self.state.bundle)
