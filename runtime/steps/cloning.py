"""The parent's step that clones the container's process: into new namespaces, and into those joined by path."""

from __future__ import annotations

import os

from ...compat import libc
from ...compat.cgroup.group import Cgroup
from ...compat.constants import CLONE_PARENT, PR_SET_DUMPABLE, SIGCHLD, SIGKILL
from ...compat.errors import JoeyError, KernelError
from ...compat.namespaces import NAMESPACES, join, open_namespace
from ...compat.rootpath import remove_created
from ..channel import Channel, ChildFailed
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable


class NewProcess(Step):
    """A step that makes the process which runs the child's steps.

    `pid` is the host's, once it is there. `connection` tells of its end where it is not joey's child.
    """

    __slots__ = ("channel", "connection", "created", "pid", "rootfs")

    def __init__(self, channel: Channel, rootfs: str) -> None:
        self.channel = channel
        self.rootfs = rootfs
        self.created: list[str] = []  # mount targets a failed child had made
        self.pid = 0
        self.connection: _socket.socket | None = None

    def wait_for(self, word: bytes) -> None:
        """Read until the child says `word`; a child that failed leaves the list of what to take back."""
        try:
            self.channel.wait_for(word)
        except ChildFailed as error:
            self.created = error.created
            raise

    def undo(self) -> None:
        if self.pid:
            try:
                os.kill(self.pid, SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # it ended by itself and was reaped, or is somebody else's child
        remove_created(self.rootfs, self.created)


class CloneChild(NewProcess):
    """Clone the container's first process into its new namespaces; it runs the child's steps."""

    __slots__ = ("after", "body", "cgroup", "enters", "first", "flags", "let_go", "paths", "verify")

    def __init__(
        self,
        channel: Channel,
        flags: int,
        paths: dict[str, str],
        let_go: Callable[[set[int]], None],
        body: Callable[[dict[str, int], bool], None],
        rootfs: str,
    ) -> None:
        super().__init__(channel, rootfs)
        self.verify: Callable[[], None] | None = None  # called when the namespaces' files are open; raises
        self.after: Callable[[], None] | None = None  # called when the process is there
        self.cgroup: Cgroup | None = None  # whose v2 group the process is born in
        self.flags = flags
        self.paths = paths  # namespaces joined by path: OCI name -> file
        self.enters: tuple[str, ...] = ()  # those that a process in between enters before it clones the child
        self.first: tuple[Step, ...] = ()  # what that process does before
        self.let_go = let_go  # lets go of what is joey's, but for these descriptors
        # given the descriptors of the namespaces that are left to join, and whether it still has to let go
        self.body = body

    def describe(self) -> str:
        new = [name for name, (flag, _) in NAMESPACES.items() if self.flags & flag]
        joined = [f"{name} of {path}" for name, path in self.paths.items()]
        group = [f"the cgroup {item.path}" for item in self.cgroup.groups if item.version == 2] if self.cgroup else []
        return "clone a process into " + (
            ", ".join(["new " + " ".join(new)] * bool(new) + joined + group) or "the caller's namespaces"
        )

    def run(self) -> None:
        fds = {}
        for name in NAMESPACES:
            if name in self.paths:
                try:
                    fds[name] = open_namespace(self.paths[name])
                except OSError as error:
                    raise KernelError("open", error.errno or 0, self.paths[name]) from None
        if os.geteuid() == 0:
            # inherited by the child, which shares a pid namespace with hostile processes at once when it joins one;
            # a plain user's child must stay dumpable until its id maps are written
            libc.prctl(PR_SET_DUMPABLE, 0)
        try:
            if self.verify:
                self.verify()
            self.pid = self._clone_between(fds) if self.enters else self._clone_beside(fds)
            if self.after:
                self.after()
        finally:
            for fd in fds.values():
                os.close(fd)
        self.channel.keep_parent()

    def _clone_beside(self, fds: dict[str, int]) -> int:
        pid = self._clone(self.flags)
        if pid == 0:
            self.body(fds, True)
        return pid

    def _clone(self, flags: int) -> int:
        return self.cgroup.clone_into(flags) if self.cgroup else libc.clone(flags | SIGCHLD)

    def _clone_between(self, fds: dict[str, int]) -> int:
        """A process in between enters namespaces and clones a sibling of itself, the child.

        Joining a pid namespace is for one's children; whoever may trace in there sees the child from its first moment,
        which must not find the host's files in it: neither as a root nor behind a descriptor.
        """
        read_end, write_end = os.pipe()
        between = self._clone(0)
        if between == 0:
            try:
                self.let_go({write_end, *fds.values()})
                for step in self.first:
                    step.run()
                for name in self.enters:
                    join(fds[name], name)
                    os.close(fds.pop(name))
                if "user" in self.enters:
                    _become_root_inside()
                pid = libc.clone(self.flags | CLONE_PARENT | SIGCHLD)
                if pid == 0:
                    os.close(write_end)
                    self.body(fds, False)
                os.write(write_end, str(pid).encode())
            except (JoeyError, OSError) as error:
                self.channel.keep_child()
                self.channel.send_error("enter the namespaces", error, [])
            finally:
                os._exit(0)
        os.close(write_end)
        answer = os.read(read_end, 32)
        os.close(read_end)
        os.waitpid(between, 0)
        if not answer:
            self.channel.keep_parent()
            self.channel.wait_for(b"never")
        return int(answer)


def _become_root_inside() -> None:
    """Take uid and gid 0 of the joined user namespace, where they are mapped; else stay who we are."""
    try:
        os.setgroups([])
    except PermissionError:
        pass  # setgroups is denied in namespaces of plain users; there are no groups to drop then
    for change in (os.setresgid, os.setresuid):
        try:
            change(0, 0, 0)
        except OSError:
            continue
