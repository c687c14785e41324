"""A bundle run by a user without any privilege, where the kernel has no user namespaces (compat/unprivileged/).

What its mounts would be are places that the tracer leads to: directories of the container's folder, /proc, /sys and
devices of the host. The owners of its files are kept beside its root file system, for the next run.
"""

from __future__ import annotations

import _socket
import os
import stat

from ..compat import capabilities, terminal
from ..compat.constants import CAPABILITIES, MS_RDONLY
from ..compat.errors import BundleError
from ..compat.mountflags import MountOptions
from ..compat.unprivileged.owners import Owners, table_of
from ..compat.unprivileged.person import Person
from ..compat.unprivileged.pretence import Container, Pretence
from ..compat.unprivileged.tree import Bind, Tree, Viewer
from ..compat.users.mapping import UNCHANGED, Ids
from ..compat.users.privileges import Privileges
from ..probes.plan import Plan
from ..probes.report import Finding
from . import log
from .build import Options, limits_of_oneself, tracer_steps, watcher_steps
from .bundle import Bundle, is_bind
from .channel import Channel
from .launch import Start, let_go, run_child
from .needs import asks_for_views, network_words, quota_words
from .placing import joined_by_parent, oom_steps
from .resources import cgroup_of, cgroup_steps
from .state import State
from .steps import Step, cloning, parent, process, program
from .steps.unprivileged import AllowTracer, FindProgram, MakePlaces, OpenHostConsole, remove_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx")
_NOT_THERE = ("cgroup", "cgroup2", "mqueue")
_FOLDER = "places"  # in the container's folder


def finding(bundle: Bundle) -> Finding:
    """Whether this user may run the bundle's root file system as its own."""
    call = f"{bundle.rootfs} as user {os.geteuid()}"
    try:
        status = os.stat(bundle.rootfs)
    except OSError as error:
        return Finding("place.pretended", "absent", call, error.strerror or "can't be read")
    if status.st_uid != os.geteuid():
        return Finding("place.pretended", "absent", call, f"belongs to user {status.st_uid}: unpack it as this user")
    return Finding("place.pretended", "works", call, "belongs to this user")


def check(bundle: Bundle) -> None:
    """Raise BundleError for what no tracer can make."""
    for place, entry in enumerate(bundle.linux["namespaces"]):
        if entry.get("path"):
            raise BundleError(f"linux.namespaces[{place}].path", "can't be joined by a user without privilege")
    asked = {
        "annotations: a network": network_words(bundle),
        "annotations: a disk quota": quota_words(bundle),
        "annotations: views": asks_for_views(bundle),
        "hooks.startContainer": bundle.hooks("startContainer"),
        "linux.sysctl": bundle.linux.get("sysctl"),
    }
    for field, value in asked.items():
        if value:
            raise BundleError(field, "can't be had by a user without privilege", "leave it out, or run it as root")
    for place, entry in enumerate(bundle.mounts):
        kind = entry.get("type", "")
        if not is_bind(entry) and kind not in ("proc", "sysfs", "tmpfs", "devpts", *_NOT_THERE):
            raise BundleError(f"mounts[{place}].type", f"{kind} can't be mounted by a user without privilege")


