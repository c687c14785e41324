"""What clients do with a running container: pause, resume, update, events, features."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ..conftest import Joey, MakeBundle
from .test_life import read_group, wait_for, with_resources

pytestmark = pytest.mark.root


@pytest.fixture
def running(joey: Joey, bundle: MakeBundle) -> str:
    """A running container with a memory, CPU and pids limit."""
    resources = with_resources(
        memory={"limit": 64 << 20, "swap": 128 << 20}, cpu={"quota": 50000, "period": 100000}, pids={"limit": 50}
    )
    name = joey.id()
    joey("run", "-d", "-b", str(bundle("sleep", "100", change=resources)), name)
    return name


def test_pause_and_resume(running: str, joey: Joey) -> None:
    assert "container not paused" in joey("resume", running, check=False).stderr
    joey("pause", running)
    assert joey.state(running)["status"] == "paused"
    done = joey("pause", running, check=False)
    assert (done.returncode, "container not running" in done.stderr) == (1, True)
    done = joey("exec", running, "true", check=False)
    assert (done.returncode, "cannot exec in a paused container" in done.stderr) == (255, True)
    joey("resume", running)
    assert joey.state(running)["status"] == "running"


def test_a_paused_container_can_be_killed_and_deleted(running: str, joey: Joey) -> None:
    joey("pause", running)
    joey("kill", running, "KILL")
    wait_for(lambda: joey.state(running)["status"] == "stopped")
    joey("delete", running)


def test_a_paused_container_can_be_deleted_by_force(running: str, joey: Joey) -> None:
    joey("pause", running)
    joey("delete", "--force", running)


def limits(name: str) -> list[str]:
    return read_group(name, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cpu.cfs_quota_us",
                      "cpu.cfs_period_us", "pids.max")  # fmt: skip


needs_v1_memory = pytest.mark.skipif(
    not Path("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists(), reason="reads v1 files; v2 is in test_cgroup_v2"
)


@needs_v1_memory
def test_update_by_options(running: str, joey: Joey) -> None:
    before = limits(running)
    assert before == [str(64 << 20), str(128 << 20), "50000", "100000", "50"]
    joey("update", "--memory", "256m", "--memory-swap", "512m", "--cpu-quota", "80000", "--pids-limit", "77", running)
    assert limits(running) == [str(256 << 20), str(512 << 20), "80000", "100000", "77"]
    joey("update", "--memory", "32m", "--memory-swap", "32M", running)  # the other order of the two writes
    assert limits(running)[:2] == [str(32 << 20), str(32 << 20)]
    joey("update", "--memory", "-1", running)
    assert int(limits(running)[0]) > 1 << 60


@needs_v1_memory
def test_update_from_stdin_as_containerd_does(running: str, joey: Joey, tmp_path: Path) -> None:
    resources = {"memory": {"limit": 99 << 20}, "pids": {"limit": 12}, "devices": None, "cpu": {"shares": 512}}
    (tmp_path / "r.json").write_text(json.dumps(resources))
    with (tmp_path / "r.json").open() as stdin:
        joey("update", "--resources", "-", running, stdin=stdin)
    assert [limits(running)[0], limits(running)[4]] == [str(99 << 20), "12"]
    assert read_group(running, "cpu.shares") == ["512"]
    joey("update", "--resources", str(tmp_path / "r.json"), running)


@needs_v1_memory
def test_a_refused_update_changes_nothing(running: str, joey: Joey) -> None:
    before = limits(running)
    done = joey("update", "--pids-limit", "99", "--cpuset-cpus", "77-99", "--memory", "32m", running, check=False)
    assert (done.returncode, "linux.resources.cpu.cpus" in done.stderr) == (1, True)
    assert limits(running) == before
    for words in (["--memory", "much"], [], ["--l3-cache-schema", "x"], ["--cpu-quota", "a"]):
        assert joey("update", *words, running, check=False).returncode == 2
    done = joey("update", "--cpu-idle", "7", running, check=False)
    assert (done.returncode, "cpu.idle: 7 is outside 0 to 1" in done.stderr) == (1, True)


@needs_v1_memory
def test_a_limit_below_what_is_used_is_refused_where_asked(running: str, joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"memory": {"limit": 4096, "checkBeforeUpdate": True}}))
    done = joey("update", "-r", str(tmp_path / "r.json"), running, check=False)
    assert (done.returncode, "unable to set memory limit to 4096 (current usage: " in done.stderr) == (1, True)
    assert limits(running)[0] == str(64 << 20)


def test_devices_stay_usable_while_rules_are_updated(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    name = joey.id()
    script = "while :; do echo > /dev/null || { touch /tmp/failed; exit; }; done"
    folder = bundle("sh", "-c", script)
    joey("run", "-d", "-b", str(folder), name)
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
    for count in range(10):
        (tmp_path / "r.json").write_text(json.dumps({"devices": rules if count % 2 else rules[:1]}))
        joey("update", "-r", str(tmp_path / "r.json"), name)
    assert "c 10:229 rw" in (Path("/sys/fs/cgroup/devices/joey") / name / "devices.list").read_text()
    assert not (folder / "rootfs" / "tmp" / "failed").exists()


def test_stats(running: str, joey: Joey) -> None:
    event = json.loads(joey("events", "--stats", running).stdout)
    assert (event["type"], event["id"]) == ("stats", running)
    data = event["data"]
    assert data["memory"]["usage"]["limit"] == 64 << 20
    assert 0 < data["memory"]["usage"]["usage"] < 64 << 20
    assert data["pids"] == {"current": 1, "limit": 50}
    assert data["cpu"]["usage"]["total"] > 0


@needs_v1_memory
def test_events_tell_of_memory_kills(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    name = joey.id()
    change = with_resources(memory={"limit": 16 << 20})
    script = "while [ ! -e /tmp/go ]; do sleep 0.1; done; dd if=/dev/zero of=/dev/null bs=64M count=1; exec sleep 1"
    folder = bundle("sh", "-c", script, change=change)
    joey("run", "-d", "-b", str(folder), name)
    with (
        (tmp_path / "out").open("w") as out,
        subprocess.Popen(joey.command("events", "--interval", "100ms", name), stdout=out) as reader,
    ):
        wait_for(lambda: '"stats"' in (tmp_path / "out").read_text())
        (folder / "rootfs" / "tmp" / "go").touch()
        wait_for(lambda: '"oom"' in (tmp_path / "out").read_text())
        assert reader.wait(timeout=20) == 0  # it ends with the container
    events = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert {"type": "oom", "id": name} in events


def test_events_of_a_stopped_container(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    joey("run", "--keep", "-b", str(bundle("true")), name)
    done = joey("events", "--stats", name, check=False)
    assert (done.returncode, "is not running" in done.stderr) == (1, True)


def test_features_tell_the_truth(joey: Joey) -> None:
    value = json.loads(joey("features").stdout)
    assert (value["ociVersionMin"], value["ociVersionMax"]) == ("1.0.0", "1.2.0")
    report = json.loads(joey("probe", "--json").stdout)["findings"]
    assert ("user" in value["linux"]["namespaces"]) is (report["userns.clone"]["state"] == "works")
    assert value["linux"]["apparmor"]["enabled"] is (report["lsm.apparmor"]["state"] == "works")
    assert {"rbind", "rro", "tmpcopyup", "rslave"} <= set(value["mountOptions"])
    assert value["linux"]["cgroup"]["systemd"] is False
    assert "SCMP_ACT_NOTIFY" in value["linux"]["seccomp"]["actions"]
    assert value["hooks"][0] == "prestart"


def test_the_systemd_driver_is_refused_with_the_way_out(joey: Joey) -> None:
    done = joey("--systemd-cgroup", "list", check=False)
    assert (done.returncode, "cgroupfs" in done.stderr) == (2, True)
    joey("--rootless", "auto", "list")
    assert joey("--rootless=perhaps", "list", check=False).returncode == 2


def test_signal_0_asks_whether_it_lives(running: str, joey: Joey) -> None:
    joey("kill", running, "0")
    joey("kill", running, "9")
    wait_for(lambda: joey.state(running)["status"] == "stopped")
    assert joey("kill", running, "0", check=False).returncode == 1


def test_version_is_a_command_too(joey: Joey) -> None:
    assert joey("version").stdout == joey("--version").stdout
