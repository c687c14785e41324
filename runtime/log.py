"""What joey says besides its results: warnings, the step trace of --debug, and the --log file that clients read."""

from __future__ import annotations

import os
import sys
import time

from ..compat import jsonio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .steps import Step


class _Settings:
    __slots__ = ("debug", "file", "format")

    def __init__(self) -> None:
        self.file = -1
        self.format = "text"
        self.debug = False


_settings = _Settings()


def configure(path: str, form: str, debug_on: bool) -> None:
    """Set up the --log file (appended to, never truncated), its format, and --debug. Raises OSError."""
    _settings.format = form
    _settings.debug = debug_on
    if path:
        _settings.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)


def detach() -> None:
    """Write to the log file no more: for a process about to become a container's."""
    _settings.file = -1


def write(level: str, message: str) -> None:
    """Append a line to the --log file: runc's JSON form, which podman and containerd parse, or its text form."""
    if _settings.file < 0:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if _settings.format == "json":
        line = jsonio.dumps({"level": level, "msg": message, "time": now})
    else:
        line = f"time={jsonio.dumps(now)} level={level} msg={jsonio.dumps(message)}"
    os.write(_settings.file, line.encode() + b"\n")


def warn(message: str) -> None:
    """Say something the user should know, that is no error."""
    print(f"joey: warning: {message}", file=sys.stderr)
    write("warning", message)


def debug(side: str, step: Step) -> None:
    """Trace a step, under --debug."""
    if _settings.debug:
        text = step.describe()
        os.write(2, f"joey: {side}: {text}\n".encode("utf-8", "replace"))
        write("debug", f"{side}: {text}")
