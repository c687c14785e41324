"""A bundle: config.json read, checked and refused where joey can't do what it asks; with its root file system."""

from __future__ import annotations

import errno
import os

from ..compat import files, jsonio
from ..compat.constants import CAPABILITIES, RLIMITS
from ..compat.errors import BundleError
from ..compat.mountflags import MountOptions
from ..compat.procfs import sysctl_path
from . import schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..compat.network.words import Network
    from ..compat.tracing.tracer import Options as TracerOptions
    from .capable import Program
    from .layers import Layers
    from .quota import DiskQuota
    from .users import HostIds

CONFIG_LIMIT = 8 << 20

# Fields that joey knows and does not do yet: refused by name, because ignoring them would be a silent loss.
UNSUPPORTED = {
    "process": ("commandLine",),
    "linux": ("intelRdt", "memoryPolicy", "netDevices"),
    "": ("solaris", "windows", "vm", "zos"),
}

# Sysctls that belong to a namespace: without it they would change the host. Source: runc's validator, namespaces(7).
_IPC_SYSCTLS = ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
                "kernel.shmmni", "kernel.shm_rmid_forced")  # fmt: skip


class Bundle:
    """`path` is the bundle's absolute folder, `config` the checked document, `rootfs` the absolute root folder."""

    __slots__ = (
        "capable",
        "config",
        "created_process",
        "layers",
        "linux",
        "namespaces",
        "networks",
        "path",
        "pretended",
        "process",
        "quota",
        "rewritten",
        "rootfs",
        "tracing",
        "users",
    )

    def __init__(self, path: str, config: dict[str, Any], rootfs: str) -> None:
        self.path = path
        self.config = config
        self.rootfs = rootfs
        self.process: dict[str, Any] = config["process"]
        self.created_process = self.process  # `process` is another one's in an exec
        self.rewritten: dict[str, str] = {}  # files of the C library, and what is put over them on an old kernel
        self.capable: Program | None = None  # its program, where that is to have file capabilities
        self.layers: Layers | None = None  # what its root is made of
        self.networks: list[Network] = []  # what its network namespace is attached to, beside its loopback
        self.quota: DiskQuota | None = None  # limits of its directories
        self.tracing: TracerOptions | None = None  # how its processes are traced, where they are
        self.users: HostIds | None = None  # where its user namespace is emulated
        self.pretended = False  # a tracer makes all that its namespaces would (runtime/unprivileged.py)
        self.linux: dict[str, Any] = config.get("linux") or {}
        self.namespaces: dict[str, str] = {
            entry["type"]: entry.get("path", "") for entry in self.linux.get("namespaces") or []
        }

    @property
    def mounts(self) -> list[dict[str, Any]]:
        return self.config.get("mounts") or []

    @property
    def annotations(self) -> dict[str, str]:
        return self.config.get("annotations") or {}

    @property
    def user(self) -> dict[str, Any]:
        """`process.user`, with the ids that the kernel is to see."""
        user = self.process.get("user") or {}
        return self.users.user(user) if self.users else user

    @property
    def resources(self) -> dict[str, Any]:
        return self.linux.get("resources") or {}

    def emulate_users(self) -> None:
        """Have it run without its user namespace, by the host ids that it maps."""
        from .users import HostIds

        self.users = HostIds(self.linux)
        entries = [entry for entry in self.linux["namespaces"] if entry["type"] != "user"]
        self.linux = {**self.linux, "namespaces": entries}
        del self.namespaces["user"]

    def pretend(self) -> None:
        """Have it run as this user's own processes, without any namespace."""
        self.pretended = True
        self.linux = {**self.linux, "namespaces": []}
        self.namespaces = {}

    def hooks(self, kind: str) -> list[dict[str, Any]]:
        """The hooks of one kind ("poststop"), in their order."""
        return (self.config.get("hooks") or {}).get(kind) or []

    def creates(self, namespace: str) -> bool:
        """Whether the container gets a new namespace of this type (listed, without a path)."""
        return self.namespaces.get(namespace) == ""


def load(path: str) -> Bundle:
    """Read and check `path`/config.json. Raises BundleError naming the field, and what to do."""
    folder = os.path.abspath(path)
    file = f"{folder}/config.json"
    try:
        text = files.read_text(file, CONFIG_LIMIT)
    except OSError as error:
        hint = "make one with `joey spec`" if error.errno == errno.ENOENT else ""
        raise BundleError("", f"can't read {file}: {os.strerror(error.errno or 0)}", hint) from None
    return parse(folder, text, file)


