"""What a bundle's resources become: its cgroups, the settings that the plan leaves to them, the device rules."""

from __future__ import annotations

import os

from ..compat.cgroup import layout
from ..compat.cgroup.group import Cgroup
from ..probes.plan import Plan
from .bundle import Bundle
from .state import State
from .steps import Step, parent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Added after a bundle's own device rules, as runc does: the default devices, terminals, and mknod of anything.
DEFAULT_DEVICE_RULES: tuple[dict[str, Any], ...] = (
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *({"allow": True, "type": "c", "major": 1, "minor": minor, "access": "rwm"} for minor in (3, 5, 7, 8, 9)),
    {"allow": True, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 1, "access": "rwm"},
    {"allow": True, "type": "c", "major": 5, "minor": 2, "access": "rwm"},
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
)


def cgroup_of(bundle: Bundle, container: str, plan: Plan) -> Cgroup:
    """The container's groups in the hierarchies that are mounted now and that this user may write to."""
    hierarchies = [item for item in layout.hierarchies() if os.access(item.mount, os.W_OK)]
    return Cgroup.at(hierarchies, cgroup_path(bundle, container))


def cgroup_path(bundle: Bundle, container: str) -> str:
    """The groups' path below each hierarchy: linux.cgroupsPath, relative ones and the default below /joey."""
    path = bundle.linux.get("cgroupsPath") or container
    return os.path.normpath(path if path.startswith("/") else f"/{layout.DEFAULT_PARENT}/{path}")


def cgroup_steps(bundle: Bundle, plan: Plan, state: State) -> list[Step]:
    """Cgroups made and limited, before there is a process for them."""
    cgroup = state.cgroup
    out: list[Step] = []
    path = cgroup_path(bundle, state.id)
    for choice in plan.choices.values():
        if choice.mechanism == "v1-own-mount":
            by_rules = choice.feature.startswith("device-rules")
            controller = "devices" if by_rules else choice.feature.removeprefix("cgroup.")
            out.append(parent.MountHierarchy(cgroup, controller, path))
    if cgroup.groups or out:
        out.append(parent.MakeCgroup(cgroup, state))
    resources = granted(bundle.resources, plan)
    if resources:
        out.append(parent.LimitCgroup(cgroup, resources))
    if limits_devices(plan):
        out.append(parent.LimitDevices(cgroup, device_rules(bundle.resources.get("devices") or [], bundle)))
    return out


def limits_devices(plan: Plan) -> bool:
    """Whether a cgroup keeps the container to its device rules."""
    by = plan.mechanism("device-rules") or plan.mechanism("device-rules-default")
    return by not in ("", "user-namespace", "none")


def granted(resources: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The resources that cgroups are to keep: without what the plan gives to another mechanism, or up."""
    out = {key: value for key, value in resources.items() if key != "devices"}
    sections = {"memory": "memory", "pids": "pids", "blockIO": "blkio", "hugepageLimits": "hugetlb", "rdma": "rdma"}
    for section, controller in sections.items():
        if not _by_cgroup(plan, f"cgroup.{controller}"):
            out.pop(section, None)
    for section, keys, feature in (
        ("cpu", ("cpus", "mems"), "cgroup.cpuset"),
        ("cpu", ("shares", "quota", "period", "burst", "idle", "realtimeRuntime", "realtimePeriod"), "cgroup.cpu"),
        ("cpu", ("quota", "period"), "cgroup.cpu.quota"),
        ("cpu", ("burst",), "cgroup.cpu.burst"),
        ("cpu", ("idle",), "cgroup.cpu.idle"),
        ("cpu", ("realtimeRuntime", "realtimePeriod"), "cgroup.cpu.realtime"),
        ("memory", ("swap",), "cgroup.memory.swap"),
        ("memory", ("swappiness",), "cgroup.memory.swappiness"),
        ("memory", ("kernel",), "cgroup.memory.kmem"),
        ("memory", ("disableOOMKiller",), "cgroup.memory.oom-disable"),
        ("memory", ("kernelTCP",), "cgroup.memory.kmem-tcp"),
        ("network", ("classID",), "cgroup.net_cls"),
        ("network", ("priorities",), "cgroup.net_prio"),
        ("blockIO", ("weight", "leafWeight", "weightDevice"), "cgroup.blkio.weight"),
    ):
        if not _by_cgroup(plan, feature) and section in out:
            out[section] = {key: value for key, value in out[section].items() if key not in keys}
    if not _by_cgroup(plan, "cgroup.blkio.throttle") and "blockIO" in out:
        out["blockIO"] = {key: value for key, value in out["blockIO"].items() if not key.startswith("throttle")}
    return {key: value for key, value in out.items() if value}


def _by_cgroup(plan: Plan, feature: str) -> bool:
    """Whether a feature is left to cgroups; also what the bundle does not ask for."""
    return plan.mechanism(feature) in ("", "v1", "v2", "v1-own-mount", "native")


def device_rules(asked: list[dict[str, Any]], bundle: Bundle) -> list[dict[str, Any]]:
    """The rules in their order: those asked for, the default devices', and those of the devices the bundle makes."""
    made = [
        {"allow": True, "type": device["type"], "major": device["major"], "minor": device["minor"], "access": "rwm"}
        for device in bundle.linux.get("devices") or []
        if device["type"] != "p"
    ]
    return [*asked, *DEFAULT_DEVICE_RULES, *made]
