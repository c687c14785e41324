"""The child's steps around the process: session, namespaces, cgroups, limits, identity and privileges."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import stat
import struct

from ...compat import capabilities, files, libc, terminal
from ...compat.cgroup.group import Cgroup
from ...compat.constants import (
    CAPABILITIES,
    CLONE_NEWCGROUP,
    CLONE_NEWTIME,
    IFF_RUNNING,
    IFF_UP,
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    PR_SET_NO_NEW_PRIVS,
    RLIMITS,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SIOCGIFFLAGS,
    SIOCSIFFLAGS,
)
from ...compat.errors import KernelError, StepError
from ...compat.namespaces import join
from ...compat.seccomp import load
from ..channel import Channel
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


NULL_DEVICE = os.makedev(1, 3)


class WaitForParent(Step):
    """Report a point, if any, and wait until the parent says go."""

    __slots__ = ("channel", "word")

    def __init__(self, channel: Channel, word: bytes = b"") -> None:
        self.channel = channel
        self.word = word

    def describe(self) -> str:
        return f"report {self.word.decode()} and wait for joey" if self.word else "wait for joey to place it"

    def run(self) -> None:
        if self.word:
            self.channel.send(self.word)
        self.channel.wait_for_go()


class BecomeNamespaceRoot(Step):
    """Take ids 0 of a new user namespace, which owns everything the next steps make."""

    __slots__ = ("gid", "uid")

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    def describe(self) -> str:
        return f"become user {self.uid} of the user namespace"

    def run(self) -> None:
        if may_set_groups():
            os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


class EnterCgroups(Step):
    """Enter the container's v1 cgroups."""

    __slots__ = ("cgroup",)

    def __init__(self, cgroup: Cgroup) -> None:
        self.cgroup = cgroup

    def describe(self) -> str:
        return "enter cgroups v1 " + ", ".join(group.path for group in self.cgroup.groups if group.version == 1)

    def run(self) -> None:
        self.cgroup.join_v1_by_oneself()


class NewSession(Step):
    """Leave joey's session, so that no terminal or signal of its own reaches the container."""

    __slots__ = ()

    def describe(self) -> str:
        return "start a new session"

    def run(self) -> None:
        os.setsid()


class JoinNamespaces(Step):
    """Enter the namespaces that the bundle gives by path."""

    __slots__ = ("fds", "names")

    def __init__(self, names: list[str], fds: dict[str, int]) -> None:
        self.names = names
        self.fds = fds  # filled in by the clone, which has opened them

    def describe(self) -> str:
        return "enter the namespaces " + " ".join(self.names)

    def run(self) -> None:
        for name, fd in self.fds.items():
            join(fd, name)
            os.close(fd)

    def keeps(self) -> list[int]:
        return list(self.fds.values())


class UnshareLate(Step):
    """Make the cgroup and time namespaces: the first shows the group the process is in by now.

    The exec takes the process into its time namespace (Linux 6.1, "fs/exec: switch timens when a task gets a new mm").
    """

    __slots__ = ("flags", "offsets")

    def __init__(self, flags: int, offsets: str) -> None:
        self.flags = flags
        self.offsets = offsets

    def describe(self) -> str:
        names = [word for flag, word in ((CLONE_NEWCGROUP, "cgroup"), (CLONE_NEWTIME, "time")) if self.flags & flag]
        return "make new namespaces " + " ".join(names)

    def run(self) -> None:
        libc.unshare(self.flags)
        if self.offsets:
            write_time_offsets(self.offsets)


def write_time_offsets(text: str) -> None:
    """Set the clocks of the caller's new time namespace, before any process is in it. Source: time_namespaces(7)."""
    try:
        files.write_text("/proc/self/timens_offsets", text)
    except OSError as error:
        raise StepError(f"linux.timeOffsets: {error.strerror}", "a clock can't be set below zero") from None


class NameHost(Step):
    """Set host and domain name."""

    __slots__ = ("domainname", "hostname")

    def __init__(self, hostname: str, domainname: str) -> None:
        self.hostname = hostname
        self.domainname = domainname

    def describe(self) -> str:
        return f"name the host {self.hostname}" + (f" in domain {self.domainname}" if self.domainname else "")

    def run(self) -> None:
        if self.hostname:
            libc.sethostname(self.hostname)
        if self.domainname:
            libc.setdomainname(self.domainname)


