"""One host over SSH, by fabric: the user's ssh_config, agent and keys; its host key is always checked.

Servers as old as CentOS 6's OpenSSH 5.3 sign with SHA-1 only. paramiko before 4 still speaks that: that is why it is
held there (docs/notes/0010-fleets.md).
"""

from __future__ import annotations

import os
import select
import shlex
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ...compat.errors import JoeyError
from ...runtime.tables import plain
from . import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from .hosts import Host

_LARGEST = 16 << 20  # of what a command there prints
_SMALL = 1 << 16
_ERRORS = 1 << 16
_CHUNK = 1 << 16
# a terminal mixes output and errors, and whatever sudo says: what a command prints there is between these
_READY, _BEGIN, _END = b"joey-is-ready\r\n", b"joey-begins\r\n", b"\njoey-ended\r\n"
_APART = (
    "exec 3>&1; printf 'joey-begins\\r\\n'; e=$({ %s\n} 2>&1 >&3 3>&-); s=$?; "
    "printf '\\njoey-ended\\r\\n%%s' \"$e\"; exit $s"
)


class LinkError(JoeyError):
    """A host can't be reached, or a command there failed."""

    slug = "ssh"


class Done(NamedTuple):
    """A command that came to an end; `status` is -1 where a signal ended it."""

    status: int
    out: bytes
    err: str

    @property
    def reason(self) -> str:
        """The last line of its complaints."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return plain(lines[-1])[:300] if lines else f"status {self.status}"


class Stream(NamedTuple):
    """Bytes to be sent that are made as they are sent: how many, and a function that makes them, from the start."""

    size: int
    chunks: Callable[[], Iterator[bytes]]

    @classmethod
    def of(cls, data: bytes) -> Stream:
        return cls(len(data), lambda: iter([data] if data else []))


class Way(NamedTuple):
    """How hosts are reached: an ssh_config instead of the user's ("" for that), seconds to wait for an answer."""

    config: str = ""
    patience: int = 10