class Places:
    """What is where in a container: the tree, and what is to be made for it."""

    def __init__(self, bundle: Bundle, state: State) -> None:
        self._bundle = bundle
        self._folder = f"{state.folder}/{_FOLDER}"
        self.private: list[tuple[str, int]] = [(self._folder, 0o700), (f"{self._folder}/nothing", 0o555)]
        self.points: list[tuple[str, bool]] = []
        self._binds = [Bind("/", bundle.rootfs, bool(bundle.config["root"].get("readonly")))]
        self.tree = Tree(self._binds)
        for number, entry in enumerate(bundle.mounts):
            self._add_mount(number, entry)
        self._add_devices()
        for path in bundle.linux.get("readonlyPaths") or []:
            self._protect(path, read_only=True)
        for path in bundle.linux.get("maskedPaths") or []:
            self._protect(path, read_only=False)

    @property
    def device_folder(self) -> str:
        """Where links of /dev are to be made; "" where it is the host's."""
        host = self.tree.host_of("/dev")
        return "" if host == "/dev" else host

    def _add_mount(self, number: int, entry: dict[str, Any]) -> None:
        options = MountOptions(entry.get("options") or [])
        kind = entry.get("type", "")
        if is_bind(entry):
            source = entry["source"] if entry["source"].startswith("/") else f"{self._bundle.path}/{entry['source']}"
            if not os.path.exists(source):
                raise BundleError(f"mounts[{number}].source", f"{source} does not exist")
            host = os.path.realpath(source)
        elif kind in _NOT_THERE:
            return
        elif kind == "tmpfs":
            host = f"{self._folder}/{number}"
            word = next((word[5:] for word in options.data.split(",") if word.startswith("mode=")), "1777")
            self.private.append((host, int(word, 8) if word.isdigit() else 0o1777))
        else:
            host = {"proc": "/proc", "sysfs": "/sys", "devpts": "/dev/pts"}[kind]
        self._bind(entry["destination"], host, bool(options.flags & MS_RDONLY), kind == "tmpfs" or os.path.isdir(host))

    def _bind(self, destination: str, host: str, read_only: bool, is_directory: bool) -> None:
        guest = self._settled(destination)
        self.points.append((self.tree.host_of(guest), is_directory))
        self._binds.append(Bind(guest, host, read_only))
        self.tree = Tree(self._binds)

    def _settled(self, destination: str) -> str:
        """A place without links; what is not there yet is taken as it is written."""
        viewer = Viewer(0, 0, "/", lambda _: "/", lambda _: "")
        path, rest = os.path.normpath("/" + destination.lstrip("/")), ""
        while True:
            try:
                return self.tree.resolve(path, "/", viewer, follow=True).guest.rstrip("/") + rest or "/"
            except OSError:
                path, _, name = path.rpartition("/")
                path, rest = path or "/", f"/{name}{rest}"

    def _add_devices(self) -> None:
        if self.tree.host_of("/dev") == "/dev":
            return
        for name in _DEVICES:
            if os.path.exists(f"/dev/{name}"):
                self._bind(f"/dev/{name}", f"/dev/{name}", read_only=False, is_directory=False)
        for place, device in enumerate(self._bundle.linux.get("devices") or []):
            host = os.path.realpath(device["path"])
            if os.path.normpath(device["path"]).removeprefix("/dev/") in _DEVICES:
                continue
            if not os.path.exists(host):
                raise BundleError(f"linux.devices[{place}]", f"{host} is not there, and can't be made")
            self._bind(device["path"], host, read_only=False, is_directory=False)

    def _protect(self, path: str, read_only: bool) -> None:
        """A read-only path, or a masked one: empty to who looks."""
        host = self.tree.host_of(self._settled(path))
        if not os.path.exists(host):
            return
        is_directory = os.path.isdir(host)
        if not read_only:
            host = f"{self._folder}/nothing" if is_directory else "/dev/null"
        self._binds.append(Bind(self._settled(path), host, read_only or is_directory))
        self.tree = Tree(self._binds)

    def stub(self) -> str:
        """Where the stub is to be: where files may be executed."""
        folder = os.path.dirname(self._folder)
        if os.statvfs(os.path.dirname(folder)).f_flag & os.ST_NOEXEC:
            return f"{self._bundle.rootfs}.joey-stub"
        return f"{self._folder}/stub"


def _container(bundle: Bundle, places: Places, state: State) -> Container:
    """What the tracer is told."""
    what = bundle.process
    user = what.get("user") or {}
    sets = what.get("capabilities") or {}
    masks = {
        name: capabilities.mask([item for item in sets.get(name) or [] if item in CAPABILITIES])
        for name in ("effective", "permitted", "inheritable", "bounding", "ambient")
    }
    begin = Person(
        user.get("uid", 0), user.get("gid", 0), tuple(user.get("additionalGids") or []),
        Privileges(**masks, no_new=bool(what.get("noNewPrivileges"))),
    )  # fmt: skip
    host = os.geteuid(), os.getegid()
    table = table_of(bundle.rootfs)
    if not os.access(os.path.dirname(table), os.W_OK) and not os.path.exists(table):
        log.warn(f"{os.path.dirname(table)} can't be written to: owners of links and devices are lost at the end")
        table = f"{state.folder}/owners"
    owners = Owners(*host, table, bundle.rootfs)
    uids, gids = (_ids(bundle, name) for name in ("uidMappings", "gidMappings"))
    hostname = bundle.config.get("hostname", "")
    return Container(places.tree, owners, begin, host, uids, gids, hostname, places.stub())


def _ids(bundle: Bundle, name: str) -> Ids:
    """The ids that are there inside: those that the bundle maps, and all where it maps a single one, as a plain user's
    can map no more."""
    lines = [(line["containerID"], line["containerID"], line["size"]) for line in bundle.linux.get(name) or []]
    return Ids(lines if sum(count for _, _, count in lines) > 1 else [(0, 0, UNCHANGED)])


def _trace(bundle: Bundle, container: Container) -> None:
    assert bundle.tracing is not None
    bundle.tracing.handlers.append(Pretence(container))


