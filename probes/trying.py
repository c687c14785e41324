"""Helpers of the probe functions: raw system calls, children, private namespaces, scratch file systems.

All of it runs in a probe's own forked child and ends with it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable

from ..compat import files, libc, syscalls
from ..compat.constants import (
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    MS_PRIVATE,
    MS_REC,
    PR_SET_PDEATHSIG,
    SIGCHLD,
    SIGKILL,
)
from ..compat.errors import KernelError
from .catalog import Answered

NUMBERS = {"x86_64": syscalls.X86_64, "aarch64": syscalls.AARCH64}.get(libc.MACHINE, {})

_syscall = ctypes.CDLL(None, use_errno=True)["syscall"]
_syscall.restype = ctypes.c_long


def call(name: str, *args: int | bytes | None) -> int:
    """Make a system call by name with word-sized arguments; returns its result or minus the errno. Never raises."""
    if name not in NUMBERS:
        return -errno.ENOSYS
    words = [ctypes.c_char_p(arg) if isinstance(arg, bytes) else ctypes.c_long(arg or 0) for arg in args]
    result = int(_syscall(ctypes.c_long(NUMBERS[name]), *words))
    return -ctypes.get_errno() if result == -1 else result


def check(name: str, *args: int | bytes | None) -> int:
    """`call`, raising KernelError."""
    result = call(name, *args)
    if result < 0:
        raise KernelError(name, -result)
    return result


def child(function: Callable[[], int | None], flags: int = 0) -> int:
    """Run `function` in a (cloned) child; its exit status, or minus the signal that ended it. Raises its errors."""
    read_end, write_end = os.pipe()
    pid = libc.clone(flags | SIGCHLD) if flags else os.fork()
    if pid == 0:
        status = 250
        try:
            libc.prctl(PR_SET_PDEATHSIG, SIGKILL)
            status = function() or 0
        except Answered as known:
            os.write(write_end, f"{known.state}\n{known.answer}".encode())
        except KernelError as error:
            os.write(write_end, f"kernel\n{error.call}\n{error.errno}".encode())
        except OSError as error:
            os.write(write_end, f"os\n{error.errno}".encode())
        except BaseException as error:
            os.write(write_end, f"broken\n{type(error).__name__}: {error}".encode())
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(write_end)
    try:
        words = files.read_fd(read_end).decode().split("\n")
    finally:
        os.close(read_end)
        status = os.waitpid(pid, 0)[1]
    if words[0] == "kernel":
        raise KernelError(words[1], int(words[2]))
    if words[0] == "os":
        raise OSError(int(words[1]), os.strerror(int(words[1])))
    if words[0]:
        raise Answered(words[0], words[1])
    return os.waitstatus_to_exitcode(status)


def become_namespace_root(extra: int = 0) -> None:
    """Enter a new user namespace in which the caller is root, and the other new namespaces of `extra`."""
    uid, gid = os.geteuid(), os.getegid()
    libc.unshare(CLONE_NEWUSER | extra)
    try:
        files.write_text("/proc/self/setgroups", "deny")  # who writes its own map must give up setgroups, root too
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    files.write_text("/proc/self/uid_map", f"0 {uid} 1\n")
    files.write_text("/proc/self/gid_map", f"0 {gid} 1\n")


def private_namespaces(flags: int = 0) -> str:
    """New mount (and other) namespaces, cut off from the host's; a plain user gets them in a user namespace.

    Returns "" or " (in a user namespace)" for the evidence.
    """
    if os.geteuid() == 0:
        libc.unshare(CLONE_NEWNS | flags)
        where = ""
    else:
        become_namespace_root(CLONE_NEWNS | flags)
        where = "in a user namespace"
    libc.mount("", "/", "", MS_REC | MS_PRIVATE)
    return where


def child_in_pid_namespace(function: Callable[[], int | None]) -> int:
    """`child` in private namespaces, with a pid namespace of its own: by clone, for before Linux 3.8 unshare can't."""
    if os.geteuid() == 0:
        private_namespaces()
        return child(function, CLONE_NEWPID)
    private_namespaces(CLONE_NEWPID)
    return child(function)


def scratch(flags: int = 0) -> str:
    """A fresh tmpfs in private namespaces, mounted over /tmp; the working directory moves into it."""
    private_namespaces(flags)
    place = "/tmp" if os.path.isdir("/tmp") else "/mnt"
    libc.mount("joey-probe", place, "tmpfs", 0, "size=4m,mode=755")
    os.chdir(place)
    return place


def expect_errno(action: Callable[[], object], wanted: int) -> None:
    """Run `action`, which must fail with `wanted`; anything else is a broken feature."""
    try:
        action()
    except OSError as error:
        if error.errno == wanted:
            return
        raise Answered("broken", f"expected {errno.errorcode[wanted]}, got {error.strerror}") from None
    raise Answered("broken", f"expected {errno.errorcode[wanted]}, and it succeeded")


def touch(path: str) -> None:
    """Create an empty file; raises OSError."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def scratch_name(prober: int, child: int | str) -> str:
    """The name of a directory that the probe running as `child` of `prober` may make."""
    return f"joey-probe-{prober}-{child}"
