"""The child's last steps: find the program, report ready, wait for the start, exec."""

from __future__ import annotations

import _socket
import os
import stat

from ...compat import execstub, files, signals, terminal
from ...compat.errors import JoeyError, KernelError, StepError
from ..channel import Channel, exec_failed
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_INTERPRETERS = 6  # a script's interpreter may be a script: the kernel follows five
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Stub:
    """An exec stub made ready: its descriptor, the one it reports a failure on, how it is executed."""

    __slots__ = ("by_name", "fd", "report_fd")

    def __init__(self, fd: int, report_fd: int, by_name: bool) -> None:
        self.fd = fd
        self.report_fd = report_fd
        self.by_name = by_name


class Prepare(Step):
    """Umask, working directory and the program's place: all that can fail before the start is reported ready."""

    __slots__ = ("argv", "cwd", "env", "own", "program", "stub", "umask")

    def __init__(self, process: dict[str, Any], stub: Stub | None, own: tuple[int, int]) -> None:
        self.stub = stub
        self.argv: list[str] = process["args"]
        self.cwd: str = process["cwd"]
        self.umask: int = (process.get("user") or {}).get("umask", 0o022)
        self.env: dict[str, str] = {}
        self.own = own  # joey's interpreter: device and inode
        for entry in process.get("env") or []:
            name, equals, value = entry.partition("=")
            if equals and name:
                self.env[name] = value
        self.program = ""

    def describe(self) -> str:
        return f"go to {self.cwd} and find {self.argv[0]}"

    def run(self) -> None:
        os.umask(self.umask)
        try:
            try:
                os.chdir(self.cwd)
            except PermissionError:
                if os.getcwd() != os.path.normpath(self.cwd):  # where TryWorkingDirectory has been already
                    raise
            here = os.getcwd()
        except OSError as error:
            raise StepError(f"process.cwd {self.cwd}: {error.strerror}") from None
        if not here.startswith("/"):
            raise StepError(f"process.cwd {self.cwd}: is outside of the root file system")
        if not self.env.get("HOME"):
            self.env["HOME"] = home_of(os.geteuid())
        self.program = find_program(self.argv[0], self.env.get("PATH", DEFAULT_PATH))
        if self.stub and self.stub.by_name and not execstub.can_run_by_name(self.stub.fd):
            raise StepError("/proc/self/fd does not show the file that hides joey's interpreter", slug="step")
        self.refuse_interpreter()

    def refuse_interpreter(self) -> None:
        """A program or script that is run by /proc/self/exe would be joey's interpreter (CVE-2019-5736).

        Behind the stub it would only be the stub: then it is refused where that is what it says, for a clear error.
        """
        path = self.program
        for _ in range(MAX_INTERPRETERS):
            try:
                status = os.stat(path)
            except OSError:
                return  # execve tells
            own = (status.st_dev, status.st_ino) == self.own
            if own and (self.stub is None or os.path.normpath(path).startswith("/proc/")):
                raise StepError(f'exec: "{self.argv[0]}": is joey\'s own executable', slug="not-executable")
            path = script_interpreter(path)
            if not path:
                return


def script_interpreter(path: str) -> str:
    """The interpreter that a script's first line names; "" for what is no script, or can't be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        head = os.read(fd, 256)
    except OSError:
        return ""
    finally:
        os.close(fd)
    words = head[2:].split(b"\n", 1)[0].split() if head.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


def home_of(uid: int) -> str:
    """The home directory of a user by the container's /etc/passwd; "/" where it can't be told."""
    return passwd_home("/etc/passwd", uid)


def passwd_home(path: str, uid: int) -> str:
    """The same by that file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return "/"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "/"
        text = files.read_fd(fd, 1 << 20).decode("utf-8", "surrogateescape")
    except (OSError, JoeyError):
        return "/"
    finally:
        os.close(fd)
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 5 and fields[2] == str(uid) and fields[5].startswith("/"):
            return fields[5]
    return "/"


def find_program(name: str, path: str) -> str:
    """The file to execute. Raises StepError in the words podman and docker turn into statuses 126 and 127."""
    candidates = [name] if "/" in name else [f"{directory or '.'}/{name}" for directory in path.split(":")]
    problem = ""
    for candidate in candidates:
        try:
            mode = os.stat(candidate).st_mode
        except OSError as error:
            if "/" in name:
                reason = os.strerror(error.errno or 0).lower()
                raise StepError(f'exec: "{name}": stat {name}: {reason}', slug="not-found") from None
            continue
        if stat.S_ISDIR(mode):
            problem = problem or ("permission denied (is a directory)" if "/" in name else "")
        elif os.access(candidate, os.X_OK, effective_ids=True):
            return candidate
        else:
            problem = "permission denied"
    if problem:
        raise StepError(f'exec: "{name}": {problem}', slug="not-executable")
    raise StepError(f'exec: "{name}": executable file not found in $PATH', slug="not-found")


class ReportReady(Step):
    """Report that everything is prepared; for `create`, wait on the start socket until `joey start` connects."""

    __slots__ = ("channel", "listener", "stub")

    def __init__(self, channel: Channel, listener: _socket.socket | None, stub: Stub | None) -> None:
        self.stub = stub
        self.channel = channel
        self.listener = listener

    def describe(self) -> str:
        return "report ready and wait for `joey start`" if self.listener else "report ready and wait for joey"

    def run(self) -> None:
        self.channel.send(b"ready")
        self.channel.wait_for_go()
        if self.listener:
            signals.end_by_signals()
            self.channel.switch(terminal.accept(self.listener))
            self.listener.close()
        if self.stub:
            self.channel.move_to(self.stub.report_fd)  # now: a seccomp profile may not allow it later

    def keeps(self) -> list[int]:
        return [self.listener.fileno()] if self.listener else []


class CheckProgram(Step):
    """Look once more, just before the exec, that the program is not joey's interpreter: where there is no stub."""

    __slots__ = ("prepared",)

    def __init__(self, prepared: Prepare) -> None:
        self.prepared = prepared

    def describe(self) -> str:
        return f"check that {self.prepared.argv[0]} is not joey's interpreter"

    def run(self) -> None:
        self.prepared.refuse_interpreter()


class RestoreSignals(Step):
    """Undo what joey's interpreter changed; before a profile that may not let it."""

    __slots__ = ("mask",)

    def __init__(self, mask: frozenset[int]) -> None:
        self.mask = mask

    def describe(self) -> str:
        return "have signals as the caller has them"

    def run(self) -> None:
        signals.restore_for_exec(self.mask)


class Exec(Step):
    """Replace this process by the container's program: through the stub, so that joey's interpreter is out of reach."""

    __slots__ = ("prepared", "stub")

    def __init__(self, prepared: Prepare) -> None:
        self.prepared = prepared
        self.stub = prepared.stub

    def describe(self) -> str:
        how = (
            "" if self.stub is None else " by a stub in an unlinked file" if self.stub.by_name else " by a sealed stub"
        )
        return f"exec{how}: " + " ".join(self.prepared.argv)

    def run(self) -> None:
        what = self.prepared
        try:
            if self.stub:
                execstub.run(self.stub.fd, self.stub.by_name, what.program, what.argv, what.env)
            os.execve(what.program, what.argv, what.env)
        except (OSError, KernelError) as error:
            raise exec_failed(what.argv[0], error.errno or 0) from None

    def keeps(self) -> list[int]:
        return [self.stub.fd] if self.stub else []
