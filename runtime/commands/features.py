"""`joey features`: what joey does on this machine, in the runtime-spec's "features" form (features.md)."""

from __future__ import annotations

import json

from ...compat.constants import CAPABILITIES
from ...compat.mountflags import FLAGS, IDMAP, PROPAGATION, RECURSIVE, TMPCOPYUP
from ...compat.namespaces import NAMESPACES
from ...compat.seccomp.words import ACTIONS, ARCHITECTURES, OPERATORS
from ...compat.seccomp.words import FLAGS as SECCOMP_FLAGS
from ...probes.cache import cached_or_probed
from ...probes.report import KernelReport
from .. import criu
from ..needs import SECCOMP_FLAGS as FLAG_FEATURES
from ..options import Arguments, Command
from ..schema import HOOK_KINDS
from ..state import OCI_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def features(report: KernelReport, checkpoint: bool) -> dict[str, Any]:
    """The document, told from a kernel report: words joey knows, and what of them this kernel can do.

    `checkpoint`: whether CRIU works here.
    """
    works = report.works
    namespaces = [name for name, (_, file) in NAMESPACES.items() if _namespace_works(report, file)]
    filters = works("seccomp.filter")
    hints = [name for name, feature in FLAG_FEATURES.items() if works(feature)] if filters else []
    mounts = [*FLAGS, *PROPAGATION, *RECURSIVE, TMPCOPYUP, *(IDMAP if works("mount.idmapped") else ())]
    answer = report.findings["capabilities.sets"].answer if works("capabilities.sets") else ""
    last = int(answer) if answer.isdigit() else len(CAPABILITIES) - 1
    versions = {
        report.findings[name].detail.get("version")
        for name in report.findings
        if name.startswith("cgroup.") and report.works(name)
    }
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOK_KINDS),
        "mountOptions": sorted(mounts),
        "linux": {
            "namespaces": sorted(namespaces),
            "capabilities": list(CAPABILITIES[: last + 1]),
            "cgroup": {
                "v1": 1 in versions,
                "v2": works("cgroup.v2"),
                "systemd": False,
                "systemdUser": False,
                "rdma": works("cgroup.rdma"),
            },
            "seccomp": {
                "enabled": filters,
                "actions": sorted(ACTIONS) if filters else [],
                "operators": sorted(OPERATORS),
                "archs": sorted(ARCHITECTURES),
                "knownFlags": sorted(SECCOMP_FLAGS),
                "supportedFlags": sorted(hints),
            },
            "apparmor": {"enabled": works("lsm.apparmor")},
            "selinux": {"enabled": works("lsm.selinux")},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": works("mount.idmapped")}},
            "netDevices": {"enabled": False},
        },
        "annotations": {
            "io.joey.kernel": report.name,
            "org.opencontainers.runc.checkpoint.enabled": str(checkpoint).lower(),
        },
        "potentiallyUnsafeConfigAnnotations": [],
    }


def _namespace_works(report: KernelReport, file: str) -> bool:
    name = {"user": "userns.clone", "cgroup": "cgroupns.unshare", "time": "timens.unshare"}.get(file)
    return report.works(name or f"{file}ns.clone")


def run(arguments: Arguments) -> int:
    print(json.dumps(features(cached_or_probed(), criu.works()), indent=2))
    return 0


COMMAND = Command(
    "features",
    "print what joey can do on this machine, as the runtime-spec asks",
    run,
    detail="JSON of the runtime-spec's features.md. What the kernel can't do is left out: the probe's report decides.",
)
