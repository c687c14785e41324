"""Traits of the host: vsyscall page, lxcfs, helpers, vendor, virtualisation."""

from __future__ import annotations

import ctypes
import os

from ...compat import files, libc
from ..catalog import Answer, Answered, Group, Works
from ..trying import child
from .mounts import find_program

GROUP = Group("host", "host")


@GROUP.probe("vsyscall", "a call of time() in the vsyscall page", "EL6 and older binaries die with status 139")
def vsyscall() -> Answer:
    if libc.MACHINE != "x86_64":
        raise Answered("absent", f"no such page on {libc.MACHINE}")
    mode = "none"
    for line in files.read_text("/proc/self/maps").splitlines():
        if line.endswith("[vsyscall]"):
            mode = {"r-xp": "native or emulated", "--xp": "execute only"}.get(line.split()[1], line.split()[1])

    def inside() -> int:
        ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(0xFFFFFFFFFF600400)(None)
        return 0

    status = child(inside)
    if status:
        raise Answered("absent", f"{mode}; the call died of signal {-status}; boot with vsyscall=emulate")
    return Works(mode, {"mode": mode})


@GROUP.probe("lxcfs", "a mounted lxcfs", "`free` and `top` in the container show the host", alone=False)
def lxcfs() -> Answer:
    for mount in files.mounts():
        if mount.fstype == "fuse.lxcfs":
            return f"at {mount.target}"
    raise Answered("absent", "not mounted")


@GROUP.probe("lxcfs.program", "lxcfs(1)", "joey can't start lxcfs itself", alone=False)
def lxcfs_program() -> Answer:
    return find_program("lxcfs")


@GROUP.probe("criu", "criu(8)", "no checkpoint and restore", alone=False)
def criu() -> Answer:
    return find_program("criu")


@GROUP.probe("newuidmap", "newuidmap(1)", "plain users map one id only", alone=False)
def newuidmap() -> Answer:
    return find_program("newuidmap")


@GROUP.probe("kernel.vendor", "vendor of the kernel, from its release", "", alone=False)
def vendor() -> Answer:
    release, version = os.uname().release, files.read_line("/proc/version")
    for mark, name in (
        (".el", "Red Hat"), ("amzn", "Amazon"), ("Ubuntu", "Ubuntu"), ("Debian", "Debian"), ("SUSE", "SUSE"),
        ("microsoft", "WSL"), ("gVisor", "gVisor"), ("-fc-", "Firecracker guest"), ("stab", "OpenVZ"),
        ("lve", "CloudLinux"),
    ):  # fmt: skip
        if mark in release or mark in version:
            return name
    return "not known: a kernel of one's own"


@GROUP.probe("kernel.machine", "virtual or real machine", "", alone=False)
def machine() -> Answer:
    if os.path.exists("/proc/vz") and not os.path.exists("/proc/bc"):
        return "OpenVZ container"
    hypervisor = " hypervisor" in files.read_text("/proc/cpuinfo")
    vendor = files.read_line("/sys/class/dmi/id/sys_vendor")
    return f"virtual ({vendor or 'unnamed'})" if hypervisor else f"real ({vendor or 'unnamed'})"


@GROUP.probe("kernel.modules", "modules can be loaded", "what is not built in can't be had", alone=False)
def modules() -> Answer:
    if files.read_line("/proc/sys/kernel/modules_disabled") == "1":
        raise Answered("blocked", "kernel.modules_disabled is 1")
    if not os.path.exists("/proc/modules"):
        raise Answered("absent", "a kernel without modules")
    if not os.path.isdir(f"/lib/modules/{os.uname().release}"):
        raise Answered("absent", f"no /lib/modules/{os.uname().release}")
    return None
