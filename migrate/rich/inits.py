"""The init of a machine: how it is recognized, started, stopped, and known to have brought its services up.

Sources: init(8), telinit(8), inittab(5), systemd(1) ("Signals"; "Container Interface" on systemd.io), upstart's
init(5), openrc(8), busybox's init.c.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ...compat.errors import JoeyError, UsageError
from ...runtime import systemd
from .guest import Guest

_SIGTERM, _SIGUSR2, _SIGRTMIN_3 = 15, 12, 37
_SYSTEMD = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
_CGROUP_V2_FROM = 233  # systemd's first version that is complete on the unified hierarchy


@dataclass
class Init:
    """`argv` starts it. It is told to shut down by `signal`, or by a command inside. `up` is a command inside; all is
    up when its last line matches."""

    kind: str
    argv: list[str]
    signal: int = 0
    shutdown: list[str] = field(default_factory=list)
    up: list[str] = field(default_factory=list)
    up_matches: str = ""
    failing: list[str] = field(default_factory=list)
    boots: bool = True  # it ends its life by reboot(2): wants CAP_SYS_BOOT, where that is the container's own
    tmpfs: dict[str, str] = field(default_factory=dict)


_RUN = {"/run": "755", "/run/lock": "1777"}


def _systemd() -> Init:
    return Init(
        "systemd", ["/sbin/init"], signal=_SIGRTMIN_3, up=["systemctl", "is-system-running"],
        up_matches=r"(running|degraded)$", failing=["systemctl", "--failed", "--no-legend", "--plain", "--no-pager"],
        tmpfs=_RUN,
    )  # fmt: skip


def _sysvinit() -> Init:
    return Init(
        "sysvinit", ["/sbin/init"], shutdown=["/sbin/telinit", "0"], up=["/sbin/runlevel"],
        up_matches=r"\S+ [2-5]$", tmpfs={"/run": "755"},
    )  # fmt: skip


def _upstart() -> Init:
    return Init(
        "upstart", ["/sbin/init"], shutdown=["/sbin/telinit", "0"], up=["/sbin/runlevel"], up_matches=r"\S+ [2-5]$"
    )


def _openrc() -> Init:
    return Init(
        "openrc", ["/sbin/init"], shutdown=["/sbin/telinit", "0"],
        up=["rc-status", "--runlevel"], up_matches=r"(default|[2-5])$",
        failing=["rc-status", "--crashed"], tmpfs={"/run": "755"},
    )  # fmt: skip


def _busybox() -> Init:
    return Init("busybox", ["/sbin/init"], signal=_SIGUSR2)


def _tini() -> Init:
    return Init("tini", [], signal=_SIGTERM, boots=False)


def _none() -> Init:
    return Init("none", [], signal=_SIGTERM, boots=False)


KINDS = {
    "systemd": _systemd, "sysvinit": _sysvinit, "upstart": _upstart, "openrc": _openrc, "busybox": _busybox,
    "tini": _tini, "none": _none,
}  # fmt: skip


def detect(guest: Guest) -> str:
    """The kind of a machine's init: "none" where it has none."""
    real = guest.real("/sbin/init")
    name = real.rpartition("/")[2]
    if name == "systemd" or (not real and any(guest.exists(path) for path in _SYSTEMD)):
        return "systemd"
    if name == "busybox":
        return "busybox"
    calls = guest.text("/etc/inittab") + guest.text("/etc/init.d/rc")
    if name == "openrc-init" or (guest.exists("/sbin/openrc") and "openrc" in calls):
        return "openrc"
    if real and guest.exists("/sbin/initctl") and any(name.endswith(".conf") for name in guest.names("/etc/init")):
        return "upstart"
    if real and (guest.exists("/etc/inittab") or guest.exists("/etc/init.d/rc") or guest.exists("/etc/rc.d/rc")):
        return "sysvinit"
    return "none"


def of(kind: str, guest: Guest) -> Init:
    """The init that is chosen, or found ("auto"). Raises UsageError, JoeyError where it is not there."""
    found = detect(guest) if kind == "auto" else kind
    if found not in KINDS:
        raise UsageError(f'--init: unknown "{kind}"', "auto, " + ", ".join(KINDS))
    made = KINDS[found]()
    if made.argv and not guest.exists(made.argv[0]):
        other = next((path for path in _SYSTEMD if found == "systemd" and guest.exists(path)), "")
        if not other:
            raise JoeyError(f"{found}: the image has no {made.argv[0]}", "--init none runs a program without an init")
        made.argv = [other]
    if found == "openrc" and guest.real("/sbin/init").endswith("openrc-init"):
        made.shutdown = ["/sbin/openrc-shutdown", "--poweroff", "now"]
    if found == "tini":
        path = next((path for path in ("/usr/bin/tini", "/sbin/tini", "/bin/tini") if guest.exists(path)), "")
        if not path:
            raise JoeyError("tini: the image has none", "--init none, or an image with tini in /usr/bin")
        made.argv = [path, "--"]
    return made


def systemd_version(guest: Guest) -> int:
    """The version of a machine's systemd, by the name of its shared library; 0 where that is not told (before 230)."""
    folders = ("/lib/systemd", "/usr/lib/systemd", "/usr/lib/x86_64-linux-gnu/systemd", "/usr/lib64/systemd")
    return systemd.version_of(name for folder in folders for name in guest.names(folder))


def wants_cgroup_v1(guest: Guest) -> bool:
    """Whether a machine's systemd does not know the unified hierarchy well enough."""
    return (systemd_version(guest) or systemd.OLDEST_NAMED - 1) < _CGROUP_V2_FROM


def check_kernel(init: Init, guest: Guest, release: str = "") -> None:
    """Raise JoeyError where the init can't run here, or on a kernel of its own."""
    if init.kind != "systemd":
        return
    if why := systemd.unfit(systemd_version(guest), release or os.uname().release):
        raise JoeyError(why, "an image with sysvinit, or --init none with the program itself")
    if release:
        return
    with open("/proc/mounts", encoding="utf-8", errors="replace") as file:
        unified = "cgroup2" in {line.split()[2] for line in file if " /sys/fs/cgroup " in line}
    if unified and wants_cgroup_v1(guest):
        raise JoeyError(
            f"systemd {systemd_version(guest) or 'before 230'} needs cgroup v1, and this host has v2 alone",
            "boot the host with systemd.unified_cgroup_hierarchy=0",
        )
