"""What a bundle needs of a kernel: features of probes/ladder.py, with the config.json fields that ask for them."""

from __future__ import annotations

from ..compat.cgroup.settings import controllers_needed
from ..compat.errors import BundleError
from ..compat.mountflags import MountOptions
from ..compat.namespaces import NAMESPACES
from ..compat.seccomp.words import allows
from ..probes.plan import Need
from .bundle import Bundle, is_bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

QUOTA_ANNOTATION = "io.joey.disk-quota"
NETWORK_ANNOTATION = "io.joey.network"
LAYERS_ANNOTATION = "io.joey.layers"
LAYERS_PLACE_ANNOTATION = "io.joey.layers.at"
WITHIN_ANNOTATION = "io.joey.mounts.within"  # a directory of the root: no link below it leads out of it
VIEW_ANNOTATION = "io.joey.views"
SECCOMP_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": "seccomp.tsync",
    "SECCOMP_FILTER_FLAG_LOG": "seccomp.log-flag",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": "seccomp.spec-allow",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": "seccomp.wait-killable",
}
_SECCOMP_ACTIONS = {
    "SCMP_ACT_NOTIFY": "seccomp.notify",
    "SCMP_ACT_LOG": "seccomp.log-action",
    "SCMP_ACT_KILL_PROCESS": "seccomp.kill-process",
}


def needs(bundle: Bundle) -> list[Need]:
    """Every feature the bundle needs, each with the field that asks first."""
    if bundle.pretended:
        return [*_seccomp_needs(bundle), *_resource_needs(bundle.resources)]
    out = [Need("root-change", "root.path"), Need("path-resolution", "root.path")]
    inside = "-in-userns" if "user" in bundle.namespaces else ""
    for place, entry in enumerate(bundle.linux.get("namespaces") or []):
        kind = NAMESPACES[entry["type"]][1]
        field = f"linux.namespaces[{place}]"
        name = f"{kind}ns" if kind == "user" else f"{kind}ns{inside}"
        out.append(Need(f"setns.{kind}" if entry.get("path") else name, field))
    if bundle.namespaces.get("pid") and "user" not in bundle.namespaces:
        out.append(Need("interpreter-copy", "linux.namespaces"))  # of those in there nothing is known
    elif field := _no_room_for_the_stub(bundle):
        out.append(Need("interpreter-copy", field))
    out += _mount_needs(bundle)
    out += [Need("session-keyring", "process"), Need("cgroup-v2-entry", "linux.cgroupsPath")]
    out.append(Need("enter", "linux.namespaces"))
    out += process_needs(bundle)
    out += _seccomp_needs(bundle)
    out += _resource_needs(bundle.resources)
    if bundle.resources.get("devices") or _could_open_devices(bundle):
        field = "linux.resources.devices" if bundle.resources.get("devices") else "process.capabilities"
        out.append(Need("device-rules", field))
    elif "user" not in bundle.namespaces:
        out.append(Need("device-rules-default", "root.path"))
    return out


def quota_words(bundle: Bundle) -> list[str]:
    """The disk quotas that a bundle asks for by its annotation, as `--disk-quota` has them; ";" between two."""
    return bundle.annotations.get(QUOTA_ANNOTATION, "").replace(";", " ").split()


def layers_place(bundle: Bundle) -> str:
    """Where a bundle has its layers by its annotation, when not at its root: a name in the bundle; "" for its root.

    Raises BundleError for what is no name.
    """
    name = bundle.annotations.get(LAYERS_PLACE_ANNOTATION, "")
    if name and ("/" in name or name in (".", "..") or f"{bundle.path}/{name}" == bundle.rootfs):
        raise BundleError(f"annotations[{LAYERS_PLACE_ANNOTATION!r}]", f'"{name}" is no name beside the root')
    return name


def layer_words(bundle: Bundle) -> list[str]:
    """The layers that a bundle asks for by its annotation, lowest first; ";" between two."""
    return [word for word in bundle.annotations.get(LAYERS_ANNOTATION, "").split(";") if word]


