"""Entering namespaces: the /proc/PID/ns files and setns on each. RHEL 6 listed some files it refused to open."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ...compat import libc
from ...compat.constants import CLONE_NEWPID, SIGCHLD
from ...compat.errors import KernelError
from ...compat.namespaces import NAMESPACES
from ..catalog import Answer, Answered, Group
from ..trying import become_namespace_root, call

GROUP = Group("setns", "entering namespaces")


def _enter(name: str, flag: int, file: str) -> Callable[[], Answer]:
    def attempt() -> Answer:
        try:
            return _enter_file(name, flag, f"/proc/self/ns/{file}")
        except KernelError as error:
            if error.errno != errno.EPERM or name == "user":
                raise
        return _enter_own(name, flag, file)

    return attempt


def _enter_file(name: str, flag: int, path: str) -> Answer:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.setns(fd, flag)
    except KernelError as error:
        if name == "user" and error.errno == errno.EINVAL:
            return "EINVAL for one's own, as it should"
        raise
    finally:
        os.close(fd)
    return None


def _enter_own(name: str, flag: int, file: str) -> Answer:
    """What a plain user, or root of a user namespace, can enter: namespaces below a user namespace of its own."""
    become_namespace_root(flag)
    if name == "time":
        file = "time_for_children"
    if name == "pid":
        read_end, write_end = os.pipe()
        pid = os.fork()  # the first process of the new namespace
        if pid == 0:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)
        try:
            _enter_file(name, flag, f"/proc/{pid}/ns/pid")
        finally:
            os.close(write_end)
            os.waitpid(pid, 0)
    else:
        _enter_file(name, flag, f"/proc/self/ns/{file}")
    return "in a user namespace"


for _name, (_flag, _file) in NAMESPACES.items():
    GROUP.probe(
        f"setns.{_file}",
        f"setns(/proc/self/ns/{_file})",
        "exec into a container, and joining its namespace, needs an agent",
    )(_enter(_name, _flag, _file))


@GROUP.probe("setns.pidfd", "setns(pidfd, several flags) (Linux 5.8)", "namespaces are entered one by one")
def by_pidfd() -> Answer:
    if os.geteuid() != 0:
        raise Answered("blocked", "needs root")
    fd = call("pidfd_open", os.getpid(), 0)
    if fd < 0:
        raise KernelError("pidfd_open", -fd)
    libc.setns(fd, 0x04000000 | 0x08000000)
    return None


@GROUP.probe("setns.pid-children", "children after setns to a new pid namespace", "exec lands outside the container")
def pid_children() -> Answer:
    if os.geteuid() != 0:
        become_namespace_root()
    read_end, write_end = os.pipe()
    pid = libc.clone(CLONE_NEWPID | SIGCHLD)
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    try:
        libc.setns(os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY), CLONE_NEWPID)
        inside = os.fork()
        if inside == 0:
            os._exit(os.getpid() & 0x7F)
        number = os.waitstatus_to_exitcode(os.waitpid(inside, 0)[1])
    finally:
        os.close(write_end)
        os.waitpid(pid, 0)
    if number != 2:
        raise Answered("broken", f"the child has pid {number}, expected 2")
    return "pid 2 inside"
