"""System calls through ctypes: one private prototype a call, and a function of two lines that calls, checks and raises.

No decision is made here: a caller that can live with a failure catches KernelError. Calls without a wrapper in the
C libraries of old hosts (glibc 2.12, musl) go through syscall(2) by number.
"""

from __future__ import annotations

import errno
import os

from . import cdata
from .cdata import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p
from .constants import AT_EMPTY_PATH, AT_FDCWD, CLONE_INTO_CGROUP, CLONE_PARENT, PRCTL_NAMES, SIGCHLD
from .errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MACHINE = os.uname().machine

# <asm/unistd.h> for the calls of the start path; the whole tables are in syscalls.py.
_NUMBERS = {
    "x86_64": {
        "clone": 56, "pivot_root": 155, "setns": 308, "capget": 125, "capset": 126, "seccomp": 317, "bpf": 321,
        "openat2": 437, "open_tree": 428, "move_mount": 429, "mount_setattr": 442, "keyctl": 250, "close_range": 436,
        "sched_setattr": 314, "ioprio_set": 251, "clone3": 435, "execveat": 322,
    },
    "aarch64": {
        "clone": 220, "pivot_root": 41, "setns": 268, "capget": 90, "capset": 91, "seccomp": 277, "bpf": 280,
        "openat2": 437, "open_tree": 428, "move_mount": 429, "mount_setattr": 442, "keyctl": 219, "close_range": 436,
        "sched_setattr": 274, "ioprio_set": 30, "clone3": 435, "execveat": 281,
    },
}  # fmt: skip


def _prototype(name: str, *argtypes: type) -> Callable[..., int]:
    return cdata.function(name, c_int, *argtypes)


def _numbered(name: str, *argtypes: type, locked: bool = False) -> Callable[..., int]:
    """A function that makes the system call `name` by number; ENOSYS on an architecture without a table.

    `locked` keeps the interpreter's lock over the call: clone() must not return in a child that waits for it.
    """
    number = _NUMBERS.get(MACHINE, {}).get(name, -1)
    function = cdata.function("syscall", c_long, c_long, *argtypes, locked=locked)
    return lambda *args: function(number, *args)


