"""The cgroup layout, every controller, and the files it really offers.

A controller that nobody mounted is mounted for a moment in a private mount namespace, except where a v2 hierarchy is
using it: taking it from there would disturb the host.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...compat import files, libc
from ...compat.cgroup import device_bpf, layout
from ...compat.errors import KernelError
from ..catalog import Answer, Answered, Group, Works
from ..trying import scratch, scratch_name

GROUP = Group("cgroups", "control groups")

COSTS = {
    "cpuset": "no pinning to CPUs",
    "cpu": "no CPU shares or quota",
    "cpuacct": "no CPU use of the container",
    "memory": "no memory limit",
    "pids": "no process limit: fork bombs reach the host",
    "blkio": "no disk bandwidth limit",
    "devices": "privileged containers open the host's disks",
    "freezer": "pause stops processes one by one",
    "hugetlb": "no huge page limit",
    "net_cls": "no traffic class",
    "net_prio": "no traffic priority",
    "perf_event": "no profiling of one container",
    "rdma": "no RDMA limit",
    "misc": "nothing for containers",
}
V2_NAMES = {"blkio": "io"}


@GROUP.probe("cgroup.layout", "cgroup mounts", "limits need joey to mount hierarchies itself", alone=False)
def cgroup_layout() -> Answer:
    found = layout.hierarchies()
    v1 = [item for item in found if item.version == 1 and not item.name.startswith("systemd")]
    v2 = [item for item in found if item.version == 2]
    kind = "hybrid" if v1 and v2 else "v1" if v1 else "v2" if v2 else "none"
    places = {item.name or "unified": item.mount for item in found}
    if kind == "none":
        raise Answered("absent", "no hierarchy is mounted", {"kind": kind})
    return Works(kind, {"kind": kind, "mounts": places})


def _files_of(directory: str, create: bool) -> list[str]:
    """The files of a child group (a root group lacks some), of the group itself where a child can't be made."""
    place = f"{directory}/{scratch_name(os.getppid(), os.getpid())}"
    if not create:
        return sorted(os.listdir(directory))
    os.mkdir(place)
    try:
        return sorted(name for name in os.listdir(place) if os.path.isfile(f"{place}/{name}"))
    finally:
        os.rmdir(place)


def _controller(name: str) -> Callable[[], Answer]:
    def attempt() -> Answer:
        for item in layout.hierarchies():
            names = item.controllers
            if item.version == 1 and name in names:
                return _works(1, item.mount, name)
            if item.version == 2 and V2_NAMES.get(name, name) in names:
                return _works(2, item.mount, V2_NAMES.get(name, name))
        if name not in layout.enabled_controllers():
            raise Answered("absent", "not in /proc/cgroups")
        if os.geteuid() != 0:
            raise Answered("blocked", "not mounted, and mounting needs root")
        place = scratch()
        os.mkdir("group")
        try:
            libc.mount("cgroup", "group", "cgroup", 0, name)
        except KernelError as error:
            raise Answered("blocked" if error.errno == 16 else "absent", f"not mounted; {error}") from None
        # no child here: the kernel keeps a hierarchy that has had a child just before its last unmount
        detail = {"version": 1, "mount": "", "files": _named(_files_of(f"{place}/group", create=False), name)}
        return Works("v1, not mounted: joey can mount it", detail)

    return attempt


@contextmanager
def _handed_down(mount: str, controller: str) -> Iterator[None]:
    """A v2 group has a controller's files only while its parent hands the controller down; as it was, afterwards."""
    control = f"{mount}/cgroup.subtree_control"
    if not controller or controller in files.read_line(control).split():
        yield
        return
    files.write_text(control, f"+{controller}")
    try:
        yield
    finally:
        files.write_text(control, f"-{controller}")


def _works(version: int, mount: str, name: str) -> Works:
    root = os.access(mount, os.W_OK)
    try:
        with _handed_down(mount, name if version == 2 and root else ""):
            names = _named(_files_of(mount, create=root), name)
    except OSError:
        names = _named(_files_of(mount, create=False), name)
    if not root:
        raise Answered(
            "blocked", f"v{version} at {mount}, not writable", {"version": version, "mount": mount, "files": names}
        )
    detail = {"version": version, "mount": mount, "files": names}
    if name == "devices" and version == 1 and not _denies_devices(mount):
        raise Answered("blocked", f"v1 at {mount}, devices.deny: EPERM", detail)
    return Works(f"v{version} at {mount}", detail)


def _denies_devices(mount: str) -> bool:
    """Whether rules can be set: root of a user namespace may own the files, and still may not."""
    place = f"{mount}/{scratch_name(os.getppid(), os.getpid())}"
    os.mkdir(place)
    try:
        files.write_text(f"{place}/devices.deny", "a")
    except PermissionError:
        return False
    finally:
        os.rmdir(place)
    return True


def _named(names: list[str], controller: str) -> list[str]:
    return [name for name in names if name.startswith(controller + ".")]


for _controller_name, _cost in COSTS.items():
    GROUP.probe(f"cgroup.{_controller_name}", f"controller {_controller_name}", _cost)(_controller(_controller_name))


def _knob(controller: str, *names: str) -> Callable[[], Answer]:
    """A file that not every kernel's controller has; `names` are its v1 and v2 spellings."""

    def attempt() -> Answer:
        attempt_controller = _controller(controller)
        answer = attempt_controller()
        if not isinstance(answer, Works):
            raise Answered("broken", "no answer")
        for name in names:
            if name in answer.detail["files"]:
                return name
        if answer.detail["version"] == 2 and not answer.detail["files"]:
            raise Answered("blocked", "the files can't be listed")
        raise Answered("absent", "no " + " or ".join(names))

    return attempt


