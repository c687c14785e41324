"""The report of this boot, kept where only this user can write, and dropped when what it was made under changes."""

from __future__ import annotations

import os
import sys
from binascii import crc32
from fcntl import LOCK_EX, flock

from .. import __version__
from ..compat import files, process
from ..compat.errors import JoeyError, ReportError
from .report import KernelReport, boot_id, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


# of the probes that a report is of: one of another set, by a joey of the same version, does not hold. A test knows it.
CATALOG = "d6caeb7c"


def directory() -> str:
    """Where caches go: /run/joey for root, else $XDG_RUNTIME_DIR/joey or ~/.cache/joey."""
    if not process.serves_plain_user():
        return "/run/joey"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return f"{runtime}/joey"
    return os.path.expanduser("~/.cache/joey")


def path(key: dict[str, str]) -> str:
    """The cache file of this user for a key: mount namespaces with other cgroups have one each."""
    return f"{directory()}/report-{os.geteuid()}-{crc32(repr(key).encode()):08x}.json"


def machine_key() -> dict[str, str]:
    """What a report holds for: boot, kernel, user, seccomp, capabilities, namespace, cgroup mounts, joey, Python."""
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
        "boot": boot_id(),
        "kernel": os.uname().release,
        "uid": str(os.geteuid()),
        "seccomp": f"{status.get('Seccomp', '')}/{status.get('Seccomp_filters', '')}/{status.get('NoNewPrivs', '')}",
        "capabilities": f"{status.get('CapEff', '')}/{status.get('CapBnd', '')}",
        "userns": user_namespace,
        "cgroups": ";".join(cgroups),
        "joey": f"{__version__} {CATALOG}",
        "interpreter": _interpreter(),
    }


def _interpreter() -> str:
    """What runs joey; its sealed copy (compat/sealed.py) counts as what it was copied from."""
    status = os.stat(os.path.realpath(sys.executable))
    return f"{status.st_dev}:{status.st_ino}:{status.st_mtime_ns}"


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
    """The cached report where it still holds, else a new one, which is then cached (if the folder can be written).

    Of many starts at once on a fresh boot one probes; the others wait for its report: probes under load time out.
    """
    key = machine_key()
    file = path(key)
    report = _cached(file, key)
    if report:
        return report
    if probe is None:
        from .run import probe_machine

        probe = probe_machine
    lock = _locked()
    try:
        report = _cached(file, key)
        if report is None:
            report = probe()
            store(report)
        return report
    finally:
        if lock >= 0:
            os.close(lock)


def _cached(file: str, key: dict[str, str]) -> KernelReport | None:
    try:
        if os.stat(file).st_uid == os.geteuid():
            report = load(file)
            if report.key == key:
                return report
    except (OSError, ReportError):
        pass  # no cache, or one of another version
    return None


def _locked() -> int:
    """Hold the right to probe; -1 where the folder can't be written, and nobody waits."""
    try:
        files.make_private_directories(directory())
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(f"{directory()}/probing-{os.geteuid()}.lock", flags, 0o600)
    except OSError:
        return -1
    flock(fd, LOCK_EX)
    return fd


def store(report: KernelReport) -> None:
    """Keep the report for later starts; a folder that can't be written costs speed, nothing else."""
    try:
        files.make_private_directories(directory())
        report.save(path(report.key))
    except (OSError, JoeyError):
        return
