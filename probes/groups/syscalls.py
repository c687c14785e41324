"""System calls that came with or after 2.6.27 and that runtimes, C libraries and language runtimes use.

Each is made with arguments that can have no effect; any answer but ENOSYS means the kernel knows it. A seccomp filter
around joey that answers EPERM makes it `blocked`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from ...compat.errors import errno_name
from ..catalog import Answer, Answered, Group
from ..trying import call

GROUP = Group("syscalls", "system calls")

# name, first kernel, arguments, what its absence costs
TABLE: tuple[tuple[str, str, tuple[int | bytes | None, ...], str], ...] = (
    ("accept4", "2.6.28", (-1, None, None, 0), "servers fall back to accept and fcntl"),
    ("dup3", "2.6.27", (-1, -1, 0), "descriptors leak into children in a race"),
    ("pipe2", "2.6.27", (None, -1), "descriptors leak into children in a race"),
    ("eventfd2", "2.6.27", (0, -1), "event loops fail"),
    ("signalfd4", "2.6.27", (-1, None, 8, 0), "signals only by handlers"),
    ("epoll_create1", "2.6.27", (-1,), "event loops fail"),
    ("inotify_init1", "2.6.27", (-1,), "file watching fails"),
    ("timerfd_create", "2.6.25", (-1, 0), "timers only by signals"),
    ("utimensat", "2.6.22", (-1, None, None, -1), "times of files in microseconds only"),
    ("fallocate", "2.6.23", (-1, 0, 0, 0), "space is reserved by writing zeros"),
    ("preadv", "2.6.30", (-1, None, 0, 0, 0), "databases fall back to pread"),
    ("rt_tgsigqueueinfo", "2.6.31", (-1, -1, 0, None), "no queued signals to threads"),
    ("perf_event_open", "2.6.31", (None, -1, -1, -1, 0), "no profilers"),
    ("recvmmsg", "2.6.33", (-1, None, 0, 0, None), "busy UDP servers slow down"),
    ("fanotify_init", "2.6.37", (-1, 0), "no file system auditing"),
    ("prlimit64", "2.6.36", (0, -1, None, None), "`su`, PAM sessions, nginx and systemd fail in modern images"),
    ("name_to_handle_at", "2.6.39", (-1, b"", None, None, -1), "systemd falls back to stat"),
    ("open_by_handle_at", "2.6.39", (-1, None, 0), "no file handles"),
    ("clock_adjtime", "2.6.39", (-1, None), "time daemons use adjtimex"),
    ("syncfs", "2.6.39", (-1,), "sync of everything instead of one file system"),
    ("sendmmsg", "3.0", (-1, None, 0, 0), "name resolution falls back to sendto"),
    ("setns", "3.0", (-1, 0), "no entering of running containers: exec needs an agent"),
    ("getcpu", "2.6.19", (None, None, None), "sched_getcpu by the vDSO only"),
    ("process_vm_readv", "3.2", (-1, None, 0, None, 0, 0), "tracers read memory word by word"),
    ("kcmp", "3.5", (-1, -1, 0, 0, 0), "no CRIU"),
    ("finit_module", "3.8", (-1, None, 0), "modules are loaded from memory"),
    ("sched_setattr", "3.14", (-1, None, 0), "no deadline scheduling, process.scheduler refused"),
    ("sched_getattr", "3.14", (-1, None, 0, 0), "no deadline scheduling"),
    ("renameat2", "3.15", (-1, b"", -1, b"", 0xFFFF), "no atomic exchange or no-replace rename"),
    ("seccomp", "3.17", (-1, 0, None), "filters by prctl only, without flags"),
    ("getrandom", "3.17", (None, 0, -1), "nginx, redis, Python's os.getrandom and `shuf` fail in modern images"),
    ("memfd_create", "3.17", (None, -1), "runtimes and JITs need a tmpfs file instead"),
    ("kexec_file_load", "3.17", (-1, -1, 0, None, -1), "nothing for containers"),
    ("bpf", "3.18", (-1, None, 0), "no device rules on cgroup v2, no tracing tools"),
    ("execveat", "3.19", (-1, b"", None, None, 0), "fexecve needs /proc"),
    ("userfaultfd", "4.3", (-1,), "no live migration of memory"),
    ("membarrier", "4.3", (-1, 0, 0), "language runtimes use slower barriers"),
    ("mlock2", "4.4", (None, 0, -1), "memory is locked eagerly"),
    ("copy_file_range", "4.5", (-1, None, -1, None, 0, 0), "copies by read and write"),
    ("preadv2", "4.6", (-1, None, 0, 0, 0, 0), "databases fall back to preadv"),
    ("pkey_alloc", "4.9", (-1, -1), "no memory protection keys"),
    ("statx", "4.11", (-1, b"", -1, 0, None), "no birth times; C libraries fall back to stat"),
    ("io_pgetevents", "4.18", (-1, 0, 0, None, None, None), "asynchronous I/O without signal masks"),
    ("rseq", "4.18", (None, 0, -1, 0), "allocators use slower per-thread paths"),
    ("pidfd_send_signal", "5.1", (-1, 0, None, 0), "signals by pid and start time"),
    ("io_uring_setup", "5.1", (0, None), "databases fall back to other asynchronous I/O"),
    ("open_tree", "5.2", (-1, b"", -1), "old mount calls"),
    ("move_mount", "5.2", (-1, b"", -1, b"", -1), "old mount calls"),
    ("fsopen", "5.2", (None, -1), "old mount calls"),
    ("fsmount", "5.2", (-1, -1, 0), "old mount calls"),
    ("fspick", "5.2", (-1, b"", -1), "old mount calls"),
    ("pidfd_open", "5.3", (-1, -1), "processes are watched by pid and start time"),
    ("clone3", "5.3", (None, 0), "C libraries fall back to clone"),
    ("close_range", "5.9", (5, 4, 0), "descriptors are closed one by one"),
    ("openat2", "5.6", (-1, b"", None, 0), "paths in a root file system are walked one component at a time"),
    ("pidfd_getfd", "5.6", (-1, -1, 0), "no seccomp agents that hand out descriptors"),
    ("faccessat2", "5.8", (-1, b"", 0, 0), "C libraries emulate access checks"),
    ("process_madvise", "5.10", (-1, None, 0, 0, -1), "no outside memory hints"),
    ("epoll_pwait2", "5.11", (-1, None, 0, None, None, 0), "time-outs in milliseconds"),
    ("mount_setattr", "5.12", (-1, b"", -1, None, 0), "recursive read-only mount by mount; no id-mapped mounts"),
    ("landlock_create_ruleset", "5.13", (None, 0, -1), "no landlock"),
    ("quotactl_fd", "5.14", (-1, 0, 0, None), "quota by device name only"),
    ("memfd_secret", "5.14", (-1,), "no secret memory"),
    ("process_mrelease", "5.15", (-1, -1), "memory of killed processes is freed late"),
    ("futex_waitv", "5.16", (None, 0, -1, None, 0), "emulators wait one by one"),
    ("set_mempolicy_home_node", "5.17", (1, 0, 0, -1), "no home nodes"),
    ("cachestat", "6.5", (-1, None, None, -1), "no page cache statistics"),
    ("fchmodat2", "6.6", (-1, b"", 0, -1), "C libraries emulate it by /proc"),
    ("futex_wake", "6.7", (None, 0, 0, -1), "futex(2) instead"),
    ("statmount", "6.8", (None, None, 0, -1), "mount tables are parsed"),
    ("listmount", "6.8", (None, None, 0, -1), "mount tables are parsed"),
    ("mseal", "6.10", (1, 0, -1), "no sealed mappings"),
    ("setxattrat", "6.13", (-1, b"", -1, b"", None, 0), "attributes by /proc"),
    ("open_tree_attr", "6.15", (-1, b"", -1, None, 0), "attributes after the mount is made"),
    ("file_getattr", "6.17", (-1, b"", None, 0, -1), "inode flags by ioctl"),
)


def _known(name: str, args: tuple[int | bytes | None, ...]) -> Callable[[], Answer]:
    def attempt() -> Answer:
        result = call(name, *args)
        if result == -errno.ENOSYS:
            raise Answered("absent", "ENOSYS")
        if result == -errno.EPERM and name not in EPERM_MEANS_KNOWN:
            raise Answered("blocked", "EPERM")
        return errno_name(-result) if result < 0 else str(result)

    return attempt


# Calls that check privilege before their arguments: EPERM comes from the kernel's own code.
EPERM_MEANS_KNOWN = ("fanotify_init", "open_by_handle_at", "finit_module", "kexec_file_load", "bpf", "perf_event_open",
                      "userfaultfd", "open_tree", "fsopen", "fsmount", "fspick", "move_mount", "memfd_secret",
                      "io_uring_setup", "quotactl_fd", "clock_adjtime")  # fmt: skip

for _name, _since, _args, _cost in TABLE:
    GROUP.probe(f"syscall.{_name}", f"{_name} (Linux {_since})", _cost, alone=False)(_known(_name, _args))