class Link:
    """A connection to one host, to be used as a context. All its work ends by `deadline`, of time.monotonic()."""

    def __init__(self, host: Host, way: Way, deadline: float) -> None:
        self.host = host
        self.notes: list[str] = []
        self._way = way
        self._deadline = deadline
        self._connection: Any = None
        self._through: list[Any] = []  # the hosts on the way to it, the nearest first
        self._closed = False
        self._served: list[Any] = []
        self.attached: list[Link] = []  # other connections that are closed with it
        self._sudo = ""  # "", "plain" or "terminal"
        self._is_root = False

    def __enter__(self) -> Self:
        try:
            self._connect()
        except BaseException:
            self.close()
            raise
        return self

    def again(self, seconds: float) -> Link:
        """Another connection to the same host, with time of its own: to take back what this one could not finish."""
        return Link(self.host, self._way, time.monotonic() + seconds)

    def extend(self, seconds: float) -> None:
        """Give it more time, from now on."""
        self._deadline = time.monotonic() + seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Also from another thread: whatever waits there ends with an error."""
        self._closed = True
        for other in list(self.attached):
            other.close()
        for connection in [*self._through, self._connection]:
            if connection is not None:
                try:
                    connection.client.close()
                except Exception:
                    continue  # it was half open

    @property
    def address(self) -> str:
        """Where the host is: as a number, where it is reached without another one."""
        try:
            if not self._through:
                return str(self._connection.transport.sock.getpeername()[0])
        except (OSError, AttributeError):  # a command is between (ProxyCommand)
            pass
        return str(self._connection.host)

    def joey(self, *words: str) -> str:
        """joey there as a command for sh: the kit's, else whatever is in its PATH."""
        return f"PATH={shlex.quote(self.host.kit)}/bin:$PATH:/usr/local/bin\nexec joey {shlex.join(words)}"

    @property
    def seconds(self) -> float:
        """Until the deadline; none or less after it."""
        return self._deadline - time.monotonic()

    @property
    def is_late(self) -> bool:
        return self.seconds <= 0

    def left(self) -> float:
        """Seconds until the deadline. Raises LinkError where there are none, and after `close`."""
        if self._closed:
            raise LinkError("the connection is closed")
        return self._left()

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise LinkError(f"not done within {self.host.timeout} s", "timeout: in the fleet's file, or --timeout")
        return left

    def _connect(self) -> None:
        fabric, paramiko = libraries()
        try:
            try:
                self._open(fabric, paramiko, {})
            except (paramiko.AuthenticationException, ValueError):  # a refused RSA key is tried as one of DSA, too
                # servers before OpenSSH 7.2 know no other signature of an RSA key than SHA-1's
                self.close()
                self._closed = False
                self._open(fabric, paramiko, {"pubkeys": ["rsa-sha2-512", "rsa-sha2-256"]})
                self.notes.append("its SSH server takes only SHA-1 signatures, and they were used")
        except paramiko.BadHostKeyException:
            hint = "if it was installed anew, remove the old key: ssh-keygen -R HOST; else somebody is between"
            raise LinkError("its host key is not the one that is known", hint) from None
        except paramiko.PasswordRequiredException:
            raise LinkError("the key is encrypted", "ssh-add it to an agent") from None
        except (paramiko.AuthenticationException, ValueError):
            hint = "it must let you in without a password: ssh-copy-id, or an agent"
            raise LinkError("it does not let us in", hint) from None
        except paramiko.SSHException as error:
            text = str(error)
            if "not found in known_hosts" in text:
                hint = "check its key, then: ssh-keyscan HOST >>~/.ssh/known_hosts"
                raise LinkError("its host key is not known", hint) from None
            raise LinkError(plain(text)[:300] or type(error).__name__, "is it an SSH server?") from None
        except (OSError, EOFError) as error:
            raise LinkError(_of_socket(error), "is the host up, and its name right?") from None

    def _open(self, fabric: Any, paramiko: Any, without: dict[str, list[str]]) -> None:
        host = self.host
        given = {"runtime_ssh_path": self._way.config} if self._way.config else {}
        config = fabric.Config(**given)
        connect: dict[str, Any] = {
            "timeout": min(self._way.patience, self._left()),
            "banner_timeout": self._way.patience,
            "auth_timeout": max(self._way.patience, 15),
        }
        if host.key:
            connect["key_filename"] = os.path.expanduser(host.key)
        if without:
            connect["disabled_algorithms"] = without
        self._connection = fabric.Connection(
            host.address or host.name, user=host.user or None, port=host.port or None, config=config,
            connect_kwargs=connect,
        )  # fmt: skip
        chain = [self._connection]
        while chain[0].gateway is not None and not isinstance(chain[0].gateway, str):
            chain.insert(0, chain[0].gateway)
        self._through = chain[:-1]
        before: Any = None
        for each in chain:
            keys.check(each, paramiko)
            if before is not None:
                where = each.host, each.port
                each.gateway = None  # fabric would wait for it without end
                sock = before.transport.open_channel("direct-tcpip", where, ("", 0), timeout=connect["timeout"])
                each.connect_kwargs["sock"] = sock
            elif not each.gateway:
                each.connect_kwargs["sock"] = _socket(each.host, each.port, connect["timeout"])
            for key in ("timeout", "banner_timeout", "auth_timeout"):
                each.connect_kwargs[key] = min(connect[key], self._left())
            keys.load(each.connect_kwargs, paramiko)
            each.open()
            if self._closed:
                raise LinkError(f"not done within {self.host.timeout} s")
            each.transport.set_keepalive(15)
            before = each

    def run(self, command: str, stdin: bytes | Stream = b"", limit: int = _LARGEST) -> Done:
        """A command for sh there, as the user who logs in. Raises LinkError where it does not come to an end."""
        return self._run(f"exec sh -c {shlex.quote(command)}", stdin, limit, terminal=False)

    def become_root(self) -> bool:
        """Find a way to be root there; whether there is one. A host that says `sudo: no` has none but its user's."""
        if self._sudo or self._is_root:
            return True
        self._is_root = self.run("id -u", limit=_SMALL).out.strip() == b"0"
        if self._is_root:
            return True
        if self.host.sudo is False:
            return False
        for way in ("plain", "terminal"):  # sudoers of CentOS 6 have requiretty
            self._sudo = way
            try:
                done = self.run_as_root("id -u", limit=_SMALL)
            except LinkError:
                if way == "terminal" and not self._closed:  # PermitTTY no
                    break
                raise
            if done.status == 0 and done.out.strip() == b"0":
                return True
        self._sudo = ""
        return False

    def run_as_root(self, command: str, stdin: bytes | Stream = b"", limit: int = _LARGEST) -> Done:
        """The same as root, after `become_root`."""
        if not self._sudo:
            return self.run(command, stdin, limit)
        words = f"sudo -n -- sh -c {shlex.quote(command)}"
        if self._sudo == "plain":
            return self.run(f"exec {words}", stdin, limit)
        # a terminal neither ends its input nor keeps bytes as they are: raw, and so many bytes of it
        words = f"sudo -n -- sh -c {shlex.quote(_APART % command)}"
        raw = "mesg n 2>/dev/null; stty raw -echo; printf 'joey-is-ready\\r\\n'"
        script = f"{raw}; head -c {_stream(stdin).size} | {words}"
        done = self._run(f"exec sh -c {shlex.quote(script)}", stdin, limit, terminal=True)
        before, begun, out = done.out.partition(_BEGIN)
        if not begun:
            return Done(done.status or 1, b"", before.decode("utf-8", "replace"))
        out, _, err = out.rpartition(_END)
        return Done(done.status, out, err.decode("utf-8", "replace"))

    def serve(self, command: str, line: bytes) -> str:
        """Start a command of root that lasts until this connection ends; give it a line, and return its first one.

        After `become_root`. Raises LinkError.
        """
        _, paramiko = libraries()
        if self._sudo == "terminal":
            raise LinkError("sudo there wants a terminal, in which nothing can be served")
        words = f"{'sudo -n -- ' if self._sudo else ''}sh -c {shlex.quote(command)}"
        out = bytearray()
        try:
            channel = self._connection.transport.open_session(timeout=self._left())
            channel.settimeout(self._left())
            channel.exec_command(f"exec {words}")
            channel.sendall(line + b"\n")
            while b"\n" not in out and len(out) < _SMALL and (data := channel.recv(_SMALL)):
                out += data
                channel.settimeout(self._left())
            if b"\n" not in out:
                said = channel.recv_stderr(_SMALL).decode("utf-8", "replace")
                raise LinkError(Done(-1, b"", said).reason)
        except (paramiko.SSHException, OSError, EOFError, AttributeError) as error:
            raise LinkError(f"it does not start: {plain(str(error))[:200] or type(error).__name__}") from None
        self._served.append(channel)  # it is closed when nobody has it any more
        return out.partition(b"\n")[0].decode("utf-8", "replace")

    def _run(self, command: str, stdin: bytes | Stream, limit: int, terminal: bool) -> Done:
        _, paramiko = libraries()
        try:
            channel = self._connection.transport.open_session(timeout=self._left())
            with channel:
                if terminal:
                    channel.get_pty(width=4096)
                channel.exec_command(command)
                return self._talk(channel, _stream(stdin), limit, terminal)
        except (paramiko.SSHException, OSError, EOFError, AttributeError) as error:
            self._left()
            raise LinkError(f"the connection broke: {plain(str(error))[:200] or type(error).__name__}") from None

    def _talk(self, channel: Any, stdin: Stream, limit: int, terminal: bool) -> Done:
        out, err = bytearray(), bytearray()
        ready = not terminal
        feeder: _Feeder | None = None
        watched = select.poll()
        watched.register(channel.fileno(), select.POLLIN)
        while True:
            if ready and feeder is None:
                feeder = _Feeder(channel, stdin, not terminal)
                feeder.start()
            while channel.recv_ready():
                out += channel.recv(_CHUNK)
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(_CHUNK)
                del err[:-_ERRORS]
            if len(out) > limit:
                raise LinkError(f"a command there printed more than {limit >> 20} MiB")
            if not ready and _READY in out:
                del out[: out.index(_READY) + len(_READY)]
                ready = True
                continue
            if channel.exit_status_ready() and channel.eof_received:
                break
            if feeder and feeder.problem:
                raise LinkError(f"what is to be sent can't be: {feeder.problem}")
            if channel.closed:
                raise LinkError("the connection broke")
            watched.poll(min(self._left(), 0.2) * 1000)
        while channel.recv_ready():
            out += channel.recv(_CHUNK)
        while channel.recv_stderr_ready():
            err += channel.recv_stderr(_CHUNK)
        return Done(channel.recv_exit_status(), bytes(out), err[-_ERRORS:].decode("utf-8", "replace"))

    def send(self, data: bytes | Stream, command: str) -> None:
        """Give bytes to a command of root there. Raises LinkError where it fails."""
        done = self.run_as_root(command, data)
        if done.status:
            raise LinkError(f"it did not take what was sent: {done.reason}")


