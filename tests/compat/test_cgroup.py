"""Cgroups: recorded layouts, resources as file writes, and groups of the running kernel."""

from __future__ import annotations

import errno
import os
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from joey.compat import files
from joey.compat.cgroup import device_bpf, device_list, layout
from joey.compat.cgroup.group import Cgroup, Group
from joey.compat.cgroup.settings import Setting, controllers_needed, settings, weight_of_shares
from joey.compat.errors import BundleError, JoeyError

CENTOS6 = """\
21 20 0:3 / /proc rw,relatime - proc proc rw
30 20 0:18 / /cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
31 20 0:19 / /cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
32 20 0:20 / /cgroup/memory rw,relatime - cgroup cgroup rw,memory
"""
CENTOS7 = """\
25 18 0:22 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,release_agent=/usr/lib/x,name=systemd
26 18 0:23 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpuacct,cpu
27 18 0:23 / /somewhere\\040else rw,nosuid - cgroup cgroup rw,cpuacct,cpu
"""


def parsed(text: str, monkeypatch: pytest.MonkeyPatch) -> list[layout.Hierarchy]:
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    return layout.hierarchies(files.mounts(text))


def test_centos_6_hierarchies(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parsed(CENTOS6, monkeypatch)
    assert [(item.mount, item.controllers, item.version) for item in found] == [
        ("/cgroup/cpuset", ("cpuset",), 1),
        ("/cgroup/cpu", ("cpu",), 1),
        ("/cgroup/memory", ("memory",), 1),
    ]


def test_comounted_named_and_repeated_hierarchies(monkeypatch: pytest.MonkeyPatch) -> None:
    found = parsed(CENTOS7, monkeypatch)
    assert [item.name for item in found] == ["systemd", "cpuacct,cpu"]
    assert found[1].mount == "/sys/fs/cgroup/cpu,cpuacct"


def test_mount_tables_are_unescaped() -> None:
    assert files.mounts(CENTOS7)[2].target == "/somewhere else"


def writes(resources: dict[str, Any], version: int, *controllers: str) -> list[tuple[str, str]]:
    return [(item.file, item.value) for item in settings(resources, dict.fromkeys(controllers, version))]


def test_memory_in_both_versions() -> None:
    resources = {"memory": {"limit": 100, "swap": 150, "reservation": 50, "swappiness": 0}}
    assert writes(resources, 1, "memory") == [
        ("memory.limit_in_bytes", "100"),
        ("memory.memsw.limit_in_bytes", "150"),
        ("memory.soft_limit_in_bytes", "50"),
        ("memory.swappiness", "0"),
    ]
    assert writes(resources, 2, "memory") == [("memory.max", "100"), ("memory.swap.max", "50"), ("memory.low", "50")]
    assert ("memory.swap.max", "0") in writes({"memory": {"limit": 100, "swap": 100}}, 2, "memory")  # none, not max
    assert writes({"memory": {"limit": -1, "swap": -1}}, 2, "memory") == [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
    ]


def test_disk_traffic_in_both_versions() -> None:
    device = {"major": 8, "minor": 16}
    block = {
        "throttleReadBpsDevice": [{**device, "rate": 1 << 20}],
        "throttleWriteIOPSDevice": [{**device, "rate": 0}],
    }
    found = {
        version: [(s.file, s.value) for s in settings({"blockIO": block}, {"blkio": version})] for version in (1, 2)
    }
    assert found[1] == [
        ("blkio.throttle.read_bps_device", "8:16 1048576"), ("blkio.throttle.write_iops_device", "8:16 0"),
    ]  # fmt: skip
    assert found[2] == [("io.max", "8:16 rbps=1048576"), ("io.max", "8:16 wiops=max")]


def test_a_refused_change_of_v2_is_taken_back_a_device_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock: a folder in the place of a cgroup, since no v2 with io is here; what is written to it is noted."""
    (tmp_path / "io.max").write_text(
        "8:0 rbps=5 wbps=max riops=max wiops=max\n8:16 rbps=max wbps=7 riops=9 wiops=max\n"
    )
    written: list[str] = []

    def write(path: str, text: str) -> None:
        if path.endswith("/refused"):
            raise OSError(errno.ENODEV, "refused")
        written.append(text)

    monkeypatch.setattr("joey.compat.cgroup.group.files.write_text", write)
    here = [Setting("blkio", "io.max", value, "x") for value in ("8:16 rbps=1", "8:32 wbps=2")]
    with pytest.raises(JoeyError):
        Cgroup([Group(2, ("io",), str(tmp_path))]).update([*here, Setting("blkio", "refused", "1", "y")])
    assert written[2:] == ["8:32 rbps=max wbps=max riops=max wiops=max", "8:16 rbps=max wbps=7 riops=9 wiops=max"]


def test_swap_below_memory_is_refused_by_name() -> None:
    with pytest.raises(BundleError, match="linux.resources.memory.swap"):
        writes({"memory": {"limit": 100, "swap": 50}}, 2, "memory")


def test_cpu_in_both_versions() -> None:
    resources = {"cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"}}
    assert writes(resources, 1, "cpu", "cpuset") == [
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
    ]
    assert writes(resources, 2, "cpu")[:2] == [("cpu.weight", "20"), ("cpu.max", "50000 100000")]


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 39), (262144, 10000), (1, 1), (10**9, 10000)])
def test_weights_are_those_of_runc(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


def test_unified_names_stay_in_the_group() -> None:
    assert writes({"unified": {"memory.high": "1"}}, 2) == [("memory.high", "1")]
    with pytest.raises(BundleError, match="plain file name"):
        writes({"unified": {"../../x": "1"}}, 2)


def test_needed_controllers_name_their_fields() -> None:
    resources = {"cpu": {"cpus": "0"}, "pids": {"limit": 5}, "network": {"classID": 7}}
    assert controllers_needed(resources) == {
        "cpuset": "linux.resources.cpu.cpus",
        "pids": "linux.resources.pids",
        "net_cls": "linux.resources.network.classID",
    }


@pytest.fixture
def group() -> Any:
    made = Cgroup.at(layout.hierarchies(), f"/joey/t{uuid.uuid4().hex[:12]}")
    yield made
    made.kill()
    made.remove()
    assert not [item.path for item in made.groups if os.path.exists(item.path)]


@pytest.mark.root
def test_a_group_is_made_joined_frozen_killed_and_removed(group: Cgroup) -> None:
    group.make()
    with subprocess.Popen(["sleep", "60"]) as process:
        group.join(process.pid)
        assert group.pids() == [process.pid]
        assert group.freeze(True)
        assert group.frozen()
        group.kill()  # thaws first: a frozen process can't die
        assert process.wait(10) == -9


@pytest.mark.root
def test_a_refused_limit_names_field_and_file(group: Cgroup) -> None:
    group.make()
    with pytest.raises(JoeyError, match=r"linux.resources.cpu.cpus: writing 77 to .*cpuset.cpus"):
        group.apply(settings({"cpu": {"cpus": "77"}}, group.versions()))


@pytest.mark.root
def test_state_keeps_what_removal_needs(group: Cgroup) -> None:
    group.make()
    again = Cgroup.from_json(group.as_json(), group.made)
    again.remove()
    assert not [item.path for item in group.groups if os.path.exists(item.path)]


@pytest.mark.root
def test_device_rules_on_v2_by_bpf() -> None:
    """A real program on a real v2 group: /dev/null opens, /dev/zero is denied, the last matching rule wins."""
    unified = next((item for item in layout.hierarchies() if item.version == 2), None)
    if unified is None:
        pytest.skip("no cgroup v2 hierarchy is mounted here")
    group = Cgroup.at([unified], f"/joey/t{uuid.uuid4().hex[:12]}")
    group.make()
    rules: list[dict[str, Any]] = [
        {"allow": False},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rw"},
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
        {"allow": False, "type": "c", "major": 1, "minor": 5, "access": "w"},
    ]
    try:
        device_bpf.attach(group.groups[0].path, device_bpf.program(rules))
        script = "sleep 0.3; for f in /dev/null /dev/zero /dev/full; do (: <$f) 2>/dev/null && echo r $f; (: >$f) 2>/dev/null && echo w $f; done; true"
        with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as process:
            group.join(process.pid)
            assert process.stdout
            assert process.stdout.read().splitlines() == ["r /dev/null", "w /dev/null", "r /dev/zero"]
    finally:
        time.sleep(0.05)
        group.kill()
        group.remove()


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "state.json"
    files.write_atomically(str(target), "one")
    with pytest.raises(OSError, match=r"."):
        files.write_atomically(str(tmp_path / "missing" / "state.json"), "two")
    assert target.read_text() == "one"
    assert list(tmp_path.iterdir()) == [target]


def test_no_size_is_trusted() -> None:
    with pytest.raises(JoeyError, match="larger than"):
        files.read_text("/dev/zero", 1000)


DENY = {"allow": False, "access": "rwm"}
FUSE = {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}
NULL = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}


@pytest.mark.parametrize(
    ("present", "rules", "expected"),
    [
        ("c 1:3 rwm\n", [DENY, NULL], []),
        ("c 1:3 rwm\n", [DENY, NULL, FUSE], [(True, "c 10:229 rw")]),
        ("c 1:3 rwm\nc 10:229 rw\n", [DENY, NULL], [(False, "c 10:229 rw")]),
        ("c 1:3 r\n", [DENY, NULL], [(True, "c 1:3 wm")]),
        ("c 1:3 rwm\n", [{**NULL, "access": "r"}], [(False, "c 1:3 wm")]),
        ("a *:* rwm\n", [{"allow": True, "access": "rwm"}], []),
        ("c 1:3 rwm\n", [{"allow": True, "access": "rwm"}], [(False, "a"), (True, "a")]),
        ("a *:* rwm\n", [NULL], [(False, "a"), (True, "c 1:3 rwm")]),
        ("", [{"allow": True, "access": "m"}], [(True, "b *:* m"), (True, "c *:* m")]),
    ],
)
def test_device_rules_of_a_group_in_use_change_by_their_difference(
    present: str, rules: list[dict[str, Any]], expected: list[tuple[bool, str]]
) -> None:
    assert device_list.changes(present, rules) == expected


def test_processes_of_other_pid_namespaces_count_and_are_never_signalled(tmp_path: Path) -> None:
    """The kernel shows them as 0, and kill(0) would be our own process group."""
    (tmp_path / "cgroup.procs").write_text("0\n0\n7\n")
    (tmp_path / "tasks").write_text("0\n0\n7\n")
    assert Cgroup([Group(1, ("pids",), str(tmp_path))]).pids() == [7]
    (tmp_path / "cgroup.procs").write_text("0\n")
    (tmp_path / "tasks").write_text("0\n")
    cgroup = Cgroup([Group(1, ("pids",), str(tmp_path))])
    assert cgroup.pids() == []
    assert cgroup.in_use()
