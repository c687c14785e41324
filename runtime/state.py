"""Containers on disk: one folder each under --root, a state file written atomically, the start socket, locks.

A folder holds `state.json`, `config.json` (the bundle's, as it was at creation) and, until the start, `start.sock`.
The kernel tells whether the process lives: the status is computed, never stored.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import time
from binascii import crc32

from ..compat import files, jsonio, process
from ..compat.cgroup.group import Cgroup
from ..compat.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..probes.plan import Plan
    from . import bundle as bundles

OCI_VERSION = "1.2.0"
STATE_SCHEMA = 1
ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
START_SOCKET = "start.sock"
PUBLIC = "/run/joey-public"


def default_root() -> str:
    """/run/joey/containers for root; below $XDG_RUNTIME_DIR or the home directory for others, not in /tmp."""
    if not process.serves_plain_user():
        return "/run/joey/containers"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return f"{runtime}/joey/containers" if runtime else os.path.expanduser("~/.local/state/joey/containers")


def check_id(container: str) -> None:
    """An id is a plain file name of letters, digits and _+-. Raises StateError."""
    if not container or not set(container) <= ID_CHARACTERS or container in (".", "..") or len(container) > 1024:
        raise StateError(f'invalid container id "{container}"', "use letters, digits and _ + - .", "bad-id")


class State:
    """One container's record. `folder` is its place under --root."""

    __slots__ = (
        "_config", "agent", "annotations", "bundle", "cgroup", "created", "folder", "hooks", "id", "layers", "listener",
        "losses", "mechanisms", "networks", "pid", "program", "quotas", "rootfs", "sigstopped", "start_time",
        "uid", "views",
    )  # fmt: skip

    def __init__(self, folder: str, container: str, bundle: str, rootfs: str) -> None:
        self.folder = folder
        self.id = container
        self.bundle = bundle
        self.rootfs = rootfs
        self.pid = 0
        self.start_time = 0
        self.created = ""
        self.uid = os.geteuid()
        self.annotations: dict[str, str] = {}
        self.mechanisms: dict[str, str] = {}
        self.losses: dict[str, str] = {}
        self.hooks: list[str] = []  # kinds the bundle has; told here because reading config.json takes its time
        self.listener = False  # whether a seccomp agent waits
        self.cgroup = Cgroup([])
        self.agent = [0, 0]  # pid and start time of what `exec` enters by, where the kernel has no setns
        self.sigstopped = False  # paused, by a signal to each process
        self.quotas: list[dict[str, Any]] = []  # limits of directories, to be taken back
        self.program = ""  # a copy of its program, with file capabilities
        self.views: dict[str, str] = {}  # by which mechanism it sees its own figures in /proc, and where they are
        self.layers = ""  # the root, where layers are mounted on it for the container
        self.networks: list[dict[str, Any]] = []  # what was changed on the host for each, to be taken back
        self._config: bundles.Bundle | None = None

    @property
    def public(self) -> str:
        """A folder for what ids that a user namespace maps must be able to read; see `make_public`."""
        name = f"{self.id}-{crc32(os.fsencode(self.folder)):08x}"
        return f"{PUBLIC}/{name}" if os.geteuid() == 0 else f"{os.path.dirname(self.folder)}-public/{name}"

    def make_public(self) -> str:
        """Make `public`, which everybody may look into and nobody may list; it goes with the record."""
        for folder in (os.path.dirname(self.public), self.public):
            try:
                os.mkdir(folder)
                os.chmod(folder, 0o711)
            except FileExistsError:
                continue
        return self.public

    def set_plan(self, plan: Plan) -> None:
        """Keep what was chosen and lost."""
        self.mechanisms = {name: choice.mechanism for name, choice in plan.choices.items()}
        self.losses = {choice.feature: choice.lost for choice in plan.losses}

    def set_process(self, pid: int) -> None:
        """Keep the container's first process, told from later users of its pid by its start time."""
        self.pid = pid
        self.start_time = process.start_time(pid)
        self.save()

    def save(self) -> None:
        """Write state.json atomically."""
        value = {
            "schema": STATE_SCHEMA,
            "id": self.id,
            "pid": self.pid,
            "startTime": self.start_time,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "uid": self.uid,
            "annotations": self.annotations,
            "mechanisms": self.mechanisms,
            "losses": self.losses,
            "hooks": self.hooks,
            "listener": self.listener,
            "agent": self.agent,
            "sigstopped": self.sigstopped,
            "quotas": self.quotas,
            "networks": self.networks,
            "layers": self.layers,
            "views": self.views,
            "program": self.program,
            "cgroups": self.cgroup.as_json(),
            "cgroupsMade": self.cgroup.made,
        }
        files.write_atomically(f"{self.folder}/state.json", jsonio.dumps(value))

    @property
    def is_pretended(self) -> bool:
        """Whether a tracer makes all that its namespaces would (runtime/unprivileged.py)."""
        return self.mechanisms.get("userns") == "pretended"

    def alive(self) -> bool:
        """Whether the container's first process runs."""
        return self.pid > 0 and self.start_time > 0 and process.start_time(self.pid) == self.start_time

    def status(self) -> str:
        """creating, created, running, paused or stopped (runtime.md "State"; paused is runc's)."""
        if not self.pid:
            return "creating" if self._locked() else "stopped"
        if not self.alive():
            return "stopped"
        if self.sigstopped or self.cgroup.frozen():
            return "paused"
        return "created" if os.path.exists(f"{self.folder}/{START_SOCKET}") else "running"

    def _locked(self) -> bool:
        try:
            unlock(lock(self.folder))
        except StateError:
            return True
        return False

    def oci(self, status: str = "") -> dict[str, Any]:
        """The state as the runtime-spec prints it and hooks get it; losses are annotations."""
        status = status or self.status()
        annotations = dict(self.annotations)
        for entry in self.networks:
            via = f" via {entry['gateway']}" if entry.get("gateway") else ""
            annotations[f"io.joey.link.{entry['link']}"] = (
                f"{entry.get('shown', '')}{via}, {entry['kind']} {entry['name']}"
            )
        for feature, lost in self.losses.items():
            annotations[f"io.joey.lost.{feature}"] = lost
        return {
            "ociVersion": OCI_VERSION,
            "id": self.id,
            "status": status,
            "pid": self.pid if status != "stopped" else 0,
            "bundle": self.bundle,
            **({"annotations": annotations} if annotations else {}),
        }

    def config(self) -> bundles.Bundle:
        """The bundle as it was when the container was created."""
        if self._config:
            return self._config
        from . import bundle as bundles

        path = f"{self.folder}/config.json"
        bundle = bundles.parse(self.bundle, files.read_text(path, bundles.CONFIG_LIMIT), path)
        if self.mechanisms.get("userns", "").startswith("emulated"):
            bundle.emulate_users()
        if self.is_pretended:
            bundle.pretend()
        return bundle

    def save_resources(self, resources: dict[str, Any]) -> None:
        """Keep changed linux.resources in the container's copy of config.json."""
        config = self.config().config
        config["linux"] = {**(config.get("linux") or {}), "resources": resources}
        files.write_atomically(f"{self.folder}/config.json", jsonio.dumps(config))

    def listen(self, name: str = START_SOCKET) -> _socket.socket:
        """A socket in the folder, which only the owner reaches: that of the start, on which the container's process
        accepts one connection, or the agent's."""
        socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        fd = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            socket.bind(f"/proc/self/fd/{fd}/{name}")
            socket.listen(8)
        finally:
            os.close(fd)
        return socket

    def forget(self) -> None:
        """Remove the folder and everything joey put there."""
        try:
            for name in os.listdir(self.folder):
                if os.path.isdir(f"{self.folder}/{name}"):
                    os.rmdir(f"{self.folder}/{name}")
                else:
                    os.unlink(f"{self.folder}/{name}")
            os.rmdir(self.folder)
        except FileNotFoundError:
            return  # another command was quicker
        if os.path.isdir(self.public):
            for name in os.listdir(self.public):
                os.unlink(f"{self.public}/{name}")
            os.rmdir(self.public)