# feature, controller, the file's names, what its absence costs
KNOBS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("cgroup.cpu.quota", "cpu", ("cpu.cfs_quota_us", "cpu.max"), "CPU shares only, no hard limit"),
    ("cgroup.cpu.burst", "cpu", ("cpu.cfs_burst_us", "cpu.max.burst"), "cpu.burst is refused"),
    ("cgroup.cpu.idle", "cpu", ("cpu.idle",), "cpu.idle is refused"),
    ("cgroup.cpu.realtime", "cpu", ("cpu.rt_runtime_us",), "no real-time budget"),
    ("cgroup.memory.swap", "memory", ("memory.memsw.limit_in_bytes", "memory.swap.max"), "no swap limit"),
    ("cgroup.memory.swappiness", "memory", ("memory.swappiness",), "memory.swappiness is refused"),
    ("cgroup.memory.kmem-tcp", "memory", ("memory.kmem.tcp.limit_in_bytes",), "memory.kernelTCP is refused"),
    ("cgroup.memory.kmem", "memory", ("memory.kmem.limit_in_bytes",), "memory.kernel is not limited apart"),
    ("cgroup.memory.oom-disable", "memory", ("memory.oom_control",), "memory.disableOOMKiller is refused"),
    ("cgroup.memory.oom-control", "memory", ("memory.oom_control", "memory.events"), "no news of memory kills"),
    ("cgroup.blkio.throttle", "blkio", ("blkio.throttle.read_bps_device", "io.max"), "no disk bandwidth limit"),
    ("cgroup.blkio.weight", "blkio", ("blkio.weight", "blkio.bfq.weight", "io.weight"), "no disk weight"),
)

for _feature, _controller_name, _names, _cost in KNOBS:
    GROUP.probe(_feature, " or ".join(_names), _cost)(_knob(_controller_name, *_names))


@GROUP.probe("cgroup.v2", "a cgroup v2 hierarchy", "v1 hierarchies, one for each controller", alone=False)
def v2() -> Answer:
    for item in layout.hierarchies():
        if item.version == 2:
            return Works(f"{item.mount}: {' '.join(item.controllers) or 'no controllers'}", {"mount": item.mount})
    for line in files.read_text("/proc/filesystems").splitlines():
        if line.split()[-1] == "cgroup2":
            raise Answered("absent", "known to the kernel, not mounted")
    raise Answered("absent", "ENODEV")


@GROUP.probe("cgroup.v2.freeze", "cgroup.freeze (Linux 5.2)", "pause needs the v1 freezer or SIGSTOP")
def v2_freeze() -> Answer:
    return _v2_file("cgroup.freeze")


@GROUP.probe("cgroup.v2.kill", "cgroup.kill (Linux 5.14)", "containers are killed process by process")
def v2_kill() -> Answer:
    return _v2_file("cgroup.kill")


def _v2_file(name: str) -> str:
    for item in layout.hierarchies():
        if item.version == 2:
            if not os.access(item.mount, os.W_OK):
                raise Answered("blocked", f"{item.mount} is not writable")
            if name in _files_of(item.mount, create=True):
                return name
            raise Answered("absent", f"no {name}")
    raise Answered("absent", "no v2 hierarchy")


@GROUP.probe("cgroup.v2.clone-into", "clone3(CLONE_INTO_CGROUP) (Linux 5.7)", "a process is moved into its v2 group")
def v2_clone_into() -> Answer:
    for item in layout.hierarchies():
        if item.version == 2:
            place = f"{item.mount}/{scratch_name(os.getppid(), os.getpid())}"
            os.mkdir(place)
            fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                pid = libc.clone_into(0, fd)
                if pid == 0:
                    os._exit(place.rpartition("/")[2] not in layout.own_paths().get("", ""))
                born_elsewhere = os.waitpid(pid, 0)[1]
            finally:
                os.close(fd)
                os.rmdir(place)
            if born_elsewhere:
                raise Answered("broken", "the child is not in the group")
            return None
    raise Answered("absent", "no v2 hierarchy")


@GROUP.probe("cgroup.v2.devices", "bpf(BPF_PROG_LOAD, CGROUP_DEVICE), attached", "no device rules on cgroup v2")
def v2_devices() -> Answer:
    for item in layout.hierarchies():
        if item.version == 2:
            place = f"{item.mount}/{scratch_name(os.getppid(), os.getpid())}"
            os.mkdir(place)
            try:
                device_bpf.attach(place, device_bpf.program([{"allow": True}]))
            finally:
                os.rmdir(place)
            return None
    raise Answered("absent", "no v2 hierarchy")


@GROUP.probe("cgroup.procs", "writing cgroup.procs of a v1 group", "processes join thread by thread, by `tasks`")
def v1_procs() -> Answer:
    for item in layout.hierarchies():
        if item.version == 1:
            place = f"{item.mount}/{scratch_name(os.getppid(), os.getpid())}"
            home = layout.own_paths().get(item.controllers[0], "/")
            os.mkdir(place)
            try:
                if "cpuset" in item.controllers:
                    for name in ("cpuset.cpus", "cpuset.mems"):
                        files.write_text(f"{place}/{name}", files.read_line(f"{item.mount}/{name}"))
                pid = os.fork()
                if pid == 0:
                    os.read(os.pipe()[0], 1)
                    os._exit(0)
                try:
                    files.write_text(f"{place}/cgroup.procs", str(pid))
                finally:
                    os.kill(pid, 9)
                    os.waitpid(pid, 0)
            finally:
                os.rmdir(place)
            return f"{item.name} ({home})"
    raise Answered("absent", "no v1 hierarchy is mounted")
