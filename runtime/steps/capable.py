"""The parent's step that copies the container's program, with file capabilities; the child binds the copy over it."""

from __future__ import annotations

import os

from ...compat.errors import StepError
from ...compat.rootpath import Root
from .. import capable
from ..state import State
from . import Step

_CHUNK = 1 << 20


class CopyProgram(Step):
    """Copy the program of the container and give the copy file capabilities."""

    __slots__ = ("program", "rootfs", "state")

    def __init__(self, program: capable.Program, rootfs: str, state: State) -> None:
        self.program = program
        self.rootfs = rootfs
        self.state = state

    def describe(self) -> str:
        return f"give a copy of {self.program.place} file capabilities"

    def run(self) -> None:
        path = self.program.copy(self.state.id)
        self.state.program = path
        self.state.save()
        root = Root(self.rootfs, native=False)
        root.attach()
        try:
            found = root.open(self.program.place)
            source = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            os.close(found)
        finally:
            root.close()
        try:
            status = os.fstat(source)
            if os.path.lexists(path):
                os.unlink(path)  # of a container of this name that was killed
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                while os.sendfile(target, source, None, _CHUNK):
                    pass
                os.fchown(target, status.st_uid, status.st_gid)
                os.fchmod(target, status.st_mode & 0o777)
                capable.give(target, self.program.mask)
            finally:
                os.close(target)
        except OSError as error:
            raise StepError(f"{self.program.place}: {error.strerror}") from None
        finally:
            os.close(source)

    def undo(self) -> None:
        if self.state.program:
            capable.remove(self.state)