def steps(bundle: Bundle, plan: Plan, state: State, options: Options) -> Start:
    """The steps of one start (see build.steps)."""
    places = Places(bundle, state)
    container = _container(bundle, places, state)
    _trace(bundle, container)
    if not os.access(os.path.dirname(bundle.rootfs), os.W_OK):
        log.warn(
            f"{os.path.dirname(bundle.rootfs)} can't be written to: owners of links and devices are not kept there"
        )
    listener = state.listen() if options.wait_for_start and os.path.isdir(state.folder) else None
    console = None
    if bundle.process.get("terminal") and options.console_socket and os.path.isdir(state.folder):
        console = terminal.connect_unix(options.console_socket)
    state.cgroup = cgroup_of(bundle, state.id, plan)
    channel, clone, child = _process(bundle, plan, state, container, options.keep_fds, listener, console)
    early = [(kind, bundle.hooks(kind)) for kind in ("prestart", "createRuntime", "createContainer")]
    made = MakePlaces(f"{state.folder}/{_FOLDER}", places.private, places.points, places.device_folder, container.stub)
    out = [*cgroup_steps(bundle, plan, state), made, clone, parent.RecordPid(state, clone)]
    out += _placed(bundle, plan, state, clone)
    out += [parent.RunRuntimeHooks(kind, hooks, state) for kind, hooks in early if hooks]
    out.append(parent.Await(clone, b"ready"))
    out += tracer_steps(bundle, clone, state.folder)
    return Start((*out, *watcher_steps(bundle, plan, state)), child, channel, clone)


def enter_steps(state: State, bundle: Bundle, plan: Plan, console_socket: str, keep_fds: int) -> Start:
    """The steps of one exec beside it, with a tracer of its own."""
    places = Places(bundle, state)
    container = _container(bundle, places, state)
    _trace(bundle, container)
    console = terminal.connect_unix(console_socket) if console_socket else None
    channel, clone, child = _process(bundle, plan, state, container, keep_fds, None, console)
    out: list[Step] = [clone, *_placed(bundle, plan, state, clone), parent.Await(clone, b"ready")]
    return Start((*out, *tracer_steps(bundle, clone, "")), child, channel, clone)


def _placed(bundle: Bundle, plan: Plan, state: State, clone: cloning.NewProcess) -> list[Step]:
    """Into its cgroups, where this user has any."""
    versions = joined_by_parent({}, state.cgroup, "")
    if not versions:
        return []
    return [
        parent.JoinCgroup(state.cgroup, clone, versions),
        parent.Release(clone, "go on, now that it is in its cgroups"),
    ]


def _process(
    bundle: Bundle,
    plan: Plan,
    state: State,
    container: Container,
    keep_fds: int,
    listener: _socket.socket | None,
    console: _socket.socket | None,
) -> tuple[Channel, cloning.CloneChild, tuple[Step, ...]]:
    """The process, and its steps up to its exec, which is the tracer's."""
    if bundle.tracing:
        from .tracing import limit_forks

        limit_forks(bundle, lambda name: plan.mechanism(name) or state.mechanisms.get(name, ""), state)
    from .process_steps import seccomp_steps

    channel = Channel()
    what = bundle.process
    channel.program = lambda: str(what["args"][0])
    child: list[Step] = []

    def body(left_to_join: dict[str, int], whole: bool) -> None:
        run_child(channel, tuple(child), [], lambda: let_go(channel, tuple(child), keep_fds, set()))

    clone = cloning.CloneChild(channel, 0, {}, lambda kept: None, body, bundle.rootfs)
    prepare = FindProgram(what, container.tree, container.owners, container.begin)
    if joined_by_parent({}, state.cgroup, ""):
        child.append(process.WaitForParent(channel))
    child += [process.NewSession(), process.EnterCgroups(state.cgroup), *oom_steps(bundle, None), AllowTracer()]
    child += limits_of_oneself(bundle, lambda name: plan.mechanism(name) or state.mechanisms.get(name, ""))
    if what.get("rlimits"):
        child.append(process.SetRlimits(what["rlimits"]))
    if what.get("terminal"):
        child.append(OpenHostConsole(channel, console, what.get("consoleSize")))
    child += [prepare, program.ReportReady(channel, listener, None)]
    child += seccomp_steps(bundle, plan, channel)
    child.append(program.Exec(prepare))
    return channel, clone, tuple(child)


def remove(state: State) -> None:
    """Remove what was made for a container in its folder."""
    folder = f"{state.folder}/{_FOLDER}"
    if os.path.isdir(folder):
        remove_folder(folder)
    stub = f"{state.rootfs}.joey-stub"
    if os.path.lexists(stub) and stat.S_ISREG(os.lstat(stub).st_mode):
        os.unlink(stub)