def lock(folder: str, seconds: float = 0) -> int:
    """Hold a container until `unlock`. Raises StateError while another command holds it, after up to `seconds`.

    The container's process closes its copy first of all (launch.run_child): it must hold no directory of the host.
    """
    deadline = time.monotonic() + seconds
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            os.close(fd)
            name = folder.rpartition("/")[2]
            raise StateError(
                f"container {name} is being worked on by another joey command", "try again", "busy"
            ) from None


def unlock(fd: int) -> None:
    """Let go of a container, for every process that shares the lock."""
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def create(root: str, container: str, bundle: bundles.Bundle) -> tuple[State, int]:
    """A new container's folder, with its lock held. Raises StateError when the id is taken."""
    check_id(container)
    files.make_private_directories(root)
    folder = f"{root}/{container}"
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        raise StateError(
            f"container with given ID already exists: {container}", f"remove it with: joey delete {container}", "exists"
        ) from None
    try:
        held = lock(folder, seconds=1)  # `list` holds it for a moment to see whether somebody is at work
    except StateError:
        os.rmdir(folder)
        raise
    state = State(folder, container, bundle.path, bundle.rootfs)
    state.created = rfc3339(time.time())
    state.annotations = bundle.annotations
    state.hooks = [kind for kind, hooks in (bundle.config.get("hooks") or {}).items() if hooks]
    state.listener = bool((bundle.linux.get("seccomp") or {}).get("listenerPath"))
    state._config = bundle
    return state, held


