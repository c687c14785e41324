"""The seccomp profile of rich containers: everything but what a machine's services have no business with.

A machine runs anything, so this lists what is refused: calls that are the host's (modules, kexec, clocks, swap, quota),
doors that opened before (keyrings, bpf, userfaultfd, perf, io_uring, file handles, processes' memory by pages), and new
user namespaces, in which a service would have capabilities again. Source: docker's default profile and its reasons
(docs.docker.com, "Seccomp security profiles").
"""

from __future__ import annotations

from typing import Any

_REFUSED = """
    acct add_key bpf clock_adjtime clock_settime create_module delete_module finit_module get_kernel_syms
    get_mempolicy init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load
    kexec_load keyctl lookup_dcookie mbind migrate_pages move_pages nfsservctl open_by_handle_at perf_event_open
    pivot_root process_vm_readv process_vm_writev query_module quotactl quotactl_fd request_key set_mempolicy
    settimeofday stime swapoff swapon sysfs _sysctl userfaultfd uselib ustat vm86 vm86old
""".split()
_CLONE_NEWUSER = 0x10000000
# what a C library asks for and takes ENOSYS for "not there": clone3's flags are in memory, where no filter looks
_MISSING = ("clone3", "io_uring_setup")
_ENOSYS = 38

PROFILE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [
        {"names": list(_MISSING), "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        {"names": [name for name in _REFUSED if name not in _MISSING], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        *(
            {
                "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                "args": [{"index": 0, "value": _CLONE_NEWUSER, "valueTwo": _CLONE_NEWUSER, "op": "SCMP_CMP_MASKED_EQ"}],
            }
            for name in ("clone", "unshare")
        ),
    ],
}  # fmt: skip
