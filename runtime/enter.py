"""Steps of `exec`: a process beside a container's own, in its namespaces, cgroups and privileges."""

from __future__ import annotations

from ..compat.errors import StateError
from ..compat.namespaces import NAMESPACES, same
from ..probes.plan import Plan
from .build import tracer_steps
from .bundle import Bundle
from .channel import Channel
from .launch import Start, let_go, run_child
from .placing import is_born_in_v2, joined_by_parent, oom_steps
from .process_steps import process_steps
from .state import State
from .steps import Step, cloning, parent, process


def enter_steps(
    state: State, bundle: Bundle, plan: Plan, console_socket: str, keep_fds: int, sub_groups: dict[str, str]
) -> Start:
    """The steps of one exec. `bundle.process` is the process to run; everything else is the container's.

    `sub_groups` are groups below the container's own to run it in: controller (or "" for all) -> relative path.
    """
    channel = Channel()
    cgroup = state.cgroup.below(sub_groups)
    cgroup.beside = 0 if sub_groups else state.pid
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
    affinity = bundle.process.get("execCPUAffinity") or {}
    first = oom_steps(bundle, None)
    if 1 not in by_parent:
        first.append(process.EnterCgroups(cgroup))
    if affinity:
        from .steps.scheduling import SetAffinity

        first = [SetAffinity(affinity["initial"]), *first] if affinity.get("initial") else first
        child += [SetAffinity(affinity["final"])] if affinity.get("final") else []
    clone.first = tuple(first)
    if by_parent:
        child.insert(0, process.WaitForParent(channel))
    child += [process.NewSession(), process.HideFromTracers()]
    if bundle.process.get("rlimits") and "user" not in bundle.namespaces:
        child.append(process.SetRlimits(bundle.process["rlimits"]))
    if bundle.process.get("terminal"):
        from .steps import console

        user = bundle.process.get("user") or {}
        child.append(
            console.OpenConsole(channel, console_socket, bundle.process.get("consoleSize"), user.get("uid", 0))
        )
    hookless = State("", state.id, state.bundle, state.rootfs)
    child += process_steps(bundle, plan, channel, None, hookless, keep_fds)
    before: list[Step] = [clone, *oom_steps(bundle, clone)]
    if by_parent:
        before.append(parent.JoinCgroup(cgroup, clone, by_parent))
    if bundle.process.get("rlimits") and "user" in bundle.namespaces:
        before.append(parent.SetRlimitsFromOutside(clone, bundle.process["rlimits"]))
    if by_parent:
        before.append(parent.Release(clone, "enter the container"))
    before.append(parent.Await(clone, b"ready"))
    before += tracer_steps(bundle, clone, "")
    return Start(tuple(before), tuple(child), channel, clone)
