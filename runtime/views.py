"""A container's own view of /proc's files about the machine: which way this host has, and keeping it there."""

from __future__ import annotations

import errno
import os
import shutil
import time
from binascii import crc32

from ..compat import daemon, libc
from ..compat.constants import AT_FDCWD, MNT_DETACH, OPEN_TREE_CLONE
from ..compat.errors import JoeyError, KernelError
from ..compat.views import TARGETS, fuse, lxcfs
from ..compat.views.contents import View
from ..probes.plan import Need
from ..probes.report import Finding, KernelReport
from . import log, members
from .limits import Limits
from .needs import VIEW_ANNOTATION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .bundle import Bundle
    from .state import State

FEATURE = "views"
_PERIOD = 1.0  # seconds between two looks of the keeper, and the age of files
_SAMPLE = 5.0  # seconds between two samples of the load, as the kernel's
_LXCFS = {name: f"sys/devices/system/cpu/{name}" if name == "online" else f"proc/{name}" for name in TARGETS}


def with_views(report: KernelReport, asked: bool) -> tuple[KernelReport, list[Need]]:
    """The report with the ways that this host has to show a container its own figures, and the need."""
    field = "--views" if asked else f"annotations[{VIEW_ANNOTATION!r}]"
    here = report.is_of_here
    root = "" if os.geteuid() == 0 else "only root can mount it"
    no_fuse = "" if report.works("fuse") else report.evidence("fuse")
    no_group = "" if _has_memory_group(report) else "no mounted cgroup hierarchy carries memory, by which lxcfs goes"
    if here:
        running = "" if lxcfs.mounted() else "no lxcfs is mounted that answers"
        program = "" if lxcfs.program() else "lxcfs is not installed"
    else:
        running = "" if report.works("lxcfs") else report.evidence("lxcfs")
        program = "" if report.works("lxcfs.program") else report.evidence("lxcfs.program")
    found = []
    for name, why_not in (
        ("place.lxcfs", no_group or running),
        ("place.lxcfs-start", no_group or root or no_fuse or program),
        ("place.view-server", root or no_fuse),
    ):
        state = "absent" if why_not else "works"
        found.append(Finding(name, state, "views of this host", why_not or "it can be done"))
    return report.with_findings(*found), [Need(FEATURE, field)]


def _has_memory_group(report: KernelReport) -> bool:
    return report.works("cgroup.memory") and bool(report.findings["cgroup.memory"].detail.get("mount"))


def _started_at(state: State) -> str:
    """Where the lxcfs is that joey starts for the containers of a --root."""
    return f"{lxcfs.FOLDER}/lxcfs-{crc32(os.path.dirname(state.folder).encode()):08x}"


def _lxcfs_of(state: State) -> str:
    """Where an lxcfs is that a container can show; "" for nowhere."""
    place = _started_at(state) if state.views["by"] == "lxcfs-started" else lxcfs.mounted()
    return place if place and lxcfs.answers(place) else ""


def source(state: State, name: str) -> str:
    """The host's file that shows `name` for a container."""
    by, folder = state.views["by"], state.views["folder"]
    return f"{folder}/{_LXCFS[name]}" if by.startswith("lxcfs") else f"{folder}/{name}"


