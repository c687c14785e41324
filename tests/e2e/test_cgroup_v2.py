"""Limits on a machine with cgroup v2 alone: a real Debian 12 kernel, booted by QEMU from a root file system in memory.

The initial ramfs as root is a test of its own: pivot_root can't work there, so the plan must fall back.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joey.runtime.commands.spec import template

from .machine import boot, kernel, make_machine, needs_machine

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600), *needs_machine]

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


def test_limits_devices_and_oom_on_cgroup_v2(tmp_path: Path) -> None:
    root = tmp_path / "root"
    config = template()
    config["root"]["readonly"] = False
    config["process"].update(terminal=False, args=["sh", "-c", PROGRAM])
    for names in config["process"]["capabilities"].values():
        names.append("CAP_MKNOD")
    config["linux"]["resources"].update(
        memory={"limit": 32 << 20, "swap": 32 << 20}, pids={"limit": 50},
        cpu={"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
    )  # fmt: skip
    config["linux"]["namespaces"].append({"type": "cgroup"})
    make_machine(root, JOB, config)
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
