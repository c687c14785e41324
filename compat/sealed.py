"""joey run from a sealed copy of its interpreter: for work among processes that may trace it and open /proc/PID/exe.

The copy is a memory file that nobody can change and nobody else uses; overwriting joey's interpreter through it
(CVE-2019-5736) is not possible. It costs a second start of the interpreter, so it is made only where it is needed.
"""

from __future__ import annotations

import fcntl
import os
import sys

from . import execstub, files, libc
from .errors import JoeyError, KernelError


def is_sealed() -> bool:
    """Whether what executes this process is a file without a name."""
    return os.stat("/proc/self/exe").st_nlink == 0


def run_again() -> None:
    """Execute this command line again, by a sealed copy of the interpreter. Returns only where that does not work.

    `copy_starts` must have been asked before: an interpreter that finds its libraries beside itself would end there.
    """
    try:
        libc.execveat(_copy_of_interpreter(), _command_line(), dict(os.environ))
    except (OSError, JoeyError):
        return


def copy_starts() -> bool:
    """Whether a copy of the interpreter starts and finds joey, tried in a child. Raises OSError: no memory files."""
    copy = _copy_of_interpreter()
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            libc.execveat(copy, [*own_command(), "--version"], dict(os.environ))
        except (OSError, KernelError):
            pass  # what did not start, does not
        finally:
            os._exit(1)
    os.close(copy)
    return os.waitpid(pid, 0)[1] == 0


def own_command() -> list[str]:
    """How joey was called in this process, without what it was told to do. Raises JoeyError."""
    argv = _command_line()
    ours = argv[: len(argv) - len(sys.argv) + 1]
    # whoever executes it may be in another directory by then
    return [os.path.abspath(word) if "/" in word and os.path.exists(word) else word for word in ours]


def _command_line() -> list[str]:
    """How this process was called, by a loader too. Raises JoeyError where the kernel tells only its beginning."""
    argv = files.read_text("/proc/self/cmdline").split("\0")[:-1]
    if argv[len(argv) - len(sys.argv) + 1 :] != sys.argv[1:]:
        raise JoeyError("/proc/self/cmdline is cut short")  # at 4096 bytes, before Linux 4.2
    return argv


def _copy_of_interpreter() -> int:
    source = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    copy = execstub.memory_file("joey")
    try:
        while os.sendfile(copy, source, None, 1 << 24):
            pass
        os.fchmod(copy, 0o555)
        fcntl.fcntl(copy, execstub.F_ADD_SEALS, execstub.ALL_SEALS)
    except BaseException:
        os.close(copy)
        raise
    finally:
        os.close(source)
    return copy
