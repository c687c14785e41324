"""A host over SSH, by the OpenSSH client: its configuration, agent and known hosts are the user's.

Host keys are always checked. Servers as old as CentOS 6's offer only what new clients no longer take by themselves
(ssh-rsa host keys, SHA-1 key exchange, CBC ciphers): joey then asks for that too, and says so.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
from typing import TYPE_CHECKING, NamedTuple

from ...compat.errors import UsageError
from ...compat.files import find_program
from ..trees.entry import TreeError
from .running import ByTerminal, Running

if TYPE_CHECKING:
    from typing import IO

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.%a-z0-9]+\]")
_LARGEST = 20 << 20  # of what a command there prints
_LONGEST = 120  # seconds
_OPTIONS = ("BatchMode=yes", "ConnectTimeout=20", "ServerAliveInterval=15", "ServerAliveCountMax=4", "ForwardAgent=no")
_OLD = (
    "HostKeyAlgorithms=+ssh-rsa",
    "PubkeyAcceptedKeyTypes=^ssh-rsa",
    "KexAlgorithms=+diffie-hellman-group14-sha1,diffie-hellman-group-exchange-sha1,diffie-hellman-group1-sha1",
    "Ciphers=+aes128-ctr,aes128-cbc,aes256-cbc,3des-cbc",
    "MACs=+hmac-sha1",
)
_WANTS_OLD = re.compile(r"no matching (host key type|key exchange method|cipher|MAC) found|no mutual signature|denied")
_HINTS = (
    (
        re.compile(r"verification failed|IDENTIFICATION"),
        "check its key, then add it to known_hosts: ssh-keyscan",
    ),
    (re.compile(r"Permission denied"), "it must let you in without a password: ssh-copy-id, or an agent"),
    (re.compile(r"Connection (refused|timed out)|No route|not resolve"), "is the host up, and its name right?"),
)


class SshError(TreeError):
    """A host can't be reached, or a command there failed."""

    slug = "ssh"


class Target(NamedTuple):
    """`user` and `port` are "" for what the client's configuration says."""

    user: str
    host: str
    port: str

    def __str__(self) -> str:
        return "ssh://" + (f"{self.user}@" if self.user else "") + self.host + (f":{self.port}" if self.port else "")


def parse(word: str) -> Target:
    """`ssh://[USER@]HOST[:PORT]`. Raises UsageError."""
    rest = word.removeprefix("ssh://").rstrip("/")
    user, at, place = rest.rpartition("@")
    host, colon, port = place.rpartition(":") if re.search(r":\d+$", place) else (place, "", "")
    if not _HOST.fullmatch(host) or (at and not _USER.fullmatch(user)) or (colon and not 0 < int(port) < 65536):
        raise UsageError(f"{word}: not a host", "ssh://[USER@]HOST[:PORT]")
    return Target(user, host.strip("[]"), port)


class Ssh:
    """Commands on a host. `options` are the user's own `-o` words."""

    def __init__(self, target: Target, options: list[str]) -> None:
        tool = find_program("ssh")
        if not tool:
            raise SshError("there is no ssh here", "install openssh-client")
        self.target = target
        self._tool = tool
        self._options = options
        self._old: tuple[str, ...] = ()
        self.notes: list[str] = []
        self._sudo: list[str] = []
        self._terminal = False

    def _words(self, *more: str) -> list[str]:
        """The local command line, up to the command there."""
        target = self.target
        options = [word for option in (*self._options, *_OPTIONS, *self._old) for word in ("-o", option)]
        where = [*(["-p", target.port] if target.port else []), *(["-l", target.user] if target.user else [])]
        return [self._tool, *more, *options, *where, "--", target.host]

    def connect(self) -> None:
        """Make sure of a way to be root there. Raises SshError."""
        status, out, err = self._try(["id", "-u"])
        if status and _WANTS_OLD.search(err):
            self._old = _OLD
            status, out, again = self._try(["id", "-u"])
            err = again if status else err
            if not status:
                self.notes.append(f"{self.target} speaks only old algorithms (SHA-1, CBC), and they were used")
        if status:
            raise SshError(f"{self.target}: {_last(err)}", next((h for p, h in _HINTS if p.search(err)), ""))
        if out.strip() == b"0":
            return
        self._sudo = ["sudo", "-n", "--"]
        status, out, err = self._try(["id", "-u"])
        if status and "tty" in err:  # CentOS 6's sudoers have requiretty
            self._terminal = True
            status, out, err = self._try(["id", "-u"])
        if status or out.strip() != b"0":
            hint = "log in as root, or let the user run commands by sudo without a password"
            raise SshError(f"{self.target}: reading every file takes root: {_last(err)}", hint)

    def _try(self, command: list[str]) -> tuple[int, bytes, str]:
        """(status, output, errors) of a command that says little and comes to an end."""
        with self.start(command) as running:
            watch = threading.Timer(_LONGEST, running.kill)
            watch.start()
            try:
                out = running.out.read(_LARGEST + 1)
                if len(out) > _LARGEST:
                    raise SshError(f"{self.target}: {command[0]} says more than {_LARGEST >> 20} MiB")
                status = running.wait()
            finally:
                watch.cancel()
        if status < 0:
            raise SshError(f"{self.target} does not answer")
        return status, out, running.errors

    def output(self, command: list[str], ok: tuple[int, ...] = (0,)) -> bytes:
        """What a command prints there. Raises SshError."""
        status, out, err = self._try(command)
        if status not in ok:
            raise SshError(f"{self.target}: {command[0]} failed with status {status}: {_last(err)}")
        return out

    def start(self, command: list[str], stdin: IO[bytes] | None = None) -> Running:
        """A command there, with a file to read from. To be used as a context."""
        if self._terminal:
            quiet = "-o", "LogLevel=ERROR"  # without "Connection to ... closed."
            return ByTerminal(self._words("-tt", "-e", "none", *quiet), self._sudo, command, stdin)
        words = self._words("-T")
        return Running([*words, shlex.join([*self._sudo, *command])], stdin or subprocess.DEVNULL)


def _last(text: str) -> str:
    """The last line of a complaint, with nothing in it that a terminal would obey."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    word = lines[-1] if lines else "no reason was given"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in word)[:300]