def parse(folder: str, text: str, file: str) -> Bundle:
    """The bundle of a config.json's text; `file` names it in messages."""
    try:
        document = jsonio.loads(text)
    except ValueError as error:
        raise BundleError("", f"{file} is not JSON: {error}") from None
    config = schema.without_nulls(document)
    schema.CONFIG(config, "")
    root = config["root"]["path"]
    # mount tables name real paths, and every mount is compared with them
    bundle = Bundle(folder, config, os.path.realpath(root if root.startswith("/") else f"{folder}/{root}"))
    _check_version(config["ociVersion"])
    _check_unsupported(config)
    _check_namespaces(bundle)
    _check_process(bundle)
    _check_linux(bundle)
    for place, mount in enumerate(bundle.mounts):
        _check_mount(mount, f"mounts[{place}]", bundle)
    return bundle


def check_rootfs(bundle: Bundle) -> None:
    """The root file system must be a directory on this machine."""
    if not os.path.isdir(bundle.rootfs):
        raise BundleError("root.path", f"{bundle.rootfs} is not a directory")
    if bundle.rootfs == "/":
        raise BundleError("root.path", "is the host's own root", "copy or bind-mount it to a folder of its own")


def _check_version(version: str) -> None:
    if version.split(".")[0] != "1":
        raise BundleError("ociVersion", f'"{version}" is not a 1.x version of the runtime-spec')


def _check_unsupported(config: dict[str, Any]) -> None:
    for section in UNSUPPORTED:
        value: Any = config
        for part in section.split(".") if section else ():
            value = value.get(part) or {}
        _refuse_unsupported(section, value)


def _refuse_unsupported(section: str, value: dict[str, Any]) -> None:
    for name in UNSUPPORTED[section]:
        if value.get(name):
            raise BundleError(f"{section}.{name}".lstrip("."), "is not supported", "remove it to run without")


def check_process(process: dict[str, Any]) -> None:
    """What the schema can't say of a `process` object; also for `exec --process`."""
    _refuse_unsupported("process", process)
    if not process["args"]:
        raise BundleError("process.args", "must name a program")
    seen = set()
    for place, limit in enumerate(process.get("rlimits") or []):
        field = f"process.rlimits[{place}]"
        if limit["type"] not in RLIMITS:
            raise BundleError(f"{field}.type", f'unknown limit "{limit["type"]}"', "one of: " + ", ".join(RLIMITS))
        if limit["type"] in seen:
            raise BundleError(f"{field}.type", f"{limit['type']} is given twice")
        if limit["soft"] > limit["hard"]:
            raise BundleError(f"{field}.soft", f"{limit['soft']} is above the hard limit {limit['hard']}")
        seen.add(limit["type"])
    _check_scheduler(process.get("scheduler") or {})


def _check_scheduler(scheduler: dict[str, Any]) -> None:
    policy = scheduler.get("policy", "")
    field = "process.scheduler"
    deadline = [name for name in ("runtime", "deadline", "period") if scheduler.get(name)]
    if policy != "SCHED_DEADLINE" and deadline:
        raise BundleError(f"{field}.{deadline[0]}", f"goes with SCHED_DEADLINE, not with {policy}")
    if scheduler.get("priority") and policy not in ("SCHED_FIFO", "SCHED_RR"):
        raise BundleError(f"{field}.priority", f"goes with SCHED_FIFO and SCHED_RR, not with {policy}")
    if scheduler.get("nice") and policy not in ("SCHED_OTHER", "SCHED_BATCH"):
        raise BundleError(f"{field}.nice", f"goes with SCHED_OTHER and SCHED_BATCH, not with {policy}")
    if policy == "SCHED_ISO":
        raise BundleError(f"{field}.policy", "SCHED_ISO is in no Linux kernel", "choose another policy")


def unknown_capabilities(process: dict[str, Any]) -> list[str]:
    """Names of capabilities nobody knows: to be warned of, not refused (config.md, "capabilities")."""
    sets = process.get("capabilities") or {}
    names = {name for kind in schema.CAPABILITY_SETS for name in sets.get(kind) or []}
    return sorted(names - set(CAPABILITIES))


def _check_process(bundle: Bundle) -> None:
    check_process(bundle.process)
    if bundle.config.get("hostname") and "uts" not in bundle.namespaces:
        raise BundleError("hostname", "needs a uts namespace: it would rename the host")
    if bundle.config.get("domainname") and "uts" not in bundle.namespaces:
        raise BundleError("domainname", "needs a uts namespace: it would rename the host")


