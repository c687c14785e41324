"""The report of this boot, kept where only this user can write, and dropped when what it was made under changes."""

from __future__ import annotations

import os

from .. import __version__
from ..compat import files
from ..compat.errors import JoeyError, ReportError
from .report import KernelReport, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def directory() -> str:
    """Where caches go: /run/joey for root, else $XDG_RUNTIME_DIR/joey or ~/.cache/joey."""
    if os.geteuid() == 0:
        return "/run/joey"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return f"{runtime}/joey"
    return os.path.expanduser("~/.cache/joey")


def path() -> str:
    """The cache file of this user."""
    return f"{directory()}/report-{os.geteuid()}.json"


def machine_key() -> dict[str, str]:
    """What a report holds for: boot, kernel, user, seccomp state, capabilities, user namespace, cgroup mounts, joey."""
    status = {}
    for line in files.read_text("/proc/self/status").splitlines():
        name, _, value = line.partition(":")
        if name in ("Seccomp", "Seccomp_filters", "CapEff", "CapBnd", "NoNewPrivs"):
            status[name] = value.strip()
    try:
        user_namespace = os.readlink("/proc/self/ns/user")
    except OSError:
        user_namespace = "none"
    cgroups = [
        f"{mount.target}={','.join(mount.options)}" for mount in files.mounts() if mount.fstype in ("cgroup", "cgroup2")
    ]
    return {
        "boot": files.read_line("/proc/sys/kernel/random/boot_id"),
        "kernel": os.uname().release,
        "uid": str(os.geteuid()),
        "seccomp": f"{status.get('Seccomp', '')}/{status.get('Seccomp_filters', '')}/{status.get('NoNewPrivs', '')}",
        "capabilities": f"{status.get('CapEff', '')}/{status.get('CapBnd', '')}",
        "userns": user_namespace,
        "cgroups": ";".join(cgroups),
        "joey": __version__,
    }


def machine_traits() -> dict[str, str]:
    """Names of the machine for people: release, version, architecture, distribution."""
    uname = os.uname()
    distribution = ""
    try:
        for line in files.read_text("/etc/os-release").splitlines():
            if line.startswith("PRETTY_NAME="):
                distribution = line.partition("=")[2].strip('"')
    except OSError:
        distribution = files.read_line("/etc/redhat-release") or files.read_line("/etc/debian_version")
    return {
        "release": uname.release,
        "version": uname.version,
        "machine": uname.machine,
        "distribution": distribution,
        "host": uname.nodename,
    }


def cached_or_probed(probe: Callable[[], KernelReport] | None = None) -> KernelReport:
    """The cached report where it still holds, else a new one, which is then cached (if the folder can be written)."""
    file = path()
    try:
        if os.stat(file).st_uid == os.geteuid():
            report = load(file)
            if report.key == machine_key():
                return report
    except (OSError, ReportError):
        pass  # no cache, or one of another version: probe again
    if probe is None:
        from .run import probe_machine

        probe = probe_machine
    report = probe()
    store(report)
    return report


def store(report: KernelReport) -> None:
    """Keep the report for later starts; a folder that can't be written costs speed, nothing else."""
    try:
        os.makedirs(directory(), mode=0o700, exist_ok=True)
        report.save(path())
    except (OSError, JoeyError):
        return
