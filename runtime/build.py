"""From a bundle and its plan to the two tuples of steps. Pure but for looking at what is mounted where.

The only place that turns a mechanism's name into a step; a new mechanism gets its line here.
"""

from __future__ import annotations

import _socket
import os

from ..compat.constants import (
    CLONE_NEWCGROUP,
    CLONE_NEWTIME,
    MS_NOSUID,
    MS_RDONLY,
)
from ..compat.mountflags import MountOptions
from ..compat.namespaces import NAMESPACES, may_return
from ..compat.rootpath import Root
from ..probes.plan import Plan
from .bundle import Bundle, is_bind
from .channel import Channel
from .launch import Start, let_go, run_child
from .needs import WITHIN_ANNOTATION
from .placing import is_born_in_v2, joined_by_parent, oom_steps
from .process_steps import make, process_steps
from .resources import cgroup_of, cgroup_steps, device_rules, limits_devices
from .state import State
from .steps import Step, cloning, devices, libraries, parent, process, rootfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .steps.quotas import MakeImages

LATE_FLAGS = CLONE_NEWCGROUP | CLONE_NEWTIME


class Options:
    """What the command line adds to a bundle."""

    __slots__ = ("console_socket", "detach", "keep_fds", "new_keyring", "wait_for_start")

    def __init__(
        self, console_socket: str, detach: bool, new_keyring: bool, wait_for_start: bool, keep_fds: int
    ) -> None:
        self.console_socket = console_socket
        self.keep_fds = keep_fds  # descriptors after the standard three that the container gets
        self.detach = detach
        self.new_keyring = new_keyring
        self.wait_for_start = wait_for_start


def steps(bundle: Bundle, plan: Plan, state: State, options: Options) -> Start:
    """The steps of one start. Opens the channel and, to wait for `joey start`, the start socket; runs nothing."""
    if bundle.pretended:
        from .unprivileged import steps as pretended_steps

        return pretended_steps(bundle, plan, state, options)
    channel = Channel()
    listener = state.listen() if options.wait_for_start and os.path.isdir(state.folder) else None
    late = [name for name in ("cgroup", "time") if bundle.creates(name)]
    offsets = time_offsets(bundle)
    by_parent = None
    if "time" in late and may_return("time"):
        by_parent = parent.MakeTimeNamespace(offsets)
        late.remove("time")
    if plan.mechanism("cgroupns") == "none":
        late = [name for name in late if name != "cgroup"]
    flags = 0
    for name, (flag, _) in NAMESPACES.items():
        if bundle.creates(name) and not flag & LATE_FLAGS:
            flags |= flag
    paths = {name: path for name, path in bundle.namespaces.items() if path}
    fds: dict[str, int] = {}
    child: list[Step] = []

    def release(kept: set[int]) -> None:
        let_go(channel, tuple(child), options.keep_fds, kept)

    def body(left_to_join: dict[str, int], whole: bool) -> None:
        fds.update(left_to_join)
        kept = set(left_to_join.values())
        run_child(channel, tuple(child), root.created, (lambda: release(kept)) if whole else None)

    clone = cloning.CloneChild(channel, flags, paths, release, body, bundle.rootfs)
    if "user" in paths:
        clone.enters = tuple(name for name in NAMESPACES if name in paths)
    elif "pid" in paths:
        clone.enters = ("pid",)
    if by_parent:
        clone.after = by_parent.leave
    root = Root(bundle.rootfs, native=plan.mechanism("path-resolution") == "openat2")
    root.owner = bundle.users.root if bundle.users else None
    state.cgroup = cgroup_of(bundle, state.id, plan)
    if bundle.tracing:
        from .tracing import limit_forks

        limit_forks(bundle, plan.mechanism, state)
    if is_born_in_v2(bundle.namespaces, state.cgroup, plan.mechanism("cgroup-v2-entry")):
        clone.cgroup = state.cgroup
    quotas, images = quota_steps(bundle, plan, state)
    child += _child_steps(bundle, plan, state, options, channel, root, fds, late, listener, images)
    before: list[Step] = [*quotas, *layer_steps(bundle, state), *_prepared(bundle, plan, state)]
    if by_parent:
        before.append(by_parent)
    before += _id_mapped(bundle, child)
    return Start(tuple(_parent_steps(bundle, plan, state, clone, before, images)), tuple(child), channel, clone)


def _prepared(bundle: Bundle, plan: Plan, state: State) -> list[Step]:
    """The parent's steps for what the child then binds: a program with file capabilities, views of /proc."""
    out: list[Step] = []
    if plan.mechanism("capabilities.ambient") == "file-capabilities" and bundle.capable:
        from .steps.capable import CopyProgram

        out.append(CopyProgram(bundle.capable, bundle.rootfs, state))
    if by := plan.mechanism("views"):
        from .steps.views import PrepareViews

        out.append(PrepareViews(state, bundle, by))
    return out