def _check_namespaces(bundle: Bundle) -> None:
    entries = bundle.linux.get("namespaces") or []
    if len(entries) != len(bundle.namespaces):
        kinds = [entry["type"] for entry in entries]
        twice = next(kind for kind in kinds if kinds.count(kind) > 1)
        raise BundleError("linux.namespaces", f'type "{twice}" is given twice')
    for place, entry in enumerate(entries):
        if entry.get("path"):
            schema.absolute(entry["path"], f"linux.namespaces[{place}].path")
    if "mount" not in bundle.namespaces:
        raise BundleError(
            "linux.namespaces", "has no mount namespace", 'add {"type": "mount"}: without it every mount is the host\'s'
        )
    mapped = bundle.linux.get("uidMappings") or bundle.linux.get("gidMappings")
    if mapped and "user" not in bundle.namespaces:
        raise BundleError("linux.uidMappings", "needs a user namespace")
    if bundle.creates("user") and not (bundle.linux.get("uidMappings") and bundle.linux.get("gidMappings")):
        raise BundleError("linux.uidMappings", "a new user namespace needs uidMappings and gidMappings")


def _check_linux(bundle: Bundle) -> None:
    if bundle.linux.get("seccomp"):
        from ..compat.seccomp.words import check as check_seccomp

        check_seccomp(bundle.linux["seccomp"])
    if (bundle.linux.get("personality") or {}).get("flags"):
        raise BundleError("linux.personality.flags", "no flags are defined by the runtime-spec", "leave them out")
    if bundle.linux.get("timeOffsets") and not bundle.creates("time"):
        raise BundleError("linux.timeOffsets", "needs a new time namespace")
    path = bundle.linux.get("cgroupsPath", "")
    if ".." in path.split("/"):
        raise BundleError("linux.cgroupsPath", f'"{path}" leaves the hierarchy by ".."')
    if path and not path.strip("/."):
        raise BundleError(
            "linux.cgroupsPath", f'"{path}" is the root of the hierarchy: every process of the host is in it'
        )
    if path.count(":") == 2 and not path.startswith("/"):
        raise BundleError(
            "linux.cgroupsPath", f'"{path}" asks for the systemd driver, which joey has not', "give a plain path"
        )
    for name in bundle.linux.get("sysctl") or {}:
        _check_sysctl(name, bundle)
    for place, device in enumerate(bundle.linux.get("devices") or []):
        field = f"linux.devices[{place}]"
        if device["type"] != "p" and ("major" not in device or "minor" not in device):
            raise BundleError(field, "needs major and minor numbers")
        if ".." in device["path"].split("/"):
            raise BundleError(f"{field}.path", f'"{device["path"]}" has ".." in it')
    for place, rule in enumerate(bundle.resources.get("devices") or []):
        if not set(rule.get("access") or "rwm") <= set("rwm"):
            raise BundleError(
                f"linux.resources.devices[{place}].access", f'"{rule["access"]}" is not made of r, w and m'
            )


def _check_sysctl(name: str, bundle: Bundle) -> None:
    field = f"linux.sysctl[{name!r}]"
    path = sysctl_path(name)
    if not path:
        raise BundleError(field, "is no sysctl name")
    name = path.replace("/", ".")
    if path.startswith("net/"):
        needed = "network"
    elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
        needed = "ipc"
    elif name in ("kernel.domainname", "kernel.hostname"):
        needed = "uts"
    elif name.startswith("user."):
        needed = "user"
    else:
        raise BundleError(field, "belongs to no namespace: setting it would change the host")
    if needed not in bundle.namespaces:
        raise BundleError(field, f"needs a {needed} namespace: setting it would change the host")


def _check_mount(mount: dict[str, Any], field: str, bundle: Bundle) -> None:
    options = MountOptions(mount.get("options") or [])
    mapped = bool(mount.get("uidMappings") or mount.get("gidMappings"))
    if (mapped or options.idmap) and not is_bind(mount):
        raise BundleError(f"{field}.uidMappings", "only bind mounts can be id-mapped")
    if mapped and not (mount.get("uidMappings") and mount.get("gidMappings")):
        raise BundleError(f"{field}.uidMappings", "needs gidMappings beside it, and the other way round")
    if options.idmap and not mapped and not bundle.creates("user"):
        raise BundleError(
            f"{field}.options",
            f'"{options.idmap}" without uidMappings takes those of linux.uidMappings: there are none',
        )
    if options.copy_up and mount.get("type") != "tmpfs":
        raise BundleError(f"{field}.options", '"tmpcopyup" is for tmpfs mounts')
    if os.path.normpath("/" + mount["destination"]).strip("/") == "":
        raise BundleError(f"{field}.destination", "is the root itself", "use root.path and root.readonly")
    if is_bind(mount):
        source = mount.get("source", "")
        if not source:
            raise BundleError(f"{field}.source", "a bind mount needs a source")
    elif not mount.get("type"):
        raise BundleError(f"{field}.type", "is missing", 'a file system type, or the option "bind"')


def is_bind(mount: dict[str, Any]) -> bool:
    """Whether a mount entry is a bind mount: by type or by option (config.md, "Mounts")."""
    return mount.get("type") == "bind" or any(word in ("bind", "rbind") for word in mount.get("options") or [])
