"""The table of features a container may need, and for each the mechanisms that give it, best first.

HOWTO: adding a mechanism. A line here, a function in compat/, a step in runtime/steps/ that uses it, a probe for what
it requires, and a test that forces it.

A requirement is a finding that must work. For cgroup controllers "@1", "@2" and "@unmounted" after the finding ask for
the hierarchy it was found in.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .report import KernelReport


class Mechanism:
    """One way to give a feature. `lost` says what the container does without; `weaker`: it isolates or limits less."""

    __slots__ = ("lost", "name", "requires", "weaker")

    def __init__(self, name: str, requires: tuple[str, ...] = (), lost: str = "", weaker: bool = False) -> None:
        self.name = name
        self.requires = requires
        self.lost = lost
        self.weaker = weaker

    def unmet(self, report: KernelReport) -> list[str]:
        """The requirements this kernel does not meet."""
        return [requirement for requirement in self.requires if not _met(report, requirement)]


def _met(report: KernelReport, requirement: str) -> bool:
    feature, _, place = requirement.partition("@")
    if not report.works(feature):
        return False
    if not place:
        return True
    detail = report.findings[feature].detail
    if place == "unmounted":
        return detail.get("version") == 1 and not detail.get("mount")
    return bool(detail.get("version") == int(place) and detail.get("mount"))


class Feature:
    """Something a container may need. `protects`: a weaker mechanism is refused under the strict policy."""

    __slots__ = ("mechanisms", "name", "protects", "title")

    def __init__(self, name: str, title: str, protects: bool, *mechanisms: Mechanism) -> None:
        self.name = name
        self.title = title
        self.protects = protects
        self.mechanisms = mechanisms


def _namespace(name: str, title: str) -> Feature:
    return Feature(name, title, False, Mechanism("native", (f"{name}.clone",)))


def _namespace_in_userns(name: str, title: str) -> Feature:
    return Feature(
        f"{name}-in-userns", f"{title} in a user namespace", False, Mechanism("native", (f"{name}.in-userns",))
    )


def _controller(name: str, title: str, *without: Mechanism) -> Feature:
    """`without`: what does for a limit where no hierarchy carries the controller."""
    finding = f"cgroup.{name}"
    return Feature(
        finding,
        title,
        True,
        Mechanism("v1", (f"{finding}@1",)),
        Mechanism("v2", (f"{finding}@2",)),
        Mechanism("v1-own-mount", (f"{finding}@unmounted",)),
        *(without or (Mechanism("none", (), f"no {title} is applied", weaker=True),)),
    )


def _knob(finding: str, title: str, *without: Mechanism) -> Feature:
    none = Mechanism("none", (), f"no {title} is applied", weaker=True)
    return Feature(finding, title, True, Mechanism("native", (finding,)), *(without or (none,)))


_DEVICE_RULES = (
    Mechanism("v1", ("cgroup.devices@1",)),
    Mechanism("bpf", ("cgroup.v2.devices",)),
    Mechanism("v1-own-mount", ("cgroup.devices@unmounted",)),
    Mechanism("user-namespace", ("device.no-mknod",),
              "no device can be made inside; those the bundle binds in are guarded by their modes alone"),
)  # fmt: skip

# What glibc 2.26 and later take for granted, and what is done on a kernel without it
VITAL = ("fstatat.empty-path", "fstatat.no-automount", "uname.release", "syscall.prlimit64", "syscall.getrandom",
          "open.path", "syscall.accept4", "syscall.recvmmsg", "syscall.sendmmsg")  # fmt: skip

_TRACERS = (
    Mechanism("tracer-seccomp", ("ptrace.syscall", "ptrace.seccomp-stop"),
              "programs can't trace one another, and 32-bit ones are refused; the calls that are emulated cost more"),
    Mechanism("tracer", ("ptrace.syscall",),
              "programs can't trace one another, and 32-bit ones are refused; every system call takes 30 to "
              "100 microseconds more; before Linux 3.0 a shell does not notice that its job was stopped"),
)  # fmt: skip

_EMULATED_USERS = (
    "its processes have the mapped host ids, which a tracer makes look right: {}, programs can't trace one another, "
    "32-bit ones are refused; root inside can't mount, make namespaces or set file capabilities; ACLs, System V IPC "
    "and signals show host ids"
)

_BY_PTRACE = Mechanism(
    "ptrace", ("ptrace.syscall",),
    "a tracer enforces it: every system call takes 30 to 100 microseconds more, programs can't trace one another, "
    "32-bit ones are refused, a forbidden call that kills a thread kills its process; a program that rewrites its own "
    "code while it runs can make 32-bit calls unseen; before Linux 3.4 a child that gets SIGCONT as it is born may run "
    "unseen",
)  # fmt: skip

_TABLE = (
    Feature(
        "root-change", "a root file system of its own", False,
        Mechanism("pivot_root", ("mount.pivot-root",)),
        Mechanism("move-and-chroot", ("mount.move",),
                  "the host's root stays mounted underneath, out of sight: a process with CAP_SYS_ADMIN may find it"),
    ),
    Feature(
        "path-resolution", "paths that stay inside the root file system", True,
        Mechanism("openat2", ("syscall.openat2",)),
        Mechanism("walk"),
    ),
    Feature(
        "glibc", "the system calls its C library expects", False,
        Mechanism("native", VITAL),
        Mechanism("rewritten-libc", ("image.glibc", "mount.bind-file"),
                  "the C library can't be replaced from inside; programs that make system calls of their own see the "
                  "old kernel"),
        *_TRACERS,
    ),
    Feature(
        "static-program", "the kernel version its static program wants", False,
        Mechanism("native", ("uname.release",)), *_TRACERS,
    ),
    _namespace("mntns", "mount namespace"),
    _namespace("pidns", "pid namespace"),
    _namespace("utsns", "UTS namespace"),
    _namespace("ipcns", "IPC namespace"),
    _namespace("netns", "network namespace"),
    _namespace_in_userns("mntns", "mount namespace"),
    _namespace_in_userns("pidns", "pid namespace"),
    _namespace_in_userns("utsns", "UTS namespace"),
    _namespace_in_userns("ipcns", "IPC namespace"),
    _namespace_in_userns("netns", "network namespace"),
    _namespace_in_userns("timens", "time namespace"),
    Feature(
        "userns", "user namespace", True,
        Mechanism("native", ("userns.clone", "userns.maps")),
        Mechanism("emulated", ("ptrace.syscall", "ptrace.seccomp-stop", "userns.emulated"),
                  _EMULATED_USERS.format("calls naming files or ids take some 150 microseconds more")),
        Mechanism("emulated-unfiltered", ("ptrace.syscall", "userns.emulated"),
                  _EMULATED_USERS.format("every call takes 30 to 150 microseconds more; before Linux 3.4 a child that "
                                         "gets SIGCONT as it is born may run unseen, with what root has in a container "
                                         "without user namespaces")),
        Mechanism("pretended", ("ptrace.syscall", "place.pretended"),
                  "nothing isolates it: its processes are this user's own, with the host's processes and network; a "
                  "tracer gives them the names, owners and ids of the root file system; calls naming files or ids take "
                  "some 200 microseconds more, programs can't trace one another, 32-bit ones are refused; root inside "
                  "can't mount, make namespaces or set file capabilities", weaker=True),
    ),
    Feature(
        "cgroupns", "cgroup namespace", False,
        Mechanism("native", ("cgroupns.unshare",)),
        Mechanism("none", (), "the container sees the host's cgroup paths in /proc/self/cgroup"),
    ),
    Feature(
        "cgroupns-in-userns", "cgroup namespace in a user namespace", False,
        Mechanism("native", ("cgroupns.in-userns",)),
        Mechanism("none", (), "the container sees the host's cgroup paths in /proc/self/cgroup"),
    ),
    Feature("timens", "time namespace", False, Mechanism("native", ("timens.unshare",))),
    *(
        Feature(f"setns.{kind}", f"joining a {title} namespace", True, Mechanism("native", (f"setns.{kind}",)))
        for kind, title in (("user", "user"), ("cgroup", "cgroup"), ("ipc", "IPC"), ("uts", "UTS"), ("net", "network"),
                            ("pid", "pid"), ("time", "time"), ("mnt", "mount"))
    ),
    Feature(
        "enter", "a way into the running container (exec)", False,
        Mechanism("setns", ("setns.mnt", "setns.pid", "setns.net", "setns.uts", "setns.ipc")),
        Mechanism("agent", ("proc.read",),
                  "a process of joey's stays in the container and forks what is executed there: it takes some memory, "
                  "whoever may kill in there can end it, and a detached process is its child, not joey's caller's"),
        Mechanism("none", (), "it can't be entered: `exec` is refused"),
    ),
    Feature(
        "pause", "a pause of all its processes", False,
        Mechanism("freezer", ("cgroup.freezer",)),
        Mechanism("sigstop", (), "processes are stopped by a signal: their parents are told, and what enters the "
                                 "container meanwhile can let them go on by SIGCONT"),
    ),
    Feature("readonly-bind", "read-only mounts", True, Mechanism("native", ("mount.bind-readonly",))),
    Feature(
        "recursive-attributes", "attributes of a whole tree of mounts", True,
        Mechanism("mount_setattr", ("mount.setattr-recursive",)),
        Mechanism("remount-each", ("mount.bind-readonly",)),
    ),
    Feature("masked-paths", "masked paths", True, Mechanism("bind", ("mount.bind-file",))),
    Feature("nosymfollow", "mounts that follow no links", True, Mechanism("native", ("mount.nosymfollow",))),
    Feature(
        "device-nodes", "device nodes", False,
        Mechanism("mknod", ("device.mknod",)),
        Mechanism("bind", ("mount.bind-file",)),
    ),
    Feature(
        "device-nodes-in-userns", "device nodes in a user namespace", False,
        Mechanism("mknod", ("device.mknod-in-userns",)),
        Mechanism("bind", ()),
    ),
    Feature(
        "disk-quota", "a limit of what its directories hold", True,
        Mechanism("project-quota", ("place.project-quota",)),
        Mechanism("btrfs-qgroup", ("place.btrfs-qgroup",)),
        Mechanism("loop-image", ("place.loop-image",),
                  "what the container writes is in an image file beside the bundle (joey-quota/), a copy of the "
                  "directories as they were, made at the first start"),
    ),
    Feature(
        "layers", "a root file system made of layers", False,
        Mechanism("overlay", ("place.overlay",)),
        Mechanism("fuse-overlayfs", ("place.fuse-overlayfs",),
                  "a process of fuse-overlayfs serves every access to the root: each costs more"),
        Mechanism("btrfs-snapshot", ("place.btrfs-snapshot",)),
        Mechanism("reflink", ("place.reflink",)),
        Mechanism("hard-links", ("place.hard-links",),
                  "/usr, /bin, /sbin, /lib* and /boot are shared with the layers and read-only; the rest is copied at "
                  "the first start"),
        Mechanism("copy", ("place.copy",)),
    ),
    Feature(
        "views", "its own memory, CPUs, load and uptime in /proc", False,
        Mechanism("lxcfs", ("place.lxcfs",)),
        Mechanism("lxcfs-started", ("place.lxcfs-start",)),
        Mechanism("fuse", ("place.view-server",),
                  "a process of joey's serves them: when it is killed they can't be read any more"),
        Mechanism("files", (), "they are up to a second old"),
    ),
    Feature(
        "network.bridge", "a network by a bridge of the host", False,
        Mechanism("veth", ("place.net-admin", "net.bridge", "net.veth", "net.move-by-pid")),
    ),
    Feature(
        "network.nat", "a way from its bridge to beyond the host", False,
        *(Mechanism(tool, (f"place.{tool}",)) for tool in ("iptables", "iptables-legacy", "nft")),
        Mechanism("none", (), "it reaches its host and its neighbours on the bridge, nothing beyond them"),
    ),
    Feature(
        "network.names", "names of the other containers of its bridge", False,
        Mechanism("server", ("place.names",)),
        Mechanism("none", (), "names of other containers are not known inside"),
    ),
    Feature(
        "network.cni", "a network by CNI plugins", False,
        Mechanism("plugins", ("place.net-admin", "setns.net", "place.cni")),
    ),
    Feature("fs.proc", "a proc file system of its own", False, Mechanism("native", ("fs.proc",))),
    Feature("fs.proc-of-host", "a proc file system, with the host's processes", False,
            Mechanism("native", ("proc.host",))),
    Feature("fs.devpts", "terminals of its own", False, Mechanism("native", ("fs.devpts-newinstance",))),
    Feature(
        "fs.mqueue", "POSIX message queues", False,
        Mechanism("native", ("fs.mqueue",)),
        Mechanism("none", (), "/dev/mqueue is missing"),
    ),
    Feature("fs.overlay", "an overlay mount", False, Mechanism("native", ("overlay",))),
    Feature(
        "seccomp", "the seccomp profile", True,
        Mechanism("filter", ("seccomp.filter",)),
        _BY_PTRACE,
        Mechanism("none", (), "every system call of the kernel is open to the container", weaker=True),
    ),
    Feature(
        "seccomp-privileged", "the seccomp profile without no_new_privs", True,
        Mechanism("filter", ("seccomp.filter", "seccomp.filter-privileged")),
        _BY_PTRACE,
        Mechanism("none", (), "every system call of the kernel is open to the container", weaker=True),
    ),
    *(
        Feature(f"seccomp.{name}", title, False, Mechanism("native", (f"seccomp.{name}",)), Mechanism("none", (), lost))
        for name, title, lost in (
            ("tsync", "seccomp flag TSYNC", "none: joey's process has one thread when the filter is installed"),
            ("log-flag", "seccomp flag LOG", "denials are not logged"),
            ("wait-killable", "seccomp flag WAIT_KILLABLE_RECV", "a signal has a call notified again"),
            ("spec-allow", "seccomp flag SPEC_ALLOW", "speculation stays restricted: slower, not weaker"),
        )
    ),
    Feature("seccomp.notify", "seccomp notification", True, Mechanism("native", ("seccomp.notify",))),
    Feature("seccomp.log-action", "seccomp action LOG", True, Mechanism("native", ("seccomp.log",))),
    Feature(
        "seccomp.kill-process", "seccomp action KILL_PROCESS", True,
        Mechanism("native", ("seccomp.kill-process",)),
        Mechanism("kill-thread", (), "only the thread that made a forbidden call is killed, not its process"),
    ),
    Feature(
        "apparmor", "an AppArmor profile", True,
        Mechanism("native", ("lsm.apparmor",)),
        Mechanism("none", (), "no AppArmor profile confines the process", weaker=True),
    ),
    Feature(
        "selinux", "SELinux labels", True,
        Mechanism("native", ("lsm.selinux",)),
        Mechanism("none", (), "no SELinux label confines the process or its mounts", weaker=True),
    ),
    Feature(
        "scheduler", "a scheduling policy", False,
        Mechanism("sched_setattr", ("syscall.sched_setattr",)),
        Mechanism("sched_setscheduler"),
    ),
    Feature(
        "scheduler-deadline", "the deadline policy or scheduler flags", False,
        Mechanism("sched_setattr", ("syscall.sched_setattr",)),
    ),
    Feature("id-mapped-mounts", "id-mapped mounts", False, Mechanism("native", ("mount.idmapped",))),
    Feature(
        "no-new-privs", "no_new_privs", True,
        Mechanism("prctl", ("no-new-privs",)),
        Mechanism("nosuid-mounts", (),
                  "set-uid bits and file capabilities are ignored because every mount is nosuid; a process with "
                  "CAP_SYS_ADMIN can make a mount that is not"),
    ),
    Feature(
        "interpreter-hiding", "joey's interpreter out of reach at the exec", True,
        Mechanism("memfd", ("exec-stub.sealed",)),
        Mechanism("unlinked-file", ()),
    ),
    Feature(
        "interpreter-copy", "joey's interpreter out of reach where the stub is not enough", True,
        Mechanism("memfd", ("exec-stub.sealed", "interpreter.copy")),
        Mechanism("none", (), "joey's interpreter is open to processes in there that may trace; that the program is "
                              "not joey's interpreter is only checked, just before the exec"),
    ),
    Feature(
        "capabilities.bounding", "a bounded capability set", True,
        Mechanism("native", ("capabilities.bounding",)),
        Mechanism("none", (), "set-uid programs can regain capabilities the bundle drops", weaker=True),
    ),
    Feature(
        "capabilities.bounding-in-userns", "a bounded capability set in a user namespace", True,
        Mechanism("native", ("userns.maps",)),
    ),
    Feature(
        "capabilities.ambient", "ambient capabilities", False,
        Mechanism("native", ("capabilities.ambient",)),
        Mechanism("file-capabilities", ("place.file-capabilities",),
                  "the program itself gets them, and not what it executes; it is a copy, made at the start"),
        Mechanism("none", (), "a process whose user is not root keeps no capabilities over exec"),
    ),
    Feature(
        "session-keyring", "a session keyring of its own", False,
        Mechanism("native", ("keyring",)),
        Mechanism("none", (), "the container shares the caller's session keyring"),
    ),
    _controller(
        "memory", "memory limit",
        Mechanism("watcher", ("proc.read",),
                  "a process of joey's adds up what the container's processes have for themselves, twenty times a "
                  "second, and kills the largest: a quick one gets beyond the limit for a moment, and files in memory "
                  "are not counted", weaker=True),
        Mechanism("none", (), "no memory limit is applied", weaker=True),
    ),
    _controller(
        "cpu", "CPU limit",
        Mechanism("nice", (), "shares are a nice value of each process: many processes get more than few", weaker=True),
    ),
    _controller(
        "cpuset", "CPU pinning",
        Mechanism("affinity", (), "pinning is each process's CPU affinity, which it can change; memory nodes are not "
                                  "kept", weaker=True),
    ),
    _controller(
        "pids", "process limit",
        Mechanism("ptrace", ("ptrace.syscall",),
                  "a tracer keeps it: every system call takes 30 to 100 microseconds more (before Linux 3.5), programs "
                  "can't trace one another, 32-bit ones are refused"),
        Mechanism("watcher", ("proc.read",),
                  "a process of joey's counts the container's threads twenty times a second, and kills the youngest "
                  "processes: a fork bomb gets beyond the limit for a moment", weaker=True),
        Mechanism("none", (), "no process limit is applied", weaker=True),
    ),
    _controller(
        "blkio", "disk bandwidth limit",
        Mechanism("io-priority", (), "a weight is an I/O priority of each process; throttles are not applied",
                  weaker=True),
    ),
    _controller("hugetlb", "huge page limit"),
    _controller("net_cls", "network class"),
    _controller("net_prio", "network priority"),
    _controller("rdma", "RDMA limit"),
    _knob(
        "cgroup.cpu.quota", "CPU quota",
        Mechanism("watcher", ("proc.read",),
                  "its processes are stopped by a signal, some twenty times a second, while they have used more: their "
                  "parents may notice", weaker=True),
    ),
    _knob("cgroup.cpu.burst", "CPU burst"),
    _knob("cgroup.cpu.idle", "idle CPU class"),
    _knob("cgroup.cpu.realtime", "real-time CPU budget"),
    _knob("cgroup.memory.swap", "swap limit"),
    _knob("cgroup.memory.swappiness", "swappiness"),
    _knob("cgroup.memory.kmem-tcp", "TCP buffer limit"),
    Feature(
        "cgroup.memory.kmem", "kernel memory limit", False,
        Mechanism("native", ("cgroup.memory.kmem",)),
        Mechanism("none", (), "kernel memory has no limit of its own, only that of all memory"),
    ),
    _knob("cgroup.memory.oom-disable", "disabled OOM killer"),
    _knob("cgroup.blkio.throttle", "disk throttle"),
    _knob("cgroup.blkio.weight", "disk weight"),
    Feature("cgroup.unified", "cgroup v2 settings", True, Mechanism("v2", ("cgroup.v2",))),
    Feature(
        "cgroup-v2-entry", "the way into a cgroup v2 group", False,
        Mechanism("clone3", ("cgroup.v2.clone-into",)),
        Mechanism("cgroup.procs", ()),
    ),
    Feature(
        "device-rules", "device rules", True, *_DEVICE_RULES,
        Mechanism("none", (), "a process with CAP_MKNOD can open every device of the host", weaker=True),
    ),
    Feature(
        "device-rules-default", "device rules nobody asked for", True, *_DEVICE_RULES,
        Mechanism("none", (), "device nodes that the image brings can be opened as their modes allow"),
    ),
)  # fmt: skip

FEATURES = {feature.name: feature for feature in _TABLE}
