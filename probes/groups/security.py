"""Seccomp, no_new_privs, capabilities, keyrings and the security modules."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from struct import pack

from ...compat import capabilities, execstub, files, libc, sealed
from ...compat.constants import (
    CAPABILITIES,
    PR_CAP_AMBIENT,
    PR_CAPBSET_DROP,
    PR_GET_NO_NEW_PRIVS,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_KEEPCAPS,
    PR_SET_MM,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_SECCOMP,
    SECCOMP_GET_ACTION_AVAIL,
    SECCOMP_MODE_STRICT,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS,
    SECCOMP_RET_LOG,
    SECCOMP_RET_USER_NOTIF,
)
from ...compat.errors import KernelError, errno_name
from ...compat.seccomp import load
from ..catalog import Answer, Answered, Group, Works
from ..trying import NUMBERS, call, child, child_in_pid_namespace

GROUP = Group("security", "security")

_ALLOW = pack("<HBBI", 0x06, 0, 0, SECCOMP_RET_ALLOW)


@GROUP.probe("seccomp.strict", "prctl(PR_SET_SECCOMP, STRICT)", "no strict mode")
def strict() -> Answer:
    def inside() -> int:
        libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)
        os.getppid()
        return 0

    status = child(inside)
    if status != -9:
        raise Answered("broken", f"a forbidden call was not killed (status {status})")
    return "SIGKILL"


@GROUP.probe(
    "seccomp.filter", "a filter that denies one call with an errno", "seccomp profiles are refused or not applied"
)
def filter_errno() -> Answer:
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1)
    denied = pack("<HBBI", 0x20, 0, 0, 0) + pack("<HBBI", 0x15, 0, 1, NUMBERS.get("sched_yield", 24))
    load.install(denied + pack("<HBBI", 0x06, 0, 0, SECCOMP_RET_ERRNO | errno.EXDEV) + _ALLOW)
    result = call("sched_yield")
    if result != -errno.EXDEV:
        raise Answered("broken", f"the denied call answered {result}")
    return "EXDEV from the filter"


@GROUP.probe("seccomp.filter-privileged", "a filter without no_new_privs", "profiles need noNewPrivileges: true")
def filter_privileged() -> Answer:
    load.install(_ALLOW)
    return None


def _flag(flag: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1)
        load.install(_ALLOW, flag)
        return None

    return attempt


GROUP.probe("seccomp.tsync", "SECCOMP_FILTER_FLAG_TSYNC", "filters bind one thread")(_flag(1))
GROUP.probe("seccomp.log-flag", "SECCOMP_FILTER_FLAG_LOG", "denials are not logged")(_flag(2))
GROUP.probe("seccomp.wait-killable", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "interrupted calls are notified again")(
    _flag(8 | 32)
)
GROUP.probe("seccomp.spec-allow", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "speculation is restricted with a filter")(_flag(4))


def _action(action: int) -> Callable[[], Answer]:
    def attempt() -> Answer:
        libc.seccomp(SECCOMP_GET_ACTION_AVAIL, 0, ctypes.c_uint32(action))
        return None

    return attempt


for _name, _value, _cost in (
    ("log", SECCOMP_RET_LOG, "SCMP_ACT_LOG is refused"),
    ("kill-process", SECCOMP_RET_KILL_PROCESS, "only the thread is killed"),
):
    GROUP.probe(f"seccomp.{_name}", f"SECCOMP_GET_ACTION_AVAIL({_name})", _cost, alone=False)(_action(_value))


@GROUP.probe("seccomp.notify", "a filter with SECCOMP_FILTER_FLAG_NEW_LISTENER", "SCMP_ACT_NOTIFY is refused")
def notify() -> Answer:
    libc.seccomp(SECCOMP_GET_ACTION_AVAIL, 0, ctypes.c_uint32(SECCOMP_RET_USER_NOTIF))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1)
    try:
        load.install(_ALLOW, 8)
    except KernelError as error:
        if error.errno == errno.EBUSY:
            raise Answered("blocked", "a filter around joey has a listener already: a process has one") from None
        raise
    return None


@GROUP.probe("no-new-privs", "prctl(PR_SET_NO_NEW_PRIVS)", "set-uid programs are disarmed by nosuid mounts instead")
def no_new_privs() -> Answer:
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1)
    return libc.prctl(PR_GET_NO_NEW_PRIVS)


@GROUP.probe("capabilities.sets", "capget and capset (version 3)", "privileges can't be dropped", alone=True)
def capability_sets() -> Answer:
    effective, permitted, inheritable = capabilities.get()
    capabilities.set(effective, permitted, inheritable)
    number = capabilities.last()
    name = CAPABILITIES[number] if number < len(CAPABILITIES) else str(number)
    return Works(f"up to {name}", {"last": number, "effective": f"{effective:x}"})


@GROUP.probe("capabilities.bounding", "prctl(PR_CAPBSET_DROP)", "set-uid programs can regain every capability")
def bounding() -> Answer:
    libc.prctl(PR_CAPBSET_DROP, 0)
    return None


@GROUP.probe(
    "capabilities.ambient", "prctl(PR_CAP_AMBIENT) (Linux 4.3)", "users other than root keep no capabilities over exec"
)
def ambient() -> Answer:
    libc.prctl(PR_CAP_AMBIENT, 4)
    return None


@GROUP.probe("capabilities.keep", "prctl(PR_SET_KEEPCAPS)", "capabilities are lost with a change of user")
def keep() -> Answer:
    libc.prctl(PR_SET_KEEPCAPS, 1)
    return None


@GROUP.probe("process.subreaper", "prctl(PR_SET_CHILD_SUBREAPER) (Linux 3.4)", "orphans go to the host's init")
def subreaper() -> Answer:
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    return None


@GROUP.probe("process.set-mm", "prctl(PR_SET_MM)", "process titles can't be moved", alone=True)
def set_mm() -> Answer:
    try:
        libc.prctl(PR_SET_MM, 0, 0)
    except KernelError as error:
        if error.errno == errno.EPERM:
            raise Answered("blocked", "EPERM") from None
        if os.path.exists("/proc/self/map_files"):
            return errno_name(error.errno)
        raise
    return None


@GROUP.probe("keyring", "keyctl(KEYCTL_JOIN_SESSION_KEYRING)", "the container shares the caller's session keyring")
def keyring() -> Answer:
    libc.join_new_session_keyring("_joey-probe")
    return None


@GROUP.probe("lsm.apparmor", "AppArmor", "process.apparmorProfile is refused", alone=False)
def apparmor() -> Answer:
    if files.read_line("/sys/module/apparmor/parameters/enabled") != "Y":
        raise Answered("absent", "not enabled")
    return files.read_line("/proc/self/attr/current") or "enabled"


@GROUP.probe("lsm.selinux", "SELinux", "process.selinuxLabel is refused", alone=False)
def selinux() -> Answer:
    for place in ("/sys/fs/selinux", "/selinux"):
        value = files.read_line(f"{place}/enforce")
        if value:
            return "enforcing" if value == "1" else "permissive"
    raise Answered("absent", "not enabled")


@GROUP.probe("lsm.landlock", "landlock_create_ruleset(VERSION)", "no landlock", alone=False)
def landlock() -> Answer:
    result = call("landlock_create_ruleset", 0, 0, 1)
    if result < 0:
        raise KernelError("landlock_create_ruleset", -result)
    return f"ABI {result}"


@GROUP.probe(
    "lsm.yama", "/proc/sys/kernel/yama/ptrace_scope", "any process of a user may trace the others", alone=False
)
def yama() -> Answer:
    value = files.read_line("/proc/sys/kernel/yama/ptrace_scope")
    if not value:
        raise Answered("absent", "ENOENT")
    return value


@GROUP.probe("proc.hidepid", "mount -t proc -o hidepid=2", "users see each other's processes")
def hidepid() -> Answer:
    child_in_pid_namespace(lambda: libc.mount("proc", "/proc", "proc", 0, "hidepid=2"))
    return None


@GROUP.probe("exec-stub.sealed", "a program in a sealed memory file, by execveat", "the exec stub is an unlinked file")
def sealed_stub() -> Answer:
    """memfd_create (Linux 3.17) and execveat (3.19), on a host that lets memory files be executed (vm.memfd_noexec)."""
    if not execstub.code():
        raise Answered("absent", f"no stub for {libc.MACHINE}")
    read_end, write_end = os.pipe()
    report_fd = 40
    stub = execstub.in_memory(execstub.image(report_fd), report_fd + 1)
    pid = os.fork()
    if pid == 0:
        os.dup2(write_end, report_fd)
        try:
            execstub.run(stub, False, "/joey-probe/nothing", ["nothing"], {})
        finally:
            os._exit(2)
    os.close(write_end)
    said = os.read(read_end, 8)
    os.waitpid(pid, 0)
    if said != b"exec" + pack("<i", errno.ENOENT):
        raise Answered("broken", f"it said {said!r}")
    return "it ran"


@GROUP.probe(
    "interpreter.copy", "joey started by a copy of its interpreter", "labels and tracers reach the interpreter"
)
def interpreter_copy() -> Answer:
    if not sealed.copy_starts():
        raise Answered("absent", "the copy does not start: does it find its libraries beside itself?")
    return "it started"