def layer_steps(bundle: Bundle, state: State) -> list[Step]:
    """The parent's step that mounts layers; what is made in one directory is there by now (planning.py)."""
    if bundle.layers is None or not bundle.layers.is_mounted:
        return []
    from .steps.layers import MountLayers

    return [MountLayers(bundle.layers, state)]


def quota_steps(bundle: Bundle, plan: Plan, state: State) -> tuple[list[Step], MakeImages | None]:
    """The parent's steps that limit directories; those that make images are told of, for the child mounts them."""
    by = plan.mechanism("disk-quota")
    if not by or bundle.quota is None:
        return [], None
    from .quota import IMAGES
    from .steps import quotas

    if by == "project-quota":
        return [quotas.LimitProjects(bundle.quota, state)], None
    if by == "btrfs-qgroup":
        return [quotas.LimitSubvolumes(bundle.quota, state)], None
    rules = device_rules(bundle.resources.get("devices") or [], bundle) if limits_devices(plan) else None
    images = quotas.MakeImages(bundle.quota, state, f"{bundle.path}/{IMAGES}", rules)
    return [images], images


def time_offsets(bundle: Bundle) -> str:
    """The lines of /proc/PID/timens_offsets for linux.timeOffsets. Source: time_namespaces(7)."""
    return "".join(
        f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n"
        for clock, offset in (bundle.linux.get("timeOffsets") or {}).items()
    )


def _id_mapped(bundle: Bundle, child: list[Step]) -> list[Step]:
    """The parent's steps for id-mapped mounts, which need privilege over the source's file system."""
    out: list[Step] = []
    for step in child:
        if isinstance(step, rootfs.MountEntry) and (step.options.idmap or step.entry.get("uidMappings")):
            source: dict[str, Any] = step.entry if step.entry.get("uidMappings") else bundle.linux
            out.append(parent.OpenIdMapped(step, map_lines(source, "uidMappings"), map_lines(source, "gidMappings")))
    return out


def library_files(bundle: Bundle, state: State) -> list[tuple[str, str, str]]:
    """Each rewritten library: its place in the root, its file in the cache, and the file this container gets.

    Whose process is in a user namespace when it mounts it can't look into the record's folder.
    """
    folder = state.public if "user" in bundle.namespaces else state.folder
    return [
        (path, cached, f"{folder}/library-{number}") for number, (path, cached) in enumerate(bundle.rewritten.items())
    ]


def _parent_steps(
    bundle: Bundle,
    plan: Plan,
    state: State,
    clone: cloning.NewProcess,
    before: list[Step],
    images: MakeImages | None,
) -> list[Step]:
    cgroup = state.cgroup
    out = cgroup_steps(bundle, plan, state)
    if plan.mechanism("glibc") == "rewritten-libc":
        copies = [(cached, file) for _, cached, file in library_files(bundle, state)]
        out.append(libraries.CopyLibraries(copies, state))
    out += [*before, clone, parent.RecordPid(state, clone)]
    out += oom_steps(bundle, clone)
    if bundle.creates("user"):
        lines = (map_lines(bundle.linux, "uidMappings"), map_lines(bundle.linux, "gidMappings"))
        out.append(parent.WriteIdMaps(clone, *lines))
        out.append(parent.Release(clone, "use its ids"))
    if "user" in bundle.namespaces and bundle.process.get("rlimits"):
        out.append(parent.SetRlimitsFromOutside(clone, bundle.process["rlimits"]))
    versions = joined_by_parent(bundle.namespaces, cgroup, plan.mechanism("cgroup-v2-entry"))
    if versions:
        out.append(parent.JoinCgroup(cgroup, clone, versions))
        out.append(parent.Release(clone, "go on, now that it is in its cgroups"))
    if bundle.networks:
        from .steps.network import AttachNetworks

        out.append(AttachNetworks(clone, state, bundle.networks, plan.mechanism("network.nat"),
                                  plan.mechanism("network.names") == "server"))  # fmt: skip
        out.append(parent.Release(clone, "go on, now that it is attached to its networks"))
    early = [(kind, bundle.hooks(kind)) for kind in ("prestart", "createRuntime") if bundle.hooks(kind)]
    if early:
        out.append(parent.Await(clone, b"mounted"))
        out += [parent.RunRuntimeHooks(kind, hooks, state) for kind, hooks in early]
        out.append(parent.Release(clone, "change its root"))
    out.append(parent.Await(clone, b"ready"))
    if images:
        from .steps.quotas import LetGoOfImages

        out.append(LetGoOfImages(images))
    if plan.mechanism("enter") == "agent":
        from .steps.agent import RecordAgent

        out.append(RecordAgent(state, clone))
    out += tracer_steps(bundle, clone, state.folder)
    return out + watcher_steps(bundle, plan, state)