def network_words(bundle: Bundle) -> list[str]:
    """The networks that a bundle asks for by its annotation, as `--network` has them; ";" between two."""
    return bundle.annotations.get(NETWORK_ANNOTATION, "").replace(";", " ").split()


def asks_for_views(bundle: Bundle) -> bool:
    """Whether a bundle asks by its annotation for views of its own. Raises BundleError for a word that is none."""
    word = bundle.annotations.get(VIEW_ANNOTATION, "off")
    if word not in ("on", "off"):
        raise BundleError(f"annotations[{VIEW_ANNOTATION!r}]", f'"{word}" is neither "on" nor "off"')
    return word == "on"


def exec_needs(bundle: Bundle, by_agent: bool) -> list[Need]:
    """What `exec` into a running container needs; `by_agent`: it was made with an agent inside."""
    if bundle.pretended:
        return _seccomp_needs(bundle)
    out = [
        Need(f"setns.{NAMESPACES[entry['type']][1]}", f"linux.namespaces[{place}]")
        for place, entry in enumerate(bundle.linux.get("namespaces") or [])
        if not by_agent
    ]
    return [
        *out,
        *copy_needs(bundle),
        Need("cgroup-v2-entry", "linux.cgroupsPath"),
        *process_needs(bundle),
        *_seccomp_needs(bundle),
    ]


def copy_needs(bundle: Bundle) -> list[Need]:
    """Whether joey is to run from a copy of its interpreter to enter a container: those in there may trace it."""
    if bundle.pretended:
        return []
    capabilities = bundle.created_process.get("capabilities") or {}
    if "CAP_SYS_PTRACE" in (capabilities.get("bounding") or []) and "user" not in bundle.namespaces:
        return [Need("interpreter-copy", "process.capabilities.bounding")]
    field = _no_room_for_the_stub(bundle)
    return [Need("interpreter-copy", field)] if field else []


def process_needs(bundle: Bundle) -> list[Need]:
    """What starting a process with its privileges needs, in a new container or in a running one."""
    process = bundle.process
    inside = "-in-userns" if "user" in bundle.namespaces else ""
    field = _no_room_for_the_stub(bundle)
    out = [] if field else [Need("interpreter-hiding", "process.args")]
    if process.get("noNewPrivileges") and not bundle.users:  # whose tracer sees to it
        out.append(Need("no-new-privs", "process.noNewPrivileges"))
    out.append(Need(f"capabilities.bounding{inside}", "process.capabilities.bounding"))
    if (
        not bundle.users
        and (process.get("capabilities") or {}).get("ambient")
        and (process.get("user") or {}).get("uid", 0) != 0
    ):
        out.append(Need("capabilities.ambient", "process.capabilities.ambient"))
    if process.get("scheduler"):
        deadline = process["scheduler"]["policy"] == "SCHED_DEADLINE" or process["scheduler"].get("flags")
        out.append(Need("scheduler-deadline" if deadline else "scheduler", "process.scheduler"))
    if process.get("apparmorProfile"):
        out.append(Need("apparmor", "process.apparmorProfile"))
    if process.get("selinuxLabel"):
        out.append(Need("selinux", "process.selinuxLabel"))
    return out


def _no_room_for_the_stub(bundle: Bundle) -> str:
    """The field that leaves the exec stub no room: it makes calls of its own, and would get the program's label."""
    for name in ("apparmorProfile", "selinuxLabel"):
        if bundle.process.get(name):
            return f"process.{name}"
    section = bundle.linux.get("seccomp")
    if section and not (allows(section, ("fcntl", "execveat")) or allows(section, ("fcntl", "execve"))):
        return "linux.seccomp"
    return ""


