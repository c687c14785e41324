"""A tracer for a container's processes: its own process, which stays until the last of them has ended."""

from __future__ import annotations

import os

from ...compat import daemon, files
from ...compat.errors import JoeyError, StepError
from ...compat.tracing import tracer
from . import Step
from .cloning import NewProcess


class StartTracer(Step):
    """Start the tracer and have it take the prepared process over."""

    __slots__ = ("clone", "folder", "options")

    def __init__(self, clone: NewProcess, options: tracer.Options, folder: str) -> None:
        self.clone = clone
        self.options = options
        self.folder = folder  # the container's state, for the tracer's pid and its last words; "" for none

    def describe(self) -> str:
        how = "at the calls that this kernel lacks" if self.options.seccomp else "at every call"
        return f"start a tracer that stops the container's threads {how}"

    def run(self) -> None:
        made = tracer.Tracer(self.options)
        read_end, write_end = os.pipe()
        daemon.start(lambda: self._be_tracer(made, write_end))
        os.close(write_end)
        with open(read_end, "rb") as answer:
            text = answer.read()
        if text != b"ok":
            raise StepError(text.decode("utf-8", "replace") or "the tracer ended")

    def _be_tracer(self, made: tracer.Tracer, report: int) -> None:
        """Attach, report, and trace."""
        made.on_broken = self._tell
        try:
            daemon.settle("joey-tracer", {report})
            made.attach(self.clone.pid)
            made.start_guard()
            os.write(report, b"ok")
        except (JoeyError, OSError) as error:
            os.write(report, str(error).encode("utf-8", "replace"))
            os._exit(1)
        os.close(report)
        try:
            made.run()
        except BaseException as error:  # its end ends the container: say why
            if self.folder:
                files.write_atomically(f"{self.folder}/tracer-failed", f"{type(error).__name__}: {error}\n")
            raise

    def _tell(self, pid: int, error: Exception) -> None:
        """Leave word of a process that is killed, in the container's state."""
        if self.folder:
            files.write_atomically(f"{self.folder}/tracer-killed", f"{pid}: {type(error).__name__}: {error}\n")
