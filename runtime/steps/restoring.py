"""The parent's step of a restore: CRIU started inside the container's cgroups, its root a mount of its own."""

from __future__ import annotations

import os
import sys

from ...compat import libc, process, signals
from ...compat.constants import CLONE_NEWCGROUP, CLONE_NEWNS, MS_BIND, MS_REC, MS_SLAVE, SIGCHLD, SIGKILL
from ...compat.errors import JoeyError
from ...compat.files import read_line
from ...compat.mounting import make_rootfs_parent_private
from .. import criu
from ..bundle import Bundle
from ..state import State
from . import Step


class RestoreByCriu(Step):
    """Have CRIU make the processes again; the first becomes a child of joey, as a cloned one is."""

    __slots__ = ("born_in_v2", "bundle", "call", "images", "log", "state")

    def __init__(self, call: list[str], images: str, log: str, bundle: Bundle, state: State, born_in_v2: bool) -> None:
        self.born_in_v2 = born_in_v2
        self.call = call
        self.images = images
        self.log = log
        self.bundle = bundle
        self.state = state

    def describe(self) -> str:
        return f"restore the processes from {self.images}"

    def run(self) -> None:
        words, inherited = self._words()
        pid_file = f"{self.state.folder}/restored.pid"
        words += ["--root", self.bundle.rootfs, "--pidfile", pid_file]
        wait, go = os.pipe()
        pid = self.state.cgroup.clone_into(0) if self.born_in_v2 else libc.clone(SIGCHLD)
        if pid == 0:
            os.close(go)
            if os.read(wait, 1) != b"g":
                os._exit(1)
            self._become_criu(words, inherited)
        os.close(wait)
        try:
            if not self.born_in_v2:
                self.state.cgroup.join(pid, (2,))
            os.write(go, b"g")
        finally:
            os.close(go)
        for fd in inherited:
            os.close(fd)
        status = os.waitpid(pid, 0)[1]
        first = read_line(pid_file)
        if status or not first.isdigit():
            self._end(first)
            raise criu.failed(f"restore {self.state.id}", self.log)
        self.state.set_process(int(first))
        os.unlink(pid_file)

    def undo(self) -> None:
        self._end(str(self.state.pid))

    def _end(self, pid: str) -> None:
        if pid.isdigit() and int(pid) > 0:
            try:
                os.kill(int(pid), SIGKILL)
                os.waitpid(int(pid), 0)
            except (ProcessLookupError, ChildProcessError):
                return  # it is gone

    def _words(self) -> tuple[list[str], list[int]]:
        """CRIU's command line, and the descriptors it names."""
        words, inherited = list(self.call), []
        for stream, link in enumerate(criu.read_streams(self.images)[:3]):
            if link.startswith(("pipe:[", "socket:[", "file[")):
                inherited.append(os.dup(stream))
                words += ["--inherit-fd", f"fd[{inherited[-1]}]:{link}"]
        places = criu.externals(self.bundle, self.state.cgroup, self.bundle.path)
        for name, source in dict(places.values()).items():
            words += ["--external", f"mnt[{name}]:{source}"]
        path = self.bundle.namespaces.get("network")
        if path:
            inherited.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            words += ["--inherit-fd", f"fd[{inherited[-1]}]:{criu.NETWORK}"]
        return words, inherited

    def _become_criu(self, words: list[str], inherited: list[int]) -> None:
        """In the child: enter the cgroups, make the root a mount in a namespace of its own, execute CRIU."""
        try:
            signals.reset()
            self.state.cgroup.join_v1_by_oneself()
            libc.unshare(CLONE_NEWNS | (CLONE_NEWCGROUP if self.bundle.creates("cgroup") else 0))
            libc.mount("", "/", "", MS_SLAVE | MS_REC)
            make_rootfs_parent_private(self.bundle.rootfs)
            libc.mount(self.bundle.rootfs, self.bundle.rootfs, "", MS_BIND | MS_REC)
            for fd in inherited:
                os.set_inheritable(fd, True)
            process.close_all_but(set(inherited), first=3)
            os.execv(words[0], words)
        except (JoeyError, OSError) as error:
            print(f"joey: CRIU can't be started: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)
