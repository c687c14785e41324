"""Steps of `exec`: a process beside a container's own, in its namespaces, cgroups and privileges."""

from __future__ import annotations

import _socket

from ..compat import terminal
from ..compat.errors import StateError
from ..compat.namespaces import NAMESPACES, same
from ..probes.plan import Plan
from .build import limits_of_oneself, tracer_steps
from .bundle import Bundle
from .channel import Channel
from .launch import Start, let_go, run_child
from .placing import is_born_in_v2, joined_by_parent, oom_steps
from .process_steps import Made, make, process_steps
from .state import State
from .steps import Step, cloning, parent, process


def enter_steps(
    state: State, bundle: Bundle, plan: Plan, console_socket: str, keep_fds: int, sub_groups: dict[str, str]
) -> Start:
    """The steps of one exec. `bundle.process` is the process to run; everything else is the container's.

    `sub_groups` are groups below the container's own to run it in: controller (or "" for all) -> relative path.
    """
    if bundle.pretended:
        from .unprivileged import enter_steps as pretended_steps

        return pretended_steps(state, bundle, plan, console_socket, keep_fds)
    channel = Channel()
    cgroup = state.cgroup.below(sub_groups)
    cgroup.beside = 0 if sub_groups else state.pid
    if bundle.tracing:
        from .tracing import limit_forks

        limit_forks(bundle, lambda feature: state.mechanisms.get(feature, ""), state)
    made = make(bundle, plan, state, keep_fds)
    console = terminal.connect_unix(console_socket) if console_socket else None
    if state.mechanisms.get("enter") == "agent":
        from .steps.agent import AskAgent

        asked = AskAgent(channel, state, bundle, plan, made, console, keep_fds)
        versions = tuple(sorted({group.version for group in cgroup.groups}))
        join: list[Step] = [parent.JoinCgroup(cgroup, asked, versions)] if versions else []
        return Start(tuple(_parent_steps(bundle, asked, join, waits=True)), (), channel, asked)
    paths = {}
    for name, (_, file) in NAMESPACES.items():
        path = f"/proc/{state.pid}/ns/{file}"
        if name in bundle.namespaces and not same(path, f"/proc/self/ns/{file}"):
            paths[name] = path
    child: list[Step] = []

    def release(kept: set[int]) -> None:
        let_go(channel, tuple(child), keep_fds, kept)

    def body(left_to_join: dict[str, int], whole: bool) -> None:
        run_child(channel, tuple(child), [], None)

    def verify() -> None:
        """The files that are open by now are the container's only if its process still lives."""
        if not state.alive() or "mount" not in paths:
            raise StateError("container not running", slug="not-running")

    clone = cloning.CloneChild(channel, 0, paths, release, body, state.rootfs)
    clone.verify = verify
    clone.enters = tuple(paths)
    by_parent = joined_by_parent(paths, cgroup, plan.mechanism("cgroup-v2-entry"))
    if is_born_in_v2(paths, cgroup, plan.mechanism("cgroup-v2-entry")):
        clone.cgroup = cgroup
    clone.first = tuple(first_steps(bundle) + limits_of_oneself(bundle, lambda name: state.mechanisms.get(name, "")))
    if 1 not in by_parent:
        clone.first = (*clone.first, process.EnterCgroups(cgroup))
    hookless = State("", state.id, state.bundle, state.rootfs)
    child += inside_steps(bundle, plan, channel, hookless, made, console, waits=bool(by_parent))
    join = [parent.JoinCgroup(cgroup, clone, by_parent)] if by_parent else []
    return Start(tuple(_parent_steps(bundle, clone, join, waits=bool(by_parent))), tuple(child), channel, clone)


def first_steps(bundle: Bundle) -> list[Step]:
    """What the process does first: before it enters, where it is to."""
    initial = (bundle.process.get("execCPUAffinity") or {}).get("initial")
    out: list[Step] = []
    if initial:
        from .steps.scheduling import SetAffinity

        out.append(SetAffinity(initial))
    return out + oom_steps(bundle, None)


def _parent_steps(bundle: Bundle, clone: cloning.NewProcess, join: list[Step], waits: bool) -> list[Step]:
    out: list[Step] = [clone, *oom_steps(bundle, clone), *join]
    if bundle.process.get("rlimits") and "user" in bundle.namespaces:
        out.append(parent.SetRlimitsFromOutside(clone, bundle.process["rlimits"]))
    if waits:
        out.append(parent.Release(clone, "enter the container"))
    out.append(parent.Await(clone, b"ready"))
    return out + tracer_steps(bundle, clone, "")


def inside_steps(
    bundle: Bundle,
    plan: Plan,
    channel: Channel,
    state: State,
    made: Made,
    console: _socket.socket | None,
    waits: bool,
) -> list[Step]:
    """The steps of a process that is in the container's namespaces by now; `waits`: for its parent to place it."""
    affinity = bundle.process.get("execCPUAffinity") or {}
    out: list[Step] = [process.WaitForParent(channel)] if waits else []
    if affinity.get("final"):
        from .steps.scheduling import SetAffinity

        out.append(SetAffinity(affinity["final"]))
    out += [process.NewSession(), process.HideFromTracers()]
    if bundle.process.get("rlimits") and "user" not in bundle.namespaces:
        out.append(process.SetRlimits(bundle.process["rlimits"]))
    if bundle.process.get("terminal"):
        from .steps import console as consoles

        uid = bundle.user.get("uid", 0)
        out.append(consoles.OpenConsole(channel, console, bundle.process.get("consoleSize"), uid))
    return out + process_steps(bundle, plan, channel, None, state, made)