class RaiseLoopback(Step):
    """Bring up `lo` in a new network namespace."""

    __slots__ = ()

    def describe(self) -> str:
        return "bring up the loopback link"

    def run(self) -> None:
        socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            request = struct.pack("16sh22x", b"lo", 0)
            flags = struct.unpack("16sh22x", fcntl.ioctl(socket.fileno(), SIOCGIFFLAGS, request))[1]
            request = struct.pack("16sh22x", b"lo", flags | IFF_UP | IFF_RUNNING)
            fcntl.ioctl(socket.fileno(), SIOCSIFFLAGS, request)
        finally:
            socket.close()


class NewKeyring(Step):
    """Join a fresh session keyring."""

    __slots__ = ("name",)

    def __init__(self, container: str) -> None:
        self.name = f"_ses.{container}"

    def describe(self) -> str:
        return f"join the session keyring {self.name}"

    def run(self) -> None:
        libc.join_new_session_keyring(self.name)


class SetRlimits(Step):
    """Set the process's resource limits."""

    __slots__ = ("limits",)

    def __init__(self, limits: list[dict[str, Any]]) -> None:
        self.limits = limits
        import resource  # noqa: F401  (now: nothing can be imported after the root has changed)

    def describe(self) -> str:
        return "set " + describe_rlimits(self.limits)

    def run(self) -> None:
        import resource

        for limit in self.limits:
            pair = (rlimit_value(limit["soft"]), rlimit_value(limit["hard"]))
            try:
                resource.setrlimit(RLIMITS.index(limit["type"]), pair)
            except (OSError, ValueError) as error:
                raise StepError(f"{limit['type']} {limit['soft']}:{limit['hard']}: {error}") from None


def describe_rlimits(limits: list[dict[str, Any]]) -> str:
    return ", ".join(f"{limit['type']}={limit['soft']}:{limit['hard']}" for limit in limits)


def rlimit_value(number: int) -> int:
    """The interpreter's spelling of a limit: infinity is -1."""
    return -1 if number >= (1 << 63) else number


class HideFromTracers(Step):
    """Make this process undumpable until its exec: /proc/PID of it, with its descriptors and its executable, is closed
    to the container's other processes (CVE-2016-9962, CVE-2024-21626)."""

    __slots__ = ()

    def describe(self) -> str:
        return "hide from the container's other processes"

    def run(self) -> None:
        libc.prctl(PR_SET_DUMPABLE, 0)


