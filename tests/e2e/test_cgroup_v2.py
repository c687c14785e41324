"""Limits on a machine with cgroup v2 alone: a real Debian 12 kernel, booted by QEMU from a root file system in memory.

The initial ramfs as root is a test of its own: pivot_root can't work there, so the plan must fall back.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

TOP = Path(__file__).parent.parent.parent
PYTHON = Path("/usr/bin/python3.11")
STDLIB_LEFT_OUT = ("test", "idlelib", "lib2to3", "ensurepip", "distutils", "dist-packages", "pydoc_data", "__pycache__")

INIT = """#!/bin/sh
export PATH=/bin:/usr/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /dev/pts /dev/shm
mount -t devpts p /dev/pts; mount -t tmpfs t /run; mount -t tmpfs t /tmp; mount -t cgroup2 c /sys/fs/cgroup
joey() { PYTHONPATH=/joey python3 -S -P -m joey "$@"; }
( . /job ) > /output 2>&1
echo BEGIN-OUTPUT; cat /output; echo END-OUTPUT
poweroff -f
"""
JOB = """
echo "plan $(joey plan -b /bundle --json)"
joey run -b /bundle one; echo "status $?"
joey run -d -b /bundle two < /dev/null > /dev/null 2>&1
joey delete --force two; echo "deleted $?"
echo "left $(ls -d /sys/fs/cgroup/joey 2>/dev/null)"
echo "handed down $(cat /sys/fs/cgroup/cgroup.subtree_control)"
"""
PROGRAM = """
echo "cgroup $(cat /proc/self/cgroup)"; cd /sys/fs/cgroup
for f in memory.max memory.swap.max pids.max cpu.max cpu.weight cpuset.cpus; do echo "$f $(cat $f)"; done
mknod /tmp/zero c 1 5; mknod /tmp/kmsg c 1 11
head -c 2 /tmp/zero | wc -c; head -c 2 /tmp/kmsg 2>&1
tail -c 80m /dev/zero > /dev/null; echo "tail $?"; exit 9
"""


def busybox_tree(root: Path) -> None:
    """Static busybox with a link for every applet."""
    for name in ("bin", "dev", "proc", "sys", "tmp", "run", "usr/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")


def python_tree(root: Path) -> None:
    """Debian's Python with the libraries it and its extension modules need."""
    shutil.copy(PYTHON, root / "usr" / "bin" / "python3")
    shutil.copytree(
        "/usr/lib/python3.11", root / "usr" / "lib" / "python3.11", symlinks=True,
        ignore=lambda folder, names: [name for name in names if name in STDLIB_LEFT_OUT or name.startswith("config-")],
    )  # fmt: skip
    extensions = Path("/usr/lib/python3.11/lib-dynload").glob("_ctypes*.so")
    text = subprocess.run(
        ["ldd", str(PYTHON), *map(str, extensions)], capture_output=True, text=True, check=True
    ).stdout
    for line in text.splitlines():
        words = line.split()
        path = words[2] if "=>" in words else words[0]
        if path.startswith("/") and not path.endswith(":"):
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def kernel(folder: Path) -> Path:
    """$JOEY_TEST_KERNEL, or Debian's cloud kernel from its package."""
    if given := os.environ.get("JOEY_TEST_KERNEL"):
        return Path(given)
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=True
    )
    package = next(line.split()[1] for line in depends.stdout.splitlines() if "Depends: linux-image" in line)
    subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, capture_output=True, check=True)
    archive = next(folder.glob("linux-image-*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "kernel")], check=True)
    return next((folder / "kernel" / "boot").glob("vmlinuz-*"))


def boot(image: Path, root: Path, archive: Path) -> list[str]:
    """Run the job in `root`/job on a kernel; what it printed. Kernel messages in between are dropped."""
    names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    with archive.open("wb") as output:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names, stdout=output, check=True)
    command = ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-cpu", "qemu64", "-m", "1024", "-nographic",
               "-no-reboot", "-kernel", str(image), "-initrd", str(archive), "-append", "console=ttyS0 panic=-1 quiet"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=400, stdin=subprocess.DEVNULL, check=False)
    lines = done.stdout.decode("utf-8", "replace").replace("\r", "").splitlines()
    assert "END-OUTPUT" in lines, lines[-40:]
    return [
        line for line in lines[lines.index("BEGIN-OUTPUT") + 1 : lines.index("END-OUTPUT")] if not line.startswith("[ ")
    ]


@pytest.mark.skipif(
    not PYTHON.exists(), reason="needs Debian's Python 3.11 at /usr/bin/python3.11, to put in the machine"
)
@pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64 (tools/test installs it)"
)
def test_limits_devices_and_oom_on_cgroup_v2(tmp_path: Path) -> None:
    root = tmp_path / "root"
    busybox_tree(root)
    python_tree(root)
    shutil.copytree(TOP / "src" / "joey", root / "joey" / "joey", ignore=shutil.ignore_patterns("__pycache__"))
    busybox_tree(root / "bundle" / "rootfs")
    joey = str(Path(sys.executable).parent / "joey")
    subprocess.run([joey, "spec", "--bundle", str(root / "bundle")], check=True)
    path = root / "bundle" / "config.json"
    config = json.loads(path.read_text())
    config["root"]["readonly"] = False
    config["process"].update(terminal=False, args=["sh", "-c", PROGRAM])
    for names in config["process"]["capabilities"].values():
        names.append("CAP_MKNOD")
    config["linux"]["resources"].update(
        memory={"limit": 32 << 20, "swap": 32 << 20}, pids={"limit": 50},
        cpu={"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
    )  # fmt: skip
    config["linux"]["namespaces"].append({"type": "cgroup"})
    path.write_text(json.dumps(config))
    for name, text in (("init", INIT), ("job", JOB)):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    lines = boot(kernel(tmp_path), root, tmp_path / "root.cpio")
    made = json.loads(lines[0].removeprefix("plan "))
    chosen = {item["feature"]: item["mechanism"] for item in made["features"]}
    assert chosen["root-change"] == "move-and-chroot"
    assert {chosen[name] for name in ("cgroup.memory", "cgroup.pids", "cgroup.cpu", "cgroup.cpuset")} == {"v2"}
    assert chosen["device-rules"] == "bpf"
    wanted = [
        "cgroup 0::/", "memory.max 33554432", "memory.swap.max 0", "pids.max 50", "cpu.max 50000 100000", "cpu.weight 20",
        "cpuset.cpus 0", "2", "head: /tmp/kmsg: Operation not permitted", "tail 137", "status 9", "deleted 0", "left ",
    ]  # fmt: skip
    assert [line for line in wanted if line not in lines] == [], "\n".join(lines)