class Keeper:
    """The process that serves, refreshes or restores a container's views, until it has ended."""

    def __init__(self, state: State, bundle: Bundle) -> None:
        self._state = state
        limits = Limits(state.folder, bundle.resources)
        self._view = View(state.cgroup, lambda: members.pids(state), lambda: limits.now()[0])
        self._sampled = 0.0
        self._server: fuse.Server | None = None
        self._kept: set[int] = set()

    def serve(self, folder: str) -> None:
        """Have a FUSE file system in a folder that the keeper will serve. Raises KernelError, OSError."""
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        fuse.mount(folder, fd)
        self._kept = {fd}
        self._server = fuse.Server(fd, list(TARGETS), self._view.read)

    def write(self, folder: str) -> None:
        """Write the files anew, in place: they are bound into the container."""
        for name in TARGETS:
            try:
                content = self._view.read(name)
            except (OSError, JoeyError, ValueError, KeyError):
                continue  # a figure of this moment could not be read: the last one stays
            fd = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444)
            try:
                os.pwrite(fd, content, 0)
                os.ftruncate(fd, len(content))
            finally:
                os.close(fd)

    def start(self) -> None:
        daemon.start(self._run)

    def _run(self) -> None:
        daemon.settle("joey-views", self._kept)
        by, folder = self._state.views["by"], self._state.views["folder"]
        while self._lives():
            if self._server:
                if not self._server.wait(_PERIOD):
                    return
            else:
                time.sleep(_PERIOD)
            try:
                if by == "files":
                    self.write(folder)
                elif by.startswith("lxcfs"):
                    self._restore()
                if time.monotonic() - self._sampled > _SAMPLE:
                    self._view.sample()
                    self._sampled = time.monotonic()
            except (OSError, JoeyError):
                continue  # the container is ending, or something was there no more; it is tried again in a moment

    def _lives(self) -> bool:
        """Whether the container does, or is still being made."""
        if not self._state.pid:
            from . import state

            try:
                loaded = state.load(os.path.dirname(self._state.folder), self._state.id)
            except JoeyError:
                return False
            if loaded.pid:
                self._state.pid, self._state.start_time = loaded.pid, loaded.start_time
                self._view.start(loaded.pid)
            return True
        return self._state.alive()

    def _restore(self) -> None:
        """Show lxcfs again in the container, where the one it showed has ended and another one is there."""
        if not self._state.pid or not is_dead(self._state.pid):
            return
        if self._state.views["by"] == "lxcfs-started":
            lxcfs.start(_started_at(self._state))
        if place := _lxcfs_of(self._state):
            self._state.views["folder"] = place
            show_again(self._state)


def is_dead(pid: int) -> bool:
    """Whether the views that a process sees are those of a FUSE file system whose process has ended."""
    try:
        os.stat(f"/proc/{pid}/root/proc/uptime")
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def show_again(state: State) -> None:
    """Put new views in the place of those in a running container. Needs setns and open_tree (Linux 5.2).

    Raises KernelError, OSError.
    """
    trees = {}
    namespace = os.open(f"/proc/{state.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    root = os.open(f"/proc/{state.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name, target in TARGETS.items():
            if os.path.exists(source(state, name)):
                trees[target] = libc.open_tree(AT_FDCWD, source(state, name), OPEN_TREE_CLONE | os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                libc.setns(namespace, 0)
                os.fchdir(root)
                os.chroot(".")
                for target, tree in trees.items():
                    _exchange(target, tree)
                status = 0
            finally:
                os._exit(status)
        if os.waitpid(pid, 0)[1]:
            raise JoeyError(f"container {state.id}: its views could not be shown again", slug="views")
    finally:
        for fd in (namespace, root, *trees.values()):
            os.close(fd)


def _exchange(target: str, tree: int) -> None:
    """In the container, whose /proc may be hostile: only a dead mount goes, and nothing follows a link."""
    try:
        os.lstat(target)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            return
        libc.umount(target, MNT_DETACH)
        libc.move_mount(tree, target)


def take_down(container: State) -> None:
    """Remove what a container's views left on the host; an lxcfs that joey started goes with its last container."""
    by, folder = container.views["by"], container.views["folder"]
    try:
        if by == "fuse":
            _unmount(folder)
            os.rmdir(folder)
        elif by == "files":
            shutil.rmtree(folder, ignore_errors=True)
        elif by == "lxcfs-started" and not _others(container):
            lxcfs.stop(folder)
    except (KernelError, FileNotFoundError):
        pass  # it was never there, or is gone
    except (JoeyError, OSError) as error:
        log.warn(f"views in {folder}: {error}")
    container.views = {}


def _unmount(folder: str) -> None:
    try:
        libc.umount(folder, MNT_DETACH)
    except KernelError:
        pass  # it is not mounted any more


def _others(container: State) -> bool:
    """Whether another container of the same --root shows the lxcfs that joey started."""
    from . import state

    folder = os.path.dirname(container.folder)
    return any(
        other.views.get("by") == "lxcfs-started" and other.id != container.id and other.alive()
        for other in state.all_states(folder)
    )


def prepare(state: State, bundle: Bundle, by: str) -> Keeper:
    """Have a container's views on the host; what is made is in its state before. Raises JoeyError, OSError."""
    keeper = Keeper(state, bundle)
    folder = state.public
    if by == "lxcfs":
        folder = lxcfs.mounted()
    elif by == "lxcfs-started":
        folder = _started_at(state)
    state.views = {"by": by, "folder": folder}
    state.save()
    if by == "lxcfs-started":
        lxcfs.start(folder)
    elif by != "lxcfs":
        state.make_public()
        if by == "fuse":
            _unmount(folder)
            keeper.serve(folder)
        else:
            keeper.write(folder)
    return keeper
