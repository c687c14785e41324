"""Jobs on a kernel that answers like 2.6.32: a bare host in QEMU (tools/vm) with nothing but the host kit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"
PACKAGES = ("bash python3 perl git openssl ca-certificates nginx-light openssh-server openssh-client sqlite3 rsync "
            "postgresql procps strace xz-utils nodejs").split()  # fmt: skip
STATIC = {"bullseye": ["busybox-static"], "bookworm": ["busybox-static", "shfmt"]}
FIREWALL = ["iptables"]
SUITES = {"bullseye": "glibc 2.31", "bookworm": "glibc 2.36", "trixie": "glibc 2.41"}
CAPABILITIES = ("CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD "
                "AUDIT_WRITE SETFCAP").split()  # fmt: skip

needs_vm = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64 (tools/test has it)"
    ),
]

# in the machine: a bundle of /rootfs in /b; words of `change` are Python over `c`, its configuration
BUNDLE = """
mkdir -p /b/rootfs; mount --bind {root} /b/rootfs; joey spec --bundle /b
python3 - <<'END'
import json
c = json.load(open("/b/config.json"))
c["process"].update(terminal=False, noNewPrivileges=False, args=json.loads({args!r}))
c["root"]["readonly"] = False
names = ["CAP_" + name for name in {capabilities!r}.split()]
c["process"]["capabilities"] = {{kind: names for kind in ("bounding", "effective", "permitted")}}
c["mounts"].append({{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}})
{change}
json.dump(c, open("/b/config.json", "w"))
END
"""


def debian(suite: str, packages: tuple[str, ...] | list[str] = PACKAGES) -> Path:
    """A Debian root file system with the programs of the test; made once, not to be written to."""
    done = subprocess.run(
        [TOP / "tools" / "debian-root", suite, *packages], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.strip())


def prepare() -> None:
    """Make what takes long before the tests, whose time is limited."""
    for suite in SUITES:
        debian(suite)
    for suite, packages in STATIC.items():
        debian(suite, packages)
    debian("bookworm", FIREWALL)


def bundle(*args: str, change: str = "", root: str = "/rootfs") -> str:
    return BUNDLE.format(args=json.dumps(args), capabilities=" ".join(CAPABILITIES), change=change, root=root)


def boot(tmp_path: Path, job: str, *disks: str, memory: int = 1500, timeout: int = 900) -> tuple[int, str]:
    """Run a job in the machine; its status and output."""
    file = tmp_path / "job"
    file.write_text(job)
    words = [word for disk in disks for word in ("--disk", disk)]
    command: list[Any] = [
        TOP / "tools" / "vm",
        "--memory",
        str(memory),
        "--timeout",
        str(timeout),
        *words,
        "--job",
        file,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, errors="replace", check=False)
    return done.returncode, done.stdout


def blocks(text: str) -> dict[str, str]:
    """The output of programs.sh by program."""
    return {match[1]: match[2] for match in re.finditer(r"(?ms)^== (\S+)\n(.*?)^-- \d+$", text)}


def native(root: Path, tmp_path: Path) -> str:
    """What programs.sh prints on this kernel: in a copy of the root file system, in namespaces of its own."""
    copy = tmp_path / "native"
    subprocess.run(["cp", "-a", root, copy], check=True)
    shutil.copytree(PROGRAMS, copy / "programs")
    script = (
        'ip link set lo up; mount --rbind /dev "$0/dev"; mount -t tmpfs t "$0/tmp"; mount -t proc p "$0/proc"; '
        'exec chroot "$0" bash /programs/programs.sh'
    )
    command: list[str] = ["unshare", "-m", "-p", "-n", "-f", "--mount-proc", "sh", "-c", script, str(copy)]
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env=environment, check=False, stdin=subprocess.DEVNULL
    )
    shutil.rmtree(copy)
    return done.stdout