def script(name: str, *words: str) -> str:
    """A script of there/ for sh, with its words."""
    return f"set -- {shlex.join(words)}\n{(Path(__file__).parent / 'there' / name).read_text()}"


def libraries() -> tuple[Any, Any]:
    """(fabric, paramiko). Raises LinkError on a host that has nothing but the kit."""
    try:
        import fabric
        import paramiko
    except ImportError:
        hint = "look after fleets from a desk with `pip install joey`"
        raise LinkError("fabric is not in this Python", hint) from None
    return fabric, paramiko


def _socket(host: str, port: int, seconds: float) -> socket.socket:
    """A connection that sends small messages at once: with Nagle's algorithm, each would wait for the host's delayed
    acknowledgement of the one before, 40 ms."""
    made = socket.create_connection((host, port), seconds)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _stream(data: bytes | Stream) -> Stream:
    return data if isinstance(data, Stream) else Stream.of(data)


class _Feeder(threading.Thread):
    """Sends a stream. `problem`: why it could not be made; its end must not look like the end of all then."""

    def __init__(self, channel: Any, data: Stream, ends: bool) -> None:
        super().__init__(daemon=True)
        self._channel = channel
        self._data = data
        self._ends = ends
        self.problem = ""

    def run(self) -> None:
        chunks = self._data.chunks()
        while True:
            try:
                chunk = next(chunks, None)
            except Exception as error:
                self.problem = str(error) or type(error).__name__
                return
            if chunk is None:
                break
            try:
                for place in range(0, len(chunk), _CHUNK):  # sendall copies what is left with every packet
                    self._channel.sendall(chunk[place : place + _CHUNK])
            except (OSError, EOFError):
                return  # the command ended without reading all of it
        try:
            if self._ends:
                self._channel.shutdown_write()
        except (OSError, EOFError):
            return


def _of_socket(error: BaseException) -> str:
    inner = getattr(error, "errors", None)  # paramiko: one for each address that was tried
    if isinstance(inner, dict) and inner:
        error = next(iter(inner.values()))
    if isinstance(error, TimeoutError):
        return "it does not answer"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    return getattr(error, "strerror", "") or plain(str(error))[:200] or type(error).__name__