_before_fork = cdata.function("PyOS_BeforeFork", c_int, locked=True)
_after_fork_child = cdata.function("PyOS_AfterFork_Child", c_int, locked=True)
_after_fork_parent = cdata.function("PyOS_AfterFork_Parent", c_int, locked=True)
_mount = _prototype("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = _prototype("umount2", c_char_p, c_int)
_reboot = _prototype("reboot", c_int)
_unshare = _prototype("unshare", c_int)
_sethostname = _prototype("sethostname", c_char_p, c_size_t)
_setdomainname = _prototype("setdomainname", c_char_p, c_size_t)
_prctl = _prototype("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_personality = _prototype("personality", c_ulong)
_inotify_init1 = _prototype("inotify_init1", c_int)
_inotify_add_watch = _prototype("inotify_add_watch", c_int, c_char_p, c_uint)
_clone = _numbered("clone", c_ulong, c_void_p, c_void_p, c_void_p, c_ulong, locked=True)
_clone3 = _numbered("clone3", c_void_p, c_size_t, locked=True)
_execveat = _numbered("execveat", c_int, c_char_p, c_void_p, c_void_p, c_int)
_pivot_root = _numbered("pivot_root", c_char_p, c_char_p)
_setns = _numbered("setns", c_int, c_int)
_capget = _numbered("capget", c_void_p, c_void_p)
_capset = _numbered("capset", c_void_p, c_void_p)
_seccomp = _numbered("seccomp", c_uint, c_uint, c_void_p)
_bpf = _numbered("bpf", c_int, c_void_p, c_uint)
_openat2 = _numbered("openat2", c_int, c_char_p, c_void_p, c_size_t)
_open_tree = _numbered("open_tree", c_int, c_char_p, c_uint)
_move_mount = _numbered("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint)
_sched_setattr = _numbered("sched_setattr", c_int, c_void_p, c_uint)
_ioprio_set = _numbered("ioprio_set", c_int, c_int, c_int)
_fstatfs = _prototype("fstatfs", c_int, c_void_p)
_statfs = _prototype("statfs", c_char_p, c_void_p)
_mount_setattr = _numbered("mount_setattr", c_int, c_char_p, c_uint, c_void_p, c_size_t)
_keyctl = _numbered("keyctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)


def _check(call: str, result: int, path: str = "") -> int:
    if result < 0:
        raise KernelError(call, cdata.get_errno(), path)
    return result


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """Mount, remount, bind, move or change propagation. Source: mount(2)."""
    encoded = os.fsencode(data) if data else None
    result = _mount(os.fsencode(source), os.fsencode(target), os.fsencode(fstype), flags, encoded)
    _check("mount", result, target)


def umount(target: str, flags: int = 0) -> None:
    """Unmount `target`. Source: umount2(2)."""
    _check("umount2", _umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Swap the root mount of the caller's mount namespace. Source: pivot_root(2)."""
    _check("pivot_root", _pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones (CLONE_NEW*). Source: unshare(2)."""
    _check("unshare", _unshare(flags))


def setns(fd: int, nstype: int) -> None:
    """Join the namespace `fd` refers to. Source: setns(2)."""
    _check("setns", _setns(fd, nstype))


def clone(flags: int) -> int:
    """Fork with CLONE_NEW* flags; returns 0 in the child, its pid in the parent. The caller has one thread.

    Wrapped in the interpreter's own fork hooks, so that the child's interpreter is as sound as after os.fork().
    Source: clone(2) with a null stack, which copies the caller's.
    """
    return _check("clone", _forked(lambda: _clone(flags, None, None, None, 0)))


def clone_into(flags: int, cgroup: int) -> int:
    """`clone` with SIGCHLD, of a child born in the cgroup v2 group whose directory `cgroup` is open on.

    Nothing is moved, so nothing waits for the kernel's lock of all process groups. Source: clone(2), Linux 5.7.
    """
    # flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    # a child of the caller's parent takes the caller's own exit signal: it must not be given
    signal = 0 if flags & CLONE_PARENT else SIGCHLD
    words = (c_ulong * 11)(flags | CLONE_INTO_CGROUP, 0, 0, 0, signal, 0, 0, 0, 0, 0, cgroup)
    return _check("clone3", _forked(lambda: _clone3(cdata.byref(words), cdata.sizeof(words))))


def _forked(make: Callable[[], int]) -> int:
    """Call `make` between the interpreter's own fork hooks; its result, with errno as it left it."""
    _before_fork()
    pid = make()
    if pid == 0:
        _after_fork_child()
    else:
        error = cdata.get_errno()
        _after_fork_parent()
        cdata.set_errno(error)
    return pid


def reboot(command: int) -> int:
    """reboot(2) in the C library's words: 0, or minus an errno. Not raised: it is asked in order to be refused."""
    return -cdata.get_errno() if _reboot(command) < 0 else 0


def execveat(fd: int, argv: list[str], env: dict[str, str]) -> None:
    """Execute the file that `fd` is open on. By number: fexecve(3) of older C libraries goes through /proc.

    Raises KernelError. Source: execveat(2) with AT_EMPTY_PATH, Linux 3.19.
    """
    words = [os.fsencode(word) for word in argv]
    settings = [os.fsencode(f"{name}={value}") for name, value in env.items()]
    arrays = [(c_char_p * (len(items) + 1))(*items, None) for items in (words, settings)]
    _check("execveat", _execveat(fd, b"", cdata.byref(arrays[0]), cdata.byref(arrays[1]), AT_EMPTY_PATH))


def sethostname(name: str) -> None:
    """Set the host name of the caller's UTS namespace. Source: sethostname(2)."""
    encoded = os.fsencode(name)
    _check("sethostname", _sethostname(encoded, len(encoded)), name)


def setdomainname(name: str) -> None:
    """Set the NIS domain name of the caller's UTS namespace. Source: setdomainname(2)."""
    encoded = os.fsencode(name)
    _check("setdomainname", _setdomainname(encoded, len(encoded)), name)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """Source: prctl(2)."""
    result = _prctl(option, arg2, arg3, arg4, arg5)
    return _check(f"prctl({PRCTL_NAMES.get(option, option)})" if result < 0 else "prctl", result)


def name_process(name: str) -> None:
    """What `ps` shows of the calling thread, 15 bytes. Source: PR_SET_NAME(2const)."""
    buffer = cdata.create_string_buffer(os.fsencode(name))
    prctl(15, cdata.addressof(buffer))


def inotify_watch(path: str, events: int) -> int:
    """A non-blocking inotify descriptor that watches one file for IN_* `events`. Source: inotify(7), Linux 2.6.27."""
    fd = _check("inotify_init1", _inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    try:
        _check("inotify_add_watch", _inotify_add_watch(fd, os.fsencode(path), events), path)
    except KernelError:
        os.close(fd)
        raise
    return fd


def personality(persona: int) -> int:
    """Set the execution domain; returns the previous one. Source: personality(2)."""
    return _check("personality", _personality(persona))


def capset(header: cdata.Structure, data: cdata.Array[Any]) -> None:
    """Source: capset(2)."""
    _check("capset", _capset(cdata.byref(header), data))


def capget(header: cdata.Structure, data: cdata.Array[Any]) -> None:
    """Source: capget(2)."""
    _check("capget", _capget(cdata.byref(header), data))


def seccomp(operation: int, flags: int, argument: cdata.Structure | cdata.c_uint32) -> int:
    """Source: seccomp(2)."""
    return _check("seccomp", _seccomp(operation, flags, cdata.byref(argument)))


def bpf(command: int, attributes: cdata.Structure) -> int:
    """Source: bpf(2)."""
    return _check("bpf", _bpf(command, cdata.byref(attributes), cdata.sizeof(attributes)))


class SchedAttr(cdata.Structure):
    """struct sched_attr, version 0, <linux/sched/types.h>; times in ns."""

    _fields_ = (
        ("size", cdata.c_uint32),
        ("sched_policy", cdata.c_uint32),
        ("sched_flags", cdata.c_uint64),
        ("sched_nice", cdata.c_int32),
        ("sched_priority", cdata.c_uint32),
        ("sched_runtime", cdata.c_uint64),
        ("sched_deadline", cdata.c_uint64),
        ("sched_period", cdata.c_uint64),
    )


def sched_setattr(policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int) -> None:
    """Scheduling of the calling thread. Source: sched_setattr(2), Linux 3.14."""
    attr = SchedAttr(cdata.sizeof(SchedAttr), policy, flags, nice, priority, runtime, deadline, period)
    _check("sched_setattr", _sched_setattr(0, cdata.byref(attr), 0))


def ioprio_set(io_class: int, priority: int) -> None:
    """I/O class (1 real-time, 2 best-effort, 3 idle) and priority (0-7) of the caller. ioprio_set(2), Linux 2.6.13."""
    _check("ioprio_set", _ioprio_set(1, 0, io_class << 13 | priority))


def fs_type(place: int | str) -> int:
    """f_type of the file system that a descriptor or path is on. Source: statfs(2).

    fstatfs of an O_PATH descriptor is EBADF before Linux 3.6 (55815f70147d): its /proc/self/fd path works there too.
    """
    buffer = cdata.create_string_buffer(256)  # struct statfs begins with f_type, a long
    if isinstance(place, int):
        _check("fstatfs", _fstatfs(place, buffer))
    else:
        _check("statfs", _statfs(os.fsencode(place), buffer), place)
    return c_long.from_buffer(buffer).value


class OpenHow(cdata.Structure):
    """struct open_how, <linux/openat2.h>."""

    _fields_ = (("flags", cdata.c_uint64), ("mode", cdata.c_uint64), ("resolve", cdata.c_uint64))


def openat2(dir_fd: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open with RESOLVE_* limits; always close-on-exec. Source: openat2(2), Linux 5.6."""
    how = OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(128):
        fd = _openat2(dir_fd, os.fsencode(path), cdata.byref(how), cdata.sizeof(how))
        if fd >= 0 or cdata.get_errno() != errno.EAGAIN:  # EAGAIN: something was renamed or mounted meanwhile
            break
    return _check("openat2", fd, path)


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """A descriptor for (a copy of) a mount. Source: open_tree(2), Linux 5.2."""
    return _check("open_tree", _open_tree(dir_fd, os.fsencode(path), flags), path)


def move_mount(from_fd: int, to_path: str, flags: int = 4) -> None:
    """Attach a detached mount at `to_path`; flags 4 is MOVE_MOUNT_F_EMPTY_PATH. Source: move_mount(2), Linux 5.2."""
    _check("move_mount", _move_mount(from_fd, b"", AT_FDCWD, os.fsencode(to_path), flags), to_path)


def move_mount_onto(from_fd: int, to_fd: int) -> None:
    """Attach a detached mount where `to_fd` is open: MOVE_MOUNT_F_EMPTY_PATH and _T_EMPTY_PATH. move_mount(2)."""
    _check("move_mount", _move_mount(from_fd, b"", to_fd, b"", 0x04 | 0x40))


class MountAttr(cdata.Structure):
    """struct mount_attr, <linux/mount.h>."""

    _fields_ = (
        ("attr_set", cdata.c_uint64),
        ("attr_clr", cdata.c_uint64),
        ("propagation", cdata.c_uint64),
        ("userns_fd", cdata.c_uint64),
    )


def mount_setattr(dir_fd: int, path: str, flags: int, attr: MountAttr) -> None:
    """Change flags of a mount or a whole tree of them. Source: mount_setattr(2), Linux 5.12."""
    result = _mount_setattr(dir_fd, os.fsencode(path), flags, cdata.byref(attr), cdata.sizeof(attr))
    _check("mount_setattr", result, path)


def join_new_session_keyring(name: str) -> None:
    """Give the caller a fresh session keyring. KEYCTL_JOIN_SESSION_KEYRING is 1. Source: keyctl(2)."""
    buffer = cdata.create_string_buffer(os.fsencode(name))
    _check("keyctl", _keyctl(1, cdata.addressof(buffer), 0, 0, 0))
