"""`joey spec`: a config.json to start from."""

from __future__ import annotations

import json
import os

from ...compat.errors import JoeyError
from ...compat.files import write_atomically
from ..options import Arguments, Command, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
MASKED = ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
          "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"]  # fmt: skip
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def template(rootless: bool = False, uid: int = 0, gid: int = 0) -> dict[str, Any]:
    """runc's template: a shell in `rootfs`, every namespace, few capabilities, masked paths."""
    config: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "joey",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }  # fmt: skip
    if rootless:
        linux = config["linux"]
        linux["namespaces"] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "user")]
        linux["uidMappings"] = [{"containerID": 0, "hostID": uid, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": gid, "size": 1}]
        del linux["resources"]
        kept = []
        for mount in config["mounts"]:
            if mount["destination"] == "/sys/fs/cgroup":
                continue
            if mount["destination"] == "/sys":
                mount.update(type="none", source="/sys", options=["rbind", "nosuid", "noexec", "nodev", "ro"])
            mount["options"] = [word for word in mount.get("options", []) if word != "gid=5"]
            kept.append(mount)
        config["mounts"] = kept
    return config


def run(arguments: Arguments) -> int:
    path = f"{arguments.text('bundle')}/config.json"
    if os.path.exists(path):
        raise JoeyError(f"{path} exists", "move it away first", "exists")
    config = template(arguments.switch("rootless"), os.geteuid(), os.getegid())
    write_atomically(path, json.dumps(config, indent=4) + "\n", 0o644)
    return 0


COMMAND = Command(
    "spec",
    "write a config.json to start from",
    run,
    options=(
        Option("--bundle -b", "DIR", "the folder to write config.json in", default="."),
        Option("--rootless", "", "for a plain user: a user namespace that maps your id to root"),
    ),
    detail="Put a root file system beside it, in `rootfs`, and edit process.args.",
)