def watcher_steps(bundle: Bundle, plan: Plan, state: State) -> list[Step]:
    """The process that keeps limits which no controller keeps."""
    watched = [plan.mechanism(f"cgroup.{name}") == "watcher" for name in ("memory", "pids", "cpu.quota")]
    if not any(watched):
        return []
    from .steps.watching import StartWatcher

    return [StartWatcher(state, bundle, *watched)]


def tracer_steps(bundle: Bundle, clone: cloning.NewProcess, folder: str) -> list[Step]:
    """The tracer of a prepared process, where its programs need one."""
    if bundle.tracing is None:
        return []
    from .steps.tracing import StartTracer

    return [StartTracer(clone, bundle.tracing, folder)]


def _child_steps(
    bundle: Bundle,
    plan: Plan,
    state: State,
    options: Options,
    channel: Channel,
    root: Root,
    fds: dict[str, int],
    late: list[str],
    listener: _socket.socket | None,
    images: MakeImages | None,
) -> list[Step]:
    user = bundle.user
    extra = MS_NOSUID if plan.mechanism("no-new-privs") == "nosuid-mounts" or bundle.users else 0
    by_parent = joined_by_parent(bundle.namespaces, state.cgroup, plan.mechanism("cgroup-v2-entry"))
    # Joining a v2 group waits for an RCU grace period (8-45 ms here): the child builds its root meanwhile.
    placed: list[Step] = [process.WaitForParent(channel)] if by_parent else []
    out: list[Step] = [process.NewSession()]
    if 1 not in by_parent:
        out.append(process.EnterCgroups(state.cgroup))
    joined = [name for name, path in bundle.namespaces.items() if path]
    if joined and "user" not in joined:
        out.append(process.JoinNamespaces([name for name in joined if name != "pid"], fds))
    out += oom_steps(bundle, None)
    if bundle.creates("user"):
        out.append(process.WaitForParent(channel))
        uid = 0 if maps_root(bundle, "uidMappings") else user.get("uid", 0)
        gid = 0 if maps_root(bundle, "gidMappings") else user.get("gid", 0)
        out.append(process.BecomeNamespaceRoot(uid, gid))
    out.append(process.HideFromTracers())
    if late:
        flags = 0
        for name in late:
            flags |= NAMESPACES[name][0]
        out += [*placed, process.UnshareLate(flags, time_offsets(bundle) if "time" in late else "")]
        placed = []
    if bundle.config.get("hostname") or bundle.config.get("domainname"):
        out.append(process.NameHost(bundle.config.get("hostname", ""), bundle.config.get("domainname", "")))
    if bundle.creates("network"):
        out.append(process.RaiseLoopback())
    if bundle.networks:
        from .steps.network import HandOverNetwork

        out.append(HandOverNetwork(channel))
        placed = [*placed, process.WaitForParent(channel)]  # the network is set up while the child builds its root
    if options.new_keyring and plan.mechanism("session-keyring") == "native":
        out.append(process.NewKeyring(state.id))
    mounts, read_only = _mount_steps(bundle, plan, state, root, "cgroup" in late, extra, images)
    out += mounts
    if bundle.process.get("terminal"):
        from .steps import console

        out.append(
            console.MakeConsole(
                root,
                channel,
                options.console_socket,
                bundle.process.get("consoleSize"),
                user.get("uid", 0),
                connect=os.path.isdir(state.folder),
            )
        )
    out += placed
    out += _enter_steps(bundle, plan, state, channel, root, read_only, extra)
    made = make(bundle, plan, state, options.keep_fds)
    out += limits_of_oneself(bundle, plan.mechanism)
    if plan.mechanism("enter") == "agent" and os.path.isdir(state.folder):
        from . import agent
        from .steps.agent import StartAgent

        limits = plan.mechanism("capabilities.bounding") == "native"
        out.append(StartAgent(bundle, state.id, state.listen(agent.SOCKET), made.own, limits))
    if bundle.process.get("rlimits") and "user" not in bundle.namespaces:
        out.append(process.SetRlimits(bundle.process["rlimits"]))
    out += process_steps(bundle, plan, channel, listener, state, made)
    return out


