"""Pseudo-terminals: made inside a container, passed over a socket, relayed to the caller's own terminal."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct
import termios

from .constants import TIOCGPTN, TIOCSCTTY, TIOCSPTLCK
from .errors import JoeyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def open_pair(ptmx: str, pts: str) -> tuple[int, str]:
    """Open a master through `ptmx`, unlock its peer; returns (master descriptor, the peer's path under `pts`)."""
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    number = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, struct.pack("i", 0)))[0]
    return master, f"{pts}/{number}"


def set_size(fd: int, rows: int, columns: int) -> None:
    """Set a terminal's size in characters."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def copy_size(source: int, target: int) -> None:
    """Give `target` the size of `source`; nothing happens where `source` is no terminal."""
    try:
        fcntl.ioctl(target, termios.TIOCSWINSZ, fcntl.ioctl(source, termios.TIOCGWINSZ, bytes(8)))
    except OSError:
        return


def make_controlling(fd: int) -> None:
    """Make `fd` the controlling terminal of the calling session leader and its standard streams."""
    fcntl.ioctl(fd, TIOCSCTTY, 0)
    for stream in (0, 1, 2):
        os.dup2(fd, stream)


def make_raw(fd: int) -> list[Any]:
    """Put the terminal in raw mode; returns what `restore` takes. Source: cfmakeraw(3)."""
    try:
        before, mode = termios.tcgetattr(fd), termios.tcgetattr(fd)
    except termios.error as error:
        raise OSError(*error.args) from None
    mode[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
        | termios.ICRNL | termios.IXON
    )  # fmt: skip
    mode[1] &= ~termios.OPOST
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    _set(fd, termios.TCSANOW, mode)
    return before


def _set(fd: int, when: int, mode: list[Any]) -> None:
    """tcsetattr(3) that goes on after a signal: a background job is stopped by SIGTTOU first. Raises OSError."""
    while True:
        try:
            termios.tcsetattr(fd, when, mode)
        except termios.error as error:
            if error.args[0] == errno.EINTR:
                continue
            raise OSError(*error.args) from None
        return


def restore(fd: int, before: list[Any]) -> None:
    """Undo `make_raw`, unless the terminal has gone."""
    try:
        _set(fd, termios.TCSADRAIN, before)
    except OSError:
        return  # the terminal has hung up: there is nothing to restore


def send_fd(socket: _socket.socket, fd: int, message: bytes) -> None:
    """Send a descriptor with a message (SCM_RIGHTS). Source: unix(7)."""
    socket.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", fd))])


def receive_fd(socket: _socket.socket, size: int = 4096) -> tuple[bytes, int]:
    """Receive a message and the descriptor that came with it (-1 without one), close-on-exec."""
    message, ancillary, _, _ = socket.recvmsg(size, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            return message, int(struct.unpack("i", data[:4])[0])
    return message, -1


def accept(listener: _socket.socket) -> _socket.socket:
    """The next connection. Of the C module, whose sockets have no accept() of their own."""
    fd, _ = listener._accept()  # type: ignore[attr-defined]
    return _socket.socket(fileno=fd)


def connect_unix(path: str) -> _socket.socket:
    """A connected stream socket; paths longer than sun_path (108) are reached through a descriptor of their folder."""
    socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    directory, _, name = path.rpartition("/")
    fd = os.open(directory or ("/" if path.startswith("/") else "."), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        socket.connect(f"/proc/self/fd/{fd}/{name}")
    except OSError as error:
        socket.close()
        raise JoeyError(f"can't connect to the socket {path}: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(fd)
    return socket
