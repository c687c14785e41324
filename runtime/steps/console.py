"""The child's steps for a terminal: in a new container, and for a process that enters a running one."""

from __future__ import annotations

import errno
import os
import stat

from ...compat import libc, procfs, terminal
from ...compat.constants import MS_BIND
from ...compat.errors import KernelError, StepError
from ...compat.mounting import at
from ...compat.rootpath import Root
from ..channel import Channel
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket


class MakeConsole(Step):
    """Open a terminal in the container's devpts, send its master out, put it on /dev/console and the streams."""

    __slots__ = ("_socket", "channel", "root", "size", "socket_path", "uid")

    def __init__(
        self, root: Root, channel: Channel, socket_path: str, size: dict[str, int] | None, uid: int, connect: bool
    ) -> None:
        self.root = root
        self.channel = channel
        self.socket_path = socket_path
        self.size = size
        self.uid = uid
        # now: a process of a user namespace may not reach the socket's folder
        self._socket = terminal.connect_unix(socket_path) if socket_path and connect else None

    def describe(self) -> str:
        where = f"the socket {self.socket_path}" if self.socket_path else "joey"
        return f"open a terminal, send its master to {where}, put it on /dev/console"

    def run(self) -> None:
        master, peer = self._open()
        if self.size:
            terminal.set_size(master, self.size["height"], self.size["width"])
        os.fchown(peer, self.uid, -1)
        console = self.root.make_file("/dev/console")
        try:
            procfs.check_target(console, self.root.path, "/dev/console", shows_proc=False)
            libc.mount(at(peer), at(console), "", MS_BIND)
        finally:
            os.close(console)
        hand_over(peer, master, self._socket, self.channel)

    def keeps(self) -> list[int]:
        return [self._socket.fileno()] if self._socket else []

    def _open(self) -> tuple[int, int]:
        """The master and its peer, both made sure to be what they should: the image may have prepared /dev/pts."""
        handle = self._checked("/dev/pts/ptmx", 5, 2)
        try:
            master, path = terminal.open_pair(at(handle), "/dev/pts")
        finally:
            os.close(handle)
        handle = self._checked(path, 136, None)
        try:
            return master, os.open(at(handle), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        finally:
            os.close(handle)

    def _checked(self, path: str, major: int, minor: int | None) -> int:
        try:
            fd = self.root.open(path)
        except (OSError, KernelError) as error:
            if error.errno != errno.ENOENT:
                raise
            raise StepError(f"a terminal needs a devpts mount on /dev/pts: {path} is missing") from None
        status = os.fstat(fd)
        right = os.major(status.st_rdev) == major or (major == 136 and 136 <= os.major(status.st_rdev) <= 143)
        if not stat.S_ISCHR(status.st_mode) or not right or (minor is not None and os.minor(status.st_rdev) != minor):
            os.close(fd)
            raise StepError(f"{path} is not the device of a terminal")
        return fd


class OpenConsole(Step):
    """A terminal for a process that enters a running container, whose /dev and /proc are in hostile hands."""

    __slots__ = ("_socket", "channel", "size", "uid")

    def __init__(self, channel: Channel, console: _socket.socket | None, size: dict[str, int] | None, uid: int) -> None:
        self.channel = channel
        self.size = size
        self.uid = uid
        self._socket = console

    def describe(self) -> str:
        return "open a terminal of the container and send its master out"

    def run(self) -> None:
        master, path = terminal.open_pair("/dev/pts/ptmx", "/dev/pts")
        if os.fstat(master).st_rdev != os.makedev(5, 2):
            raise StepError("/dev/pts/ptmx of the container is not the device of a terminal")
        peer = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not 136 <= os.major(os.fstat(peer).st_rdev) <= 143:
            raise StepError(f"{path} of the container is not the device of a terminal")
        if self.size:
            terminal.set_size(master, self.size["height"], self.size["width"])
        os.fchown(peer, self.uid, -1)
        hand_over(peer, master, self._socket, self.channel)

    def keeps(self) -> list[int]:
        return [self._socket.fileno()] if self._socket else []


def hand_over(peer: int, master: int, console: _socket.socket | None, channel: Channel) -> None:
    """Send a terminal's master to the console socket or to joey, and make its peer this process's terminal."""
    if console:
        terminal.send_fd(console, master, b"/dev/ptmx")
        console.close()
    else:
        terminal.send_fd(channel.socket, master, b"console")
    os.close(master)
    terminal.make_controlling(peer)
    os.close(peer)
