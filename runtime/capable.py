"""Ambient capabilities without the kernel's: the program itself is a copy with file capabilities.

Linux before 4.3 gives an exec of a user who is not root no capability but by the file: of what is inheritable both in
the process and in the file. Source: capabilities(7), "Transformation of capabilities during execve()".
"""

from __future__ import annotations

import os
from struct import pack

from ..compat import capabilities, xattrs
from ..compat.constants import CAPABILITIES
from ..compat.errors import KernelError
from ..probes.report import Finding, KernelReport
from . import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .bundle import Bundle
    from .state import State

_ATTRIBUTE = "security.capability"
_REVISION_2, _EFFECTIVE = 0x02000000, 1


class Program:
    """The program of a bundle: `place` in its root, `mask` of the capabilities that it is to have."""

    __slots__ = ("_folder", "mask", "place")

    def __init__(self, place: str, mask: int, folder: str) -> None:
        self.place = place
        self.mask = mask
        self._folder = folder

    def copy(self, container: str) -> str:
        """Where a container's copy is: beside its root, for a file system of the kind that roots are on."""
        return f"{self._folder}/.joey-program-{container}"


def give(fd: int, mask: int) -> None:
    """Have an open file give what is inheritable, as vfs_cap_data of revision 2. Raises KernelError."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    xattrs.set(fd, _ATTRIBUTE, pack("<IIIII", _REVISION_2 | _EFFECTIVE, 0, low, 0, high))


def with_program(report: KernelReport, bundle: Bundle) -> KernelReport:
    """The report with whether the bundle's program can get file capabilities. Sets `bundle.capable`."""
    sets = bundle.process.get("capabilities") or {}
    mask = -1
    for kind in ("ambient", "inheritable", "permitted"):
        mask &= capabilities.mask([name for name in sets.get(kind) or [] if name in CAPABILITIES])
    why_not = _unfit(bundle)
    if not why_not:
        words = bundle.process["args"], bundle.process.get("env") or [], bundle.process["cwd"]
        found = programs.look(bundle.rootfs, *words)
        if found.program:
            bundle.capable = Program(found.program_path, mask, bundle.path)
        else:
            why_not = f"{found.program_path} is no ELF file of the root"
    state = "absent" if why_not else "works"
    finding = Finding("place.file-capabilities", state, f"setxattr({_ATTRIBUTE})", why_not or "a file took them")
    return report.with_findings(finding)


def _unfit(bundle: Bundle) -> str:
    if bundle.process.get("noNewPrivileges"):
        return "no_new_privs lets no program gain capabilities"
    if "user" in bundle.namespaces:
        return "a user namespace's files have none"
    path = f"{bundle.path}/.joey-try-{os.getpid()}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return f"{bundle.path}: {os.strerror(error.errno or 0)}"
    try:
        give(fd, 1)
    except KernelError as error:
        return f"{bundle.path}: {error}"
    finally:
        os.close(fd)
        os.unlink(path)
    return ""


def remove(container: State) -> None:
    """Remove a container's copy of its program; one that is gone is no error."""
    try:
        os.unlink(container.program)
    except FileNotFoundError:
        pass
    container.program = ""
