"""Install a compiled filter on the calling thread."""

from __future__ import annotations

from .. import cdata, libc
from ..constants import PR_SET_SECCOMP, SECCOMP_MODE_FILTER, SECCOMP_SET_MODE_FILTER


class Program(cdata.Structure):
    """struct sock_fprog, <linux/filter.h>."""

    _fields_ = (("len", cdata.c_ushort), ("filter", cdata.c_char_p))


def install(code: bytes, flags: int = 0) -> int:
    """Install `code` (struct sock_filter, 8 bytes each). Needs no_new_privs or CAP_SYS_ADMIN (EACCES).

    Flags need seccomp(2) (Linux 3.17); without any, prctl(2) does from Linux 3.5 on. Returns the listener's descriptor
    for SECCOMP_FILTER_FLAG_NEW_LISTENER (Linux 5.0), else 0.
    """
    program = Program(len(code) // 8, code)
    if flags:
        return libc.seccomp(SECCOMP_SET_MODE_FILTER, flags, program)
    return libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, cdata.addressof(program))