def _mount_needs(bundle: Bundle) -> list[Need]:
    out = []
    if bundle.config["root"].get("readonly"):
        out.append(Need("readonly-bind", "root.readonly"))
    for place, mount in enumerate(bundle.mounts):
        field = f"mounts[{place}]"
        options = MountOptions(mount.get("options") or [])
        if is_bind(mount) and options.flags & ~0x5000:
            out.append(Need("readonly-bind", f"{field}.options"))
        if options.attr_set or options.attr_clear:
            out.append(Need("recursive-attributes", f"{field}.options"))
        if options.idmap or mount.get("uidMappings"):
            out.append(
                Need("id-mapped-mounts", f"{field}.uidMappings" if mount.get("uidMappings") else f"{field}.options")
            )
        if options.flags & 256:
            out.append(Need("nosymfollow", f"{field}.options"))
        if mount.get("type") in ("proc", "devpts", "mqueue", "overlay") and not is_bind(mount):
            of_host = mount["type"] == "proc" and not bundle.creates("pid")
            out.append(Need("fs.proc-of-host" if of_host else f"fs.{mount['type']}", f"{field}.type"))
    if bundle.linux.get("readonlyPaths"):
        out.append(Need("readonly-bind", "linux.readonlyPaths"))
    if bundle.linux.get("mountLabel"):
        out.append(Need("selinux", "linux.mountLabel"))
    if bundle.linux.get("maskedPaths"):
        out.append(Need("masked-paths", "linux.maskedPaths"))
    inside = "-in-userns" if "user" in bundle.namespaces else ""
    out.append(Need(f"device-nodes{inside}", "linux.devices" if bundle.linux.get("devices") else "mounts"))
    return out


def _seccomp_needs(bundle: Bundle) -> list[Need]:
    section = bundle.linux.get("seccomp")
    if not section:
        return []
    kept = bundle.process.get("noNewPrivileges") and not bundle.users
    privileged = not kept and "user" not in bundle.namespaces
    out = [Need("seccomp-privileged" if privileged else "seccomp", "linux.seccomp")]
    for place, flag in enumerate(section.get("flags") or []):
        if flag in SECCOMP_FLAGS:
            out.append(Need(SECCOMP_FLAGS[flag], f"linux.seccomp.flags[{place}]"))
    for place, rule in enumerate(section.get("syscalls") or []):
        feature = _SECCOMP_ACTIONS.get(rule["action"])
        if feature:
            out.append(Need(feature, f"linux.seccomp.syscalls[{place}].action"))
    default = _SECCOMP_ACTIONS.get(section["defaultAction"])
    if default:
        out.append(Need(default, "linux.seccomp.defaultAction"))
    return out


def _resource_needs(resources: dict[str, Any]) -> list[Need]:
    out = [Need(f"cgroup.{name}", field) for name, field in controllers_needed(resources).items()]
    cpu, memory, block = (resources.get(name) or {} for name in ("cpu", "memory", "blockIO"))
    for asked, feature, field in (
        (cpu.get("quota"), "cgroup.cpu.quota", "cpu.quota"),
        (cpu.get("burst"), "cgroup.cpu.burst", "cpu.burst"),
        (cpu.get("idle"), "cgroup.cpu.idle", "cpu.idle"),
        (cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"), "cgroup.cpu.realtime", "cpu.realtimeRuntime"),
        (memory.get("swap"), "cgroup.memory.swap", "memory.swap"),
        (memory.get("kernel"), "cgroup.memory.kmem", "memory.kernel"),
        (memory.get("disableOOMKiller"), "cgroup.memory.oom-disable", "memory.disableOOMKiller"),
        (memory.get("swappiness"), "cgroup.memory.swappiness", "memory.swappiness"),
        (memory.get("kernelTCP"), "cgroup.memory.kmem-tcp", "memory.kernelTCP"),
        (any(name.startswith("throttle") for name in block), "cgroup.blkio.throttle", "blockIO"),
        (block.get("weight"), "cgroup.blkio.weight", "blockIO.weight"),
        (resources.get("unified"), "cgroup.unified", "unified"),
    ):
        if asked:
            out.append(Need(feature, f"linux.resources.{field}"))
    return out


def _could_open_devices(bundle: Bundle) -> bool:
    """Whether the container could make and open the host's devices unless device rules forbid it."""
    bounding = (bundle.process.get("capabilities") or {}).get("bounding") or []
    return "user" not in bundle.namespaces and "CAP_MKNOD" in bounding
