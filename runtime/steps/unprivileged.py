"""Steps of a container that a user without privilege runs: its places made, its process prepared for the tracer."""

from __future__ import annotations

import _socket
import os
import shutil
import stat

from ...compat import files, libc
from ...compat.errors import KernelError, StepError
from ...compat.unprivileged import loading
from ...compat.unprivileged.owners import Owners
from ...compat.unprivileged.person import SEARCH, Person
from ...compat.unprivileged.tree import Tree, Viewer
from ..channel import Channel
from . import Step
from .console import hand_over
from .program import DEFAULT_PATH, Prepare, passwd_home

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_PTRACER = 0x59616D61  # <linux/prctl.h>, of the Yama module
_ANY = (1 << 64) - 1
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


class MakePlaces(Step):
    """Make what a container's binds are at, directories that are empty file systems to it, and the stub.

    `points` are (the host's name of a mount point, whether it is a directory).
    """

    __slots__ = ("device_folder", "folder", "points", "private", "stub")

    def __init__(
        self, folder: str, private: list[tuple[str, int]], points: list[tuple[str, bool]], device_folder: str, stub: str
    ) -> None:
        self.folder = folder
        self.private = private
        self.points = points
        self.device_folder = device_folder
        self.stub = stub

    def describe(self) -> str:
        return f"make {len(self.points)} places in the root file system and {len(self.private)} private directories"

    def run(self) -> None:
        for path, mode in self.private:
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode & 0o1777 | 0o700)
        for path, is_directory in self.points:
            if os.path.lexists(path):
                continue
            if is_directory:
                os.makedirs(path)
            else:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        for name, target in _LINKS.items() if self.device_folder else ():
            if not os.path.lexists(f"{self.device_folder}/{name}"):
                os.symlink(target, f"{self.device_folder}/{name}")
        files.write_atomically(self.stub, loading.stub(), 0o700)

    def undo(self) -> None:
        remove_folder(self.folder)


def remove_folder(folder: str) -> None:
    """Remove a directory of the user's, whatever modes are in it."""
    for path, names, _ in os.walk(folder):
        for name in names:
            if not os.path.islink(f"{path}/{name}"):
                os.chmod(f"{path}/{name}", 0o700)
    shutil.rmtree(folder, ignore_errors=True)


class AllowTracer(Step):
    """Let joey's tracer take this process over, where the Yama module lets a parent trace only."""

    __slots__ = ()

    def describe(self) -> str:
        return "let the tracer take it over"

    def run(self) -> None:
        try:
            libc.prctl(PR_SET_PTRACER, _ANY)
        except KernelError:
            return  # no Yama


class OpenHostConsole(Step):
    """A terminal of the host's for the container; its master goes out."""

    __slots__ = ("_socket", "channel", "size")

    def __init__(self, channel: Channel, console: _socket.socket | None, size: dict[str, int] | None) -> None:
        self.channel = channel
        self.size = size
        self._socket = console

    def describe(self) -> str:
        return "open a terminal and send its master out"

    def run(self) -> None:
        from ...compat import terminal

        master, peer = os.openpty()
        if self.size:
            terminal.set_size(master, self.size["height"], self.size["width"])
        hand_over(peer, master, self._socket, self.channel)

    def keeps(self) -> list[int]:
        return [self._socket.fileno()] if self._socket else []


class FindProgram(Prepare):
    """Umask, working directory and the program's place, by the container's names."""

    __slots__ = ("owners", "person", "tree")

    def __init__(self, process: dict[str, Any], tree: Tree, owners: Owners, person: Person) -> None:
        super().__init__(process, None, (0, 0))
        self.tree = tree
        self.owners = owners
        self.person = person

    def run(self) -> None:
        os.umask(self.umask)
        viewer = Viewer(os.getpid(), os.getpid(), "/", lambda _: "/", lambda _: "")
        try:
            os.chdir(self.tree.resolve(self.cwd, "/", viewer, follow=True).host)
        except OSError as error:
            raise StepError(f"process.cwd {self.cwd}: {error.strerror}") from None
        if "HOME" not in self.env:
            self.env["HOME"] = self._home(viewer)
        self.program = self._find(self.argv[0], viewer)

    def _home(self, viewer: Viewer) -> str:
        try:
            return passwd_home(self.tree.resolve("/etc/passwd", "/", viewer, follow=True).host, self.person.uids[0])
        except OSError:
            return "/"

    def _find(self, name: str, viewer: Viewer) -> str:
        path = self.env.get("PATH", DEFAULT_PATH)
        candidates = [name] if "/" in name else [f"{folder or '.'}/{name}" for folder in path.split(":")]
        problem = ""
        for candidate in candidates:
            try:
                found = self.tree.resolve(candidate, self.cwd, viewer, follow=True)
                status = os.lstat(found.host)
            except OSError as error:
                if "/" in name:
                    reason = os.strerror(error.errno or 0).lower()
                    raise StepError(f'exec: "{name}": stat {name}: {reason}', slug="not-found") from None
                continue
            if stat.S_ISDIR(status.st_mode):
                problem = problem or ("permission denied (is a directory)" if "/" in name else "")
            elif self.person.may(self.owners.of(found.host, status), SEARCH):
                return candidate
            else:
                problem = "permission denied"
        if problem:
            raise StepError(f'exec: "{name}": {problem}', slug="not-executable")
        raise StepError(f'exec: "{name}": executable file not found in $PATH', slug="not-found")

    def refuse_interpreter(self) -> None:
        """Nothing of joey's is in reach: /proc/self/exe is told by the tracer."""
