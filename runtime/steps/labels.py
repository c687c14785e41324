"""The child's step for security modules: the AppArmor profile or SELinux label its program starts with."""

from __future__ import annotations

import os

from ...compat import procfs
from ...compat.errors import JoeyError, StepError
from . import Step

# The file of each module; the first is its own since Linux 5.1, the second shared by all modules.
APPARMOR = ("attr/apparmor/exec", "attr/exec")
SELINUX = ("attr/exec",)


class LabelExec(Step):
    """Tell the security module what the next exec changes to."""

    __slots__ = ("field", "files", "value")

    def __init__(self, field: str, files: tuple[str, ...], value: str) -> None:
        self.field = field
        self.files = files
        self.value = value

    def describe(self) -> str:
        return f"set the label of the exec: {self.value}"

    def run(self) -> None:
        error: Exception | None = None
        for file in self.files:
            try:
                fd = procfs.open_own(file, os.O_WRONLY)
            except FileNotFoundError as missing:
                error = missing
                continue
            except JoeyError as hostile:
                raise StepError(f"{self.field}: {hostile.message}", slug="label") from None
            try:
                os.write(fd, self.value.encode())
                return
            except OSError as refused:
                error = refused
            finally:
                os.close(fd)
        reason = error.strerror if isinstance(error, OSError) else "no file to write it to"
        raise StepError(f'{self.field} "{self.value}": {reason}', "is it loaded on this host?", "label")
