"""The socket between joey and a starting container: one message a packet.

Child to parent: b"mounted", b"ready", b"console", b"listener" and b"network" with a descriptor, b"error" and JSON,
b"exec" and the errno of a failed exec. Parent to child: b"go".
End of file from the child is a successful exec (the socket is close-on-exec); end of file from the parent means that
joey died: the child ends itself.
"""

from __future__ import annotations

import _socket
import os

from ..compat import jsonio, terminal
from ..compat.errors import JoeyError, StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE_LIMIT = 1 << 16
DMESG = "see dmesg: it may have been killed"
EXEC_FAILED = b"exec"  # and the errno; the machine code of compat/execstub.py writes it


class Channel:
    """Both ends of a SOCK_SEQPACKET pair; after the clone each side keeps one."""

    __slots__ = ("_child", "_parent", "_unread", "master", "program", "socket", "takes")

    def __init__(self) -> None:
        self._parent, self._child = _pair()
        self.socket = self._parent
        self._unread = False  # the child ended without having read all that was sent to it
        self.master = -1  # the terminal's master, once the child sent it
        self.takes: dict[bytes, Callable[[int], None] | None] = {}  # who is given the descriptor that comes with a word
        self.program: Callable[[], str] = lambda: ""  # the name of what is executed, for the message of a failure

    @classmethod
    def of(cls, socket: _socket.socket) -> Channel:
        """The child's end, that came as a descriptor."""
        channel = cls.__new__(cls)
        channel._parent = channel._child = channel.socket = socket
        channel._unread = False
        channel.master = -1
        channel.takes = {}
        channel.program = lambda: ""
        return channel

    def child_fd(self) -> int:
        """The descriptor of the child's end, before one is kept."""
        return self._child.fileno()

    def keep_parent(self) -> None:
        self._child.close()
        self.socket = self._parent

    def keep_child(self) -> None:
        self._parent.close()
        self.socket = self._child

    def switch(self, socket: _socket.socket) -> None:
        """The child's answers go to another socket from now on (that of `joey start`)."""
        self.socket.close()
        self.socket = socket

    def move_to(self, fd: int) -> None:
        """Have the socket on descriptor `fd`, which an exec keeps."""
        if self.socket.fileno() == fd:
            os.set_inheritable(fd, True)
        else:
            os.dup2(self.socket.fileno(), fd)
            self.switch(_socket.socket(fileno=fd))

    def send(self, word: bytes) -> None:
        """Send one word; a parent that is gone raises JoeyError."""
        try:
            self.socket.send(word)
        except OSError as error:
            raise JoeyError(f"the other side is gone ({os.strerror(error.errno or 0)})") from None

    def send_error(self, step: str, error: BaseException, created: list[str]) -> None:
        """Tell the other side which step failed, why, and what it had created in the root file system."""
        message = {
            "step": step,
            "message": str(error) if not isinstance(error, OSError) else _os_error(error),
            "hint": getattr(error, "hint", ""),
            "slug": getattr(error, "slug", "step"),
            "created": created[-100:],
        }
        text = jsonio.dumps(message)
        if len(text) > MESSAGE_LIMIT - 8:
            text = jsonio.dumps({**message, "message": str(message["message"])[:1000], "created": []})
        try:
            self.socket.send(b"error" + text.encode())
        except OSError:
            return  # nobody is left to tell

    def wait_for_go(self) -> None:
        """Block until the parent says go. Ends the process where the parent died."""
        if self.socket.recv(16) != b"go":
            os._exit(1)

    def wait_for(self, word: bytes) -> None:
        """Read until the child says `word`. Raises StepError with the child's own error, or that it died."""
        while True:
            message = self.read()
            if message == word:
                return
            if message == b"":
                raise StepError("the container's process ended before it was ready", DMESG)

    def wait_for_exec(self) -> None:
        """Read until end of file, which means that the child's exec succeeded. Raises StepError."""
        while self.read():
            pass
        if self._unread:
            raise StepError("the container's process ended before it executed its program", DMESG)

    def read(self) -> bytes:
        """One message; a terminal's master that comes becomes `master`. Raises StepError for an error message.

        A process that is a container's by now may send anything: a descriptor is taken with its own word only, once.
        """
        try:
            message, fd = terminal.receive_fd(self.socket, MESSAGE_LIMIT)
        except ConnectionResetError:
            # the child ended with a word of ours unread; the kernel tells that once, before what the child had sent
            self._unread = True
            message, fd = terminal.receive_fd(self.socket, MESSAGE_LIMIT)
        if message == b"console" and fd >= 0 and self.master < 0:
            self.master = fd
        elif fd >= 0:
            take = self.takes.pop(message, None)
            try:
                if take:
                    take(fd)
            finally:
                os.close(fd)
        if message.startswith(b"error"):
            raise _step_error(message[5:])
        if message.startswith(EXEC_FAILED):
            raise exec_failed(self.program(), int.from_bytes(message[4:6], "little"))
        return message

    def close(self) -> None:
        self.socket.close()


class ChildFailed(StepError):
    """The container's process failed in a step; `created` are the mount targets it had made."""

    def __init__(self, message: str, hint: str, slug: str, created: list[str]) -> None:
        super().__init__(message, hint, slug)
        self.created = created


def exec_failed(name: str, number: int) -> StepError:
    """The error of an exec the kernel refused, in runc's words."""
    return StepError(f'exec: "{name}": {os.strerror(number).lower()}', slug="not-executable")


def _step_error(message: bytes) -> ChildFailed:
    """The error in a message; a process that is a container's by now may have sent anything."""
    try:
        value = jsonio.loads(message.decode())
        step, text, hint, slug = (str(value[name])[:4096] for name in ("step", "message", "hint", "slug"))
        created = [str(path) for path in value["created"]]
    except (KeyError, TypeError, ValueError, RecursionError):
        return ChildFailed("the container's process sent an error that can't be read", "", "step", [])
    return ChildFailed(f"{step}: {text}" if step else text, hint, slug, created)


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


def _pair() -> tuple[_socket.socket, _socket.socket]:
    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    return one, other
