"""Each namespace by clone and by unshare, as this user and as root of a new user namespace."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ...compat import capabilities, files, libc
from ...compat.constants import (
    CLONE_NEWCGROUP,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    LINUX_REBOOT_CMD_CAD_OFF,
    SIGCHLD,
)
from ...compat.errors import KernelError, errno_name
from ...compat.namespaces import NAMESPACES
from ..catalog import Answer, Answered, Group, state_of
from ..trying import become_namespace_root, child

GROUP = Group("namespaces", "namespaces")

COSTS = {
    "user": "root in the container is root on the host, or ids are emulated",
    "cgroup": "the container sees the host's cgroup paths",
    "ipc": "no System V IPC of its own",
    "uts": "no host name of its own",
    "network": "no network of its own",
    "pid": "the container sees and can signal the host's processes",
    "time": "no uptime of its own",
    "mount": "nothing can be contained",
}


def user_namespace_hint(number: int) -> str:
    """Where to look when the kernel refuses user namespaces: the switch that says no."""
    for path in ("/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/unprivileged_userns_clone"):
        if files.read_line(path) == "0":
            return f"{errno_name(number)}; {path} is 0: raise it"
    path = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    if files.read_line(path) == "1":
        return f"{errno_name(number)}; {path} is 1: AppArmor forbids it to plain users"
    return errno_name(number)


def _by_clone(name: str, flag: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        if flag == CLONE_NEWCGROUP:
            try:
                child(lambda: libc.unshare(flag))
            except KernelError as error:
                # before 2.6.38 this bit was CLONE_STOPPED: the child would never run
                raise Answered(
                    state_of(error.errno), f"not tried: unshare answered {errno_name(error.errno)}"
                ) from None
        if flag == CLONE_NEWTIME:
            raise Answered("absent", "clone(2) has no such flag; unshare and clone3 do")
        try:
            child(_nothing, flag)
        except KernelError as error:
            if name == "user":
                raise Answered(state_of(error.errno), user_namespace_hint(error.errno)) from None
            raise
        return None

    return attempt


def _by_unshare(name: str, flag: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        try:
            libc.unshare(flag)
        except KernelError as error:
            if name == "user":
                raise Answered(state_of(error.errno), user_namespace_hint(error.errno)) from None
            raise
        return None

    return attempt


def _in_user_namespace(flag: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        become_namespace_root(flag)
        return None

    return attempt


def _nothing() -> int:
    return 0


for _name, (_flag, _file) in NAMESPACES.items():
    _symbol = "CLONE_NEW" + {"network": "NET", "mount": "NS"}.get(_name, _name.upper())
    GROUP.probe(f"{_file}ns.clone", f"clone({_symbol})", COSTS[_name])(_by_clone(_name, _flag))
    GROUP.probe(f"{_file}ns.unshare", f"unshare({_symbol})", COSTS[_name])(_by_unshare(_name, _flag))
    if _name != "user":
        GROUP.probe(
            f"{_file}ns.in-userns", f"unshare(CLONE_NEWUSER|{_symbol})", "not for plain users or id-mapped containers"
        )(_in_user_namespace(_flag))


@GROUP.probe("pidns.init", "pid 1 in a new pid namespace", "no init of its own: orphans go to the host's init")
def pid_one() -> Answer:
    if os.geteuid() != 0:
        become_namespace_root()
    pid = child(lambda: os.getpid(), CLONE_NEWPID)
    if pid != 1:
        raise Answered("broken", f"the first process has pid {pid}")
    return "pid 1"


@GROUP.probe("pidns.reboot", "reboot(LINUX_REBOOT_CMD_CAD_OFF) in a new pid namespace",
             "a container that may reboot would reboot the host: its init can't end its own life")  # fmt: skip
def reboot_inside() -> Answer:
    """Since Linux 3.4 reboot(2) is the namespace's, which has no Ctrl-Alt-Del to switch (EINVAL). Before, this makes
    the keys a signal to the host's init, as that does itself when it starts."""
    if os.geteuid() != 0:
        become_namespace_root()
    number = child(lambda: -libc.reboot(LINUX_REBOOT_CMD_CAD_OFF), CLONE_NEWPID)
    if number != errno.EINVAL:
        raise Answered("absent", "it is the host's" if number == 0 else errno.errorcode.get(number, str(number)))
    return "it is the namespace's"


@GROUP.probe("userns.maps", "writing /proc/PID/uid_map and gid_map", "a user namespace without ids is of no use")
def user_maps() -> Answer:
    try:
        become_namespace_root()
    except OSError as error:
        # the CLONE_NEWUSER of 2.6.23 to 3.7 has no uid_map
        raise Answered("absent" if error.errno == errno.ENOENT else "blocked", errno_name(error.errno or 0)) from None
    if os.getuid() != 0:
        raise Answered("broken", f"mapped to 0, got uid {os.getuid()}")
    return "uid 0 inside"


@GROUP.probe("userns.many-ids", "mapping 65536 ids", "only one user inside")
def many_ids() -> Answer:
    if os.geteuid() != 0:
        helper = next((path for path in ("/usr/bin/newuidmap", "/bin/newuidmap") if os.access(path, os.X_OK)), "")
        if not helper:
            raise Answered("absent", "no newuidmap(1): install the package uidmap")
        raise_unless_subordinate()
        return f"by {helper}"
    read_end, write_end = os.pipe()
    pid = libc.clone(CLONE_NEWUSER | SIGCHLD)
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    try:
        files.write_text(f"/proc/{pid}/uid_map", "0 100000 65536\n")
        files.write_text(f"/proc/{pid}/gid_map", "0 100000 65536\n")
    finally:
        os.close(write_end)
        os.waitpid(pid, 0)
    return None


def raise_unless_subordinate() -> None:
    """Raise unless /etc/subuid has a line for this user. Source: subuid(5)."""
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
        lines = files.read_text("/etc/subuid").splitlines()
    except (KeyError, OSError):
        raise Answered("absent", "no /etc/subuid entry for this user") from None
    if not any(line.split(":")[0] in (name, str(os.getuid())) for line in lines):
        raise Answered("absent", "no /etc/subuid entry for this user")


@GROUP.probe(
    "userns.emulated", "capset, setresuid and prctl(PR_SET_SECUREBITS) as user 1, with CAP_SETUID permitted only",
    "no ids of its own without user namespaces",
)  # fmt: skip
def emulated_users() -> Answer:
    """What compat/users/ does in a thread's name, but the exec."""
    if os.geteuid() != 0:
        raise Answered("blocked", "needs root")
    status = child(_as_another_user)  # which could not even import anything
    if status:
        raise Answered(
            "broken", ("an id changed without the capability", "wrong ids or capabilities after it")[status - 1]
        )
    return None


def _as_another_user() -> int:
    libc.prctl(28, 0x4)  # PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP
    kept = capabilities.mask(["CAP_SETUID", "CAP_SETGID"])
    os.setresuid(1, 1, 1)
    capabilities.set(0, kept, 0)
    try:
        os.setresuid(0, 1, 1)
        return 1
    except PermissionError:
        pass
    capabilities.set(kept, kept, 0)
    os.setresuid(0, -1, -1)
    capabilities.set(0, kept, 0)
    return 0 if (os.getresuid(), capabilities.get()[:2]) == ((0, 1, 1), (0, kept)) else 2


@GROUP.probe("userns.nested", "a user namespace inside another", "no containers in containers", alone=True)
def nested() -> Answer:
    become_namespace_root(CLONE_NEWNS)
    become_namespace_root(CLONE_NEWNS)
    return None
