"""A tracer for a container's processes: its own process, which stays until the last of them has ended."""

from __future__ import annotations

import os

from ...compat import files, libc, process, signals
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
        between = os.fork()
        if between == 0:
            try:
                if os.fork() == 0:
                    self._be_tracer(made, write_end)
            finally:
                os._exit(0)
        os.close(write_end)
        os.waitpid(between, 0)
        with open(read_end, "rb") as answer:
            text = answer.read()
        if text != b"ok":
            raise StepError(text.decode("utf-8", "replace") or "the tracer ended")

    def _be_tracer(self, made: tracer.Tracer, report: int) -> None:
        """Attach, report, and trace. Holds nothing of the caller's: streams, terminal, descriptors, folder."""
        try:
            os.setsid()
            signals.reset()
            os.chdir("/")
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            process.close_all_but({report}, first=3)
            libc.name_process("joey-tracer")
            signals.ignore_ends()
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
