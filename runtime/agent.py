"""Entering a container on a kernel without setns(2): a process of joey's stays inside and forks what `exec` runs.

The agent is forked from the container's own process before anything of the container runs, so it is in the same
namespaces, root and cgroups. It listens on a socket in the container's state folder: inside, no path leads there. Who
connects sends descriptors and one request, and is told the process's wait status at its end. What the process does
between its fork and its exec, and every failure of it, goes over a channel between it and `joey exec`, as when joey
clones the process itself.

Nothing here opens a path or imports a module while it serves: both would be the container's.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select
import struct

from ..compat import jsonio, libc, signals, terminal
from ..compat.errors import JoeyError, StateError
from ..probes.plan import Choice, Plan
from .bundle import Bundle
from .channel import Channel
from .enter import first_steps, inside_steps
from .launch import run_child
from .process_steps import Made
from .state import State
from .steps.program import Stub

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOCKET = "agent.sock"
NAME = "joey-agent"
HERE = b"here"
BATCH = 200  # descriptors in one message: the kernel takes up to 253 (unix(7))
REQUEST_LIMIT = 8 << 20
PATIENCE = 30.0  # seconds that a joey may take for its request
_LENGTH = struct.Struct("=I")
_STATUS = struct.Struct("=i")


class Request:
    """What `joey exec` asks for, and its descriptors: the streams, those kept, the channel; the stub, the console."""

    __slots__ = ("fds", "value")

    def __init__(self, value: dict[str, Any], fds: list[int]) -> None:
        self.value = value
        self.fds = fds

    @classmethod
    def of(
        cls, bundle: Bundle, plan: Plan, made: Made, name: str, keep_fds: int, channel: int, console: int
    ) -> Request:
        value = {
            "process": bundle.process,
            "mechanisms": {feature: choice.mechanism for feature, choice in plan.choices.items()},
            "filter": made.filter.hex(),
            "filterFlags": made.filter_flags,
            "traceFilter": made.trace_filter.hex(),
            "stub": ["name" if made.stub.by_name else "fd", made.stub.report_fd] if made.stub else [],
            "console": console >= 0,
            "keep": keep_fds,
            "name": name,
        }
        fds = [*range(3 + keep_fds), channel]
        fds += [made.stub.fd] if made.stub else []
        fds += [console] if console >= 0 else []
        return cls(value, fds)

    def send(self, socket: _socket.socket) -> None:
        """Send it whole. Raises OSError."""
        text = jsonio.dumps(self.value).encode()
        socket.sendall(_LENGTH.pack(len(text)) + _LENGTH.pack(len(self.fds)))
        for at in range(0, len(self.fds), BATCH):
            part = self.fds[at : at + BATCH]
            data = struct.pack(f"{len(part)}i", *part)
            socket.sendmsg([b"."], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, data)])
        socket.sendall(text)

    @classmethod
    def receive(cls, socket: _socket.socket) -> Request:
        """Raises OSError or ValueError; then the descriptors that came are closed."""
        fds: list[int] = []
        try:
            length, count = struct.unpack("=II", _receive(socket, 8))
            if length > REQUEST_LIMIT:
                raise ValueError("a request of more than 8 MiB")
            while len(fds) < count:
                _, ancillary, _, _ = socket.recvmsg(1, _socket.CMSG_SPACE(4 * BATCH), _socket.MSG_CMSG_CLOEXEC)
                got = b"".join(data for level, kind, data in ancillary if kind == _socket.SCM_RIGHTS)
                if not got:
                    raise ValueError("descriptors are missing")
                fds += struct.unpack(f"{len(got) // 4}i", got)
            return cls(jsonio.loads(_receive(socket, length).decode()), fds)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise


def _receive(socket: _socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = socket.recv(min(size - len(data), 1 << 16))
        if not part:
            raise ValueError("the request ends early")
        data += part
    return data


class Agent:
    """The process that stays inside. `own` is joey's interpreter: device and inode."""

    def __init__(self, listener: _socket.socket, bundle: Bundle, container: str, own: tuple[int, int]) -> None:
        self._listener = listener
        self._bundle = bundle
        self._container = container
        self._own = own
        self._running: dict[int, _socket.socket] = {}  # processes, and who is told of their ends
        self._wake = -1

    def serve(self) -> None:
        """Serve until killed, at the latest with the container's first process. Never raises."""
        self._wake, write_end = os.pipe()
        for fd in (self._wake, write_end):
            os.set_blocking(fd, False)
        signals.handle_children(write_end)
        poll = select.poll()
        poll.register(self._listener.fileno(), select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == self._wake:
                    os.read(self._wake, 4096)
                    self._reap()
                else:
                    self._serve_one(write_end)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            socket = self._running.pop(pid, None)
            if socket:
                try:
                    socket.send(_STATUS.pack(status), _socket.MSG_NOSIGNAL)
                except OSError:
                    pass  # nobody waits for it
                socket.close()

    def _serve_one(self, write_end: int) -> None:
        socket = terminal.accept(self._listener)
        try:
            socket.settimeout(PATIENCE)
            request = Request.receive(socket)
        except (OSError, ValueError):
            socket.close()
            return
        pid = os.fork()
        if pid == 0:
            try:
                ours = [self._listener.fileno(), self._wake, write_end, socket.fileno()]
                for held in (*ours, *(other.fileno() for other in self._running.values())):
                    os.close(held)
                self._become(request)
            finally:
                os._exit(1)
        for held in request.fds:
            os.close(held)
        socket.setblocking(False)
        self._running[pid] = socket

    def _become(self, request: Request) -> None:
        """The process itself: descriptors in their places, then the steps, the last of which is the exec."""
        signals.reset()
        value = request.value
        count = 3 + int(value["keep"])
        fds = [_moved_up(fd, count + 1) for fd in request.fds]
        for place in range(count):
            os.dup2(fds[place], place)
            os.close(fds[place])
        rest = fds[count:]
        channel = Channel.of(_socket.socket(fileno=rest.pop(0)))
        try:
            stub = Stub(rest.pop(0), value["stub"][1], value["stub"][0] == "name") if value["stub"] else None
            console = _socket.socket(fileno=rest.pop(0)) if value["console"] else None
            made = Made(
                stub,
                bytes.fromhex(value["filter"]),
                value["filterFlags"],
                bytes.fromhex(value["traceFilter"]),
                self._own,
            )
            choices = {name: Choice(name, "", mechanism, "") for name, mechanism in value["mechanisms"].items()}
            self._bundle.process = value["process"]
            libc.name_process(value["name"])
            channel.send(HERE)
            state = State("", self._container, self._bundle.path, self._bundle.rootfs)
            plan = Plan(choices, "", "")
            steps = first_steps(self._bundle)
            steps += inside_steps(self._bundle, plan, channel, state, made, console, waits=True)
        except BaseException as error:
            channel.send_error("enter the container", error, [])
            return
        run_child(channel, tuple(steps), [], None)


def _moved_up(fd: int, least: int) -> int:
    """The same file on a descriptor from `least` on."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
    os.close(fd)
    return moved


def ask(folder: str, request: Request) -> _socket.socket:
    """Have the container's agent fork a process; the connection on which its end is told. Raises StateError."""
    try:
        socket = terminal.connect_unix(f"{folder}/{SOCKET}")
        request.send(socket)
    except (JoeyError, OSError) as error:
        raise gone(str(error)) from None
    return socket


def gone(reason: str) -> StateError:
    return StateError(
        f"the container's agent does not answer: {reason}",
        "this kernel has no setns: once its agent is killed, a container can't be entered until it is made anew",
        "no-agent",
    )


def wait_status(socket: _socket.socket) -> int:
    """The wait status that is there to read. Raises StateError where the agent has ended."""
    try:
        data = socket.recv(_STATUS.size)
    except OSError:
        data = b""
    if len(data) < _STATUS.size:
        raise gone("it ended before the process did")
    return int(_STATUS.unpack(data)[0])