def load(root: str, container: str) -> State:
    """A container by id. Raises StateError "container does not exist"."""
    check_id(container)
    folder = f"{root}/{container}"
    if not os.path.isdir(folder):
        raise StateError("container does not exist", f"see: joey --root {root} list", "no-container")
    try:
        value = jsonio.loads(files.read_text(f"{folder}/state.json"))
    except OSError:
        # killed before its first state was written: nothing but the folder is there
        return State(folder, container, "", "")
    except ValueError as error:
        raise _damaged(folder, error) from None
    try:
        return _restore(folder, container, value)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from None


def load_again(known: State) -> State:
    """A container's record as it is now; what is known where it can't be read."""
    try:
        return load(os.path.dirname(known.folder), known.id)
    except StateError:
        return known


def _damaged(folder: str, error: Exception) -> StateError:
    hint = "see what is in it; `joey delete --force` removes it"
    return StateError(f"{folder}/state.json is damaged: {error!r}", hint, "damaged")


def _restore(folder: str, container: str, value: dict[str, Any]) -> State:
    state = State(folder, container, value["bundle"], value["rootfs"])
    state.pid = value["pid"]
    state.start_time = value["startTime"]
    state.created = value["created"]
    state.uid = value["uid"]
    state.annotations = value["annotations"]
    state.mechanisms = value["mechanisms"]
    state.losses = value["losses"]
    state.hooks = value["hooks"]
    state.listener = value["listener"]
    state.agent = value.get("agent", [0, 0])
    state.sigstopped = value.get("sigstopped", False)
    state.quotas = value.get("quotas", [])
    state.networks = value.get("networks", [])
    state.layers = value.get("layers", "")
    state.views = value.get("views", {})
    state.program = value.get("program", "")
    state.cgroup = Cgroup.from_json(value["cgroups"], value["cgroupsMade"])
    return state


def all_states(root: str) -> list[State]:
    """Every container under the root, by id."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    out = []
    for name in names:
        try:
            out.append(load(root, name))
        except StateError:
            continue  # removed meanwhile, or no container's folder
    return out


def rfc3339(seconds: float) -> str:
    """A time as in the OCI state and log lines: UTC with nanoseconds."""
    whole = int(seconds)
    fraction = int((seconds - whole) * 1e9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{fraction:09d}Z"