def _mount_steps(
    bundle: Bundle, plan: Plan, state: State, root: Root, cgroupns: bool, extra: int, images: MakeImages | None
) -> tuple[list[Step], list[str]]:
    """Mounts and devices; and the places to make read-only once everything is there."""
    out: list[Step] = [rootfs.CutPropagation(root, bundle.linux.get("rootfsPropagation", ""))]
    if images:
        from .steps.quotas import MountImages

        out.append(MountImages(images, extra))
    out.append(rootfs.BindRoot(root, images.place("/") if images else root.path, extra))
    read_only = []
    if plan.mechanism("glibc") == "rewritten-libc":
        for path, _, file in library_files(bundle, state):
            entry: dict[str, Any] = {"destination": path, "type": "bind", "source": file, "options": ["bind", "ro"]}
            out.append(rootfs.MountEntry(root, entry, bundle.path, "", extra))
    for entry in images.entries(bundle.mounts) if images else bundle.mounts:
        if entry.get("type") == "mqueue" and plan.mechanism("fs.mqueue") == "none":
            continue
        if entry.get("type") in ("cgroup", "cgroup2") and not is_bind(entry):
            from .steps.cgroupmounts import MountCgroups

            out.append(MountCgroups(root, entry, state.cgroup, cgroupns))
            continue
        label = bundle.linux.get("mountLabel", "") if plan.mechanism("selinux") == "native" else ""
        step = rootfs.MountEntry(root, entry, bundle.path, plan.mechanism("recursive-attributes"), extra, label,
                                 bundle.annotations.get(WITHIN_ANNOTATION, ""))  # fmt: skip
        if bundle.users and not is_bind(entry):
            step.options.data = bundle.users.mount_data(entry["type"], step.options.data)
        out.append(step)
        if entry.get("type") == "tmpfs" and MountOptions(entry.get("options") or []).flags & MS_RDONLY:
            read_only.append(step.destination)
    if plan.mechanism("capabilities.ambient") == "file-capabilities" and bundle.capable:
        copy = bundle.capable.copy(state.id)
        entry = {"destination": bundle.capable.place, "type": "bind", "source": copy, "options": ["bind", "ro"]}
        out.append(rootfs.MountEntry(root, entry, bundle.path, "", extra))
    if plan.mechanism("views"):
        from .steps.views import ShowViews

        out.append(ShowViews(root, state))
    covered = {os.path.normpath("/" + entry["destination"].lstrip("/")): is_bind(entry) for entry in bundle.mounts}
    if not covered.get("/dev"):
        by = plan.mechanism("device-nodes")
        asked = bundle.linux.get("devices") or []
        made = [bundle.users.device(device) for device in asked] if bundle.users else asked
        out.append(devices.MakeDevices(root, made, by, covered))
    out.append(rootfs.MakeWorkingDirectory(root, bundle.process["cwd"]))
    return out, read_only


def _enter_steps(
    bundle: Bundle, plan: Plan, state: State, channel: Channel, root: Root, read_only: list[str], extra: int
) -> list[Step]:
    """Hooks before the change of root, masks, and the change of root."""
    out: list[Step] = []
    if bundle.linux.get("sysctl"):
        out.append(rootfs.SetSysctls(bundle.linux["sysctl"]))
    if bundle.hooks("prestart") or bundle.hooks("createRuntime"):
        out.append(process.WaitForParent(channel, b"mounted"))
    if bundle.hooks("createContainer"):
        hooks = bundle.hooks("createContainer")
        out.append(process.RunContainerHooks("createContainer", hooks, state.oci("creating"), cwd=root.path))
    if bundle.linux.get("readonlyPaths"):
        out.append(rootfs.ProtectPaths(root, bundle.linux["readonlyPaths"]))
    if plan.mechanism("layers") == "hard-links":
        from ..compat.layers.tree import PROGRAMS

        out.append(rootfs.ProtectPaths(root, [f"/{name}" for name in PROGRAMS]))
    if bundle.linux.get("maskedPaths"):
        out.append(rootfs.MaskPaths(root, bundle.linux["maskedPaths"]))
    if extra:
        from .steps.users import IgnoreSetId

        out.append(IgnoreSetId(root))
    whole = bool(bundle.config["root"].get("readonly"))
    if read_only or whole:
        out.append(rootfs.FinishReadOnly(root, read_only, whole))
    out.append(rootfs.EnterRoot(root, plan.mechanism("root-change"), bundle.linux.get("rootfsPropagation", "")))
    return out


def limits_of_oneself(bundle: Bundle, mechanism_of: Callable[[str], str]) -> list[Step]:
    """What a process does about limits that no controller keeps."""
    ways = [mechanism_of(f"cgroup.{name}") for name in ("cpu", "cpuset", "blkio")]
    if not {"nice", "affinity", "io-priority"}.intersection(ways):
        return []
    from .steps import scheduling

    return scheduling.limits_of_oneself(bundle.resources, mechanism_of)


def map_lines(section: dict[str, Any], key: str) -> list[tuple[int, int, int]]:
    """An id map's lines: (inside, outside, count)."""
    return [(entry["containerID"], entry["hostID"], entry["size"]) for entry in section.get(key) or []]


def maps_root(bundle: Bundle, key: str) -> bool:
    """Whether id 0 exists inside the new user namespace."""
    return any(inside <= 0 < inside + count for inside, _, count in map_lines(bundle.linux, key))
