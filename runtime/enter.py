"""Steps of `exec`: a process beside a container's own, in its namespaces, cgroups and privileges."""

from __future__ import annotations

from ..compat.namespaces import NAMESPACES, same
from ..probes.plan import Plan
from .build import Start, joined_by_parent, process_steps
from .bundle import Bundle
from .channel import Channel
from .launch import run_child
from .state import State
from .steps import Step, parent, process, rootfs


def enter_steps(state: State, bundle: Bundle, plan: Plan, console_socket: str) -> Start:
    """The steps of one exec. `bundle.process` is the process to run; everything else is the container's."""
    channel = Channel()
    paths = {}
    for name, (_, file) in NAMESPACES.items():
        path = f"/proc/{state.pid}/ns/{file}"
        if name in bundle.namespaces and not same(path, f"/proc/self/ns/{file}"):
            paths[name] = path
    fds: dict[str, int] = {}
    child: list[Step] = []

    def body(left_to_join: dict[str, int]) -> None:
        fds.update(left_to_join)
        run_child(channel, tuple(child), [])

    clone = parent.CloneChild(channel, 0, paths, body, state.rootfs)
    by_parent = joined_by_parent(paths, state.cgroup)
    if by_parent:
        child.append(process.WaitForParent(channel))
    child.append(process.NewSession())
    if 1 not in by_parent:
        child.append(process.EnterCgroups(state.cgroup))
    if bundle.process.get("oomScoreAdj") is not None:
        child.append(process.AdjustOomScore(bundle.process["oomScoreAdj"]))
    if bundle.process.get("rlimits") and "user" not in bundle.namespaces:
        child.append(process.SetRlimits(bundle.process["rlimits"]))
    if "user" not in paths:
        child.append(process.JoinNamespaces([name for name in paths if name != "pid"], fds))
    if bundle.process.get("terminal"):
        user = bundle.process.get("user") or {}
        child.append(rootfs.OpenConsole(channel, console_socket, bundle.process.get("consoleSize"), user.get("uid", 0)))
    hookless = State("", state.id, state.bundle, state.rootfs)
    child += process_steps(bundle, plan, channel, None, hookless)
    before: list[Step] = [clone]
    if by_parent:
        before.append(parent.JoinCgroup(state.cgroup, clone, by_parent))
    if bundle.process.get("rlimits") and "user" in bundle.namespaces:
        before.append(parent.SetRlimitsFromOutside(clone, bundle.process["rlimits"]))
    if by_parent:
        before.append(parent.Release(clone, "enter the container"))
    before.append(parent.Await(clone, b"ready"))
    return Start(tuple(before), tuple(child), channel, clone)