class TryWorkingDirectory(Step):
    """Go to the working directory while still root: the process's user may not be allowed to."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def describe(self) -> str:
        return f"go to {self.path}, as root"

    def run(self) -> None:
        try:
            os.chdir(self.path)
        except OSError:
            return  # the user may be; Prepare decides


class RunContainerHooks(Step):
    """Run hooks in the container's namespaces (createContainer, startContainer).

    Those that are files of the container are executed by the stub, if there is one: its descriptor and the one it
    reports on.
    """

    __slots__ = ("cwd", "hooks", "kind", "state", "stub")

    def __init__(
        self,
        kind: str,
        hooks: list[dict[str, Any]],
        state: dict[str, Any],
        stub: tuple[int, int] | None = None,
        cwd: str | None = None,
    ) -> None:
        self.cwd = cwd
        self.kind = kind
        self.hooks = hooks
        self.state = state
        self.stub = stub
        from .. import hooks as _loaded  # noqa: F401  (now: nothing can be imported after the root has changed)

    def describe(self) -> str:
        return f"run {self.kind} hooks " + ", ".join(hook["path"] for hook in self.hooks)

    def run(self) -> None:
        from ..hooks import run_hooks

        run_hooks(self.kind, self.hooks, {**self.state, "pid": os.getpid()}, self.cwd, self.stub)


class InstallSeccomp(Step):
    """Install the compiled filter; its listener, if it has one, goes to joey, which hands it to the agent."""

    __slots__ = ("channel", "code", "flags", "what")

    def __init__(self, code: bytes, flags: int, channel: Channel, what: str = "the profile") -> None:
        self.code = code
        self.flags = flags
        self.channel = channel
        self.what = what

    def describe(self) -> str:
        return f"install {self.what}: a seccomp filter of {len(self.code) // 8} instructions"

    def run(self) -> None:
        listener = load.install(self.code, self.flags)
        if self.flags & SECCOMP_FILTER_FLAG_NEW_LISTENER:
            terminal.send_fd(self.channel.socket, listener, b"listener")
            os.close(listener)


class SetNoNewPrivs(Step):
    """Set no_new_privs."""

    __slots__ = ()

    def describe(self) -> str:
        return "set no_new_privs"

    def run(self) -> None:
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1)


class BecomeUser(Step):
    """Limit the bounding set, take the process's groups and user, and set its capabilities."""

    __slots__ = (
        "ambient",
        "bounding",
        "effective",
        "gid",
        "groups",
        "inheritable",
        "limit_bounding",
        "permitted",
        "uid",
    )

    def __init__(self, user: dict[str, Any], sets: dict[str, list[str]], limit_bounding: bool, ambient: bool) -> None:
        self.uid = user.get("uid", 0)
        self.gid = user.get("gid", 0)
        self.groups = user.get("additionalGids") or []
        masks = {
            name: capabilities.mask([item for item in sets.get(name) or [] if item in CAPABILITIES])
            for name in ("bounding", "effective", "permitted", "inheritable", "ambient")
        }
        self.bounding = masks["bounding"]
        self.effective = masks["effective"]
        self.permitted = masks["permitted"]
        self.inheritable = masks["inheritable"]
        self.ambient = masks["ambient"] if ambient else 0
        self.limit_bounding = limit_bounding

    def describe(self) -> str:
        kept = bin(self.effective).count("1")
        return f"become user {self.uid}:{self.gid} with groups {self.groups} and {kept} capabilities"

    def run(self) -> None:
        highest = capabilities.last()
        if self.limit_bounding:
            capabilities.limit_bounding(self.bounding, highest)
        libc.prctl(PR_SET_KEEPCAPS, 1)
        if may_set_groups():
            os.setgroups(self.groups)
        elif self.groups:
            raise StepError("process.user.additionalGids: this user namespace denies setgroups")
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        libc.prctl(PR_SET_KEEPCAPS, 0)
        _, had, _ = capabilities.get()
        known = (1 << (highest + 1)) - 1
        permitted = self.permitted & had & known
        inheritable = self.inheritable & known
        capabilities.set(self.effective & permitted, permitted, inheritable & (permitted | self.bounding))
        capabilities.clear_ambient_if_any()
        if self.ambient:
            try:
                capabilities.raise_ambient(self.ambient & permitted & inheritable)
            except KernelError:  # before Linux 4.3, where root's programs have what is permitted by being root's
                if self.uid:
                    raise


def may_set_groups() -> bool:
    """Whether setgroups(2) is allowed: denied in user namespaces made by plain users (Linux 3.19)."""
    try:
        os.setgroups(os.getgroups())
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EINVAL):
            return False
        raise
    return True


class OwnStreams(Step):
    """Give the standard streams that are no files to the process's user, so that /dev/stdout can be opened by it; take
    the container's own /dev/null for the host's, which is a file of another mount namespace."""

    __slots__ = ("uid",)

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def describe(self) -> str:
        return f"give the standard streams to user {self.uid}"

    def run(self) -> None:
        for stream in (0, 1, 2):
            try:
                status = os.fstat(stream)
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == NULL_DEVICE:
                    _take_own_null(stream)
                elif status.st_uid != self.uid and not stat.S_ISREG(status.st_mode):  # a file stays its owner's
                    os.fchown(stream, self.uid, -1)
            except OSError as error:
                # the caller closed it, or it belongs to somebody the namespace does not map: it works unowned
                if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS, errno.EBADF):
                    raise


def _take_own_null(stream: int) -> None:
    """Put the container's null device on a stream, where it is that: the container may have put anything there."""
    try:
        fd = os.open("/dev/null", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return  # none here, or it may not be opened: the caller's is as good
    try:
        status = os.fstat(fd)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == NULL_DEVICE:
            os.set_blocking(fd, True)
            os.dup2(fd, stream)
    finally:
        os.close(fd)
