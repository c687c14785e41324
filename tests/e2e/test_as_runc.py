"""What runc does and a client may count on: differences that were found by running both."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from joey.compat.procfs import sysctl_path

from ..conftest import Joey, MakeBundle
from .test_life import run_in_terminal, terminal

pytestmark = pytest.mark.root


def test_a_created_container_can_be_paused_and_resumed(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    joey("create", "-b", str(bundle("sleep", "100")), name)
    done = joey("pause", name, check=False)
    if "no freezer" in done.stderr:
        pytest.skip("no freezer here")
    assert joey.state(name)["status"] == "paused"
    assert "cannot start a container that is paused" in joey("start", name, check=False).stderr
    assert "paused" in joey("exec", name, "true", check=False).stderr
    joey("resume", name)
    assert joey.state(name)["status"] == "created"
    joey("start", name)
    assert joey.state(name)["status"] == "running"


@pytest.mark.parametrize("why", ["hook", "program", "mount"])
def test_poststop_hooks_run_when_a_start_fails(why: str, joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    """What createRuntime set up (a network) is theirs to take down."""

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {tmp_path}/after"]}]}
        if why == "hook":
            config["hooks"]["createRuntime"] = [{"path": "/bin/false"}]
        if why == "mount":
            config["mounts"].append({"destination": "/x", "type": "bind", "source": "/not/there", "options": ["bind"]})

    folder = bundle("nothing" if why == "program" else "true", change=change)
    assert joey("run", "-b", str(folder), joey.id(), check=False).returncode == 1
    assert json.loads((tmp_path / "after").read_text())["status"] == "stopped"


def test_device_nodes_of_an_image_are_not_open_where_no_rules_are_given(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("cat", "/dev-kmsg", change=lambda config: config["linux"].pop("resources"))
    os.mknod(folder / "rootfs" / "dev-kmsg", 0o600 | stat.S_IFCHR, os.makedev(1, 11))
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.stdout, "Operation not permitted" in done.stderr) == ("", True), done.stderr


def test_a_tmpfs_where_nothing_was_is_for_everybody(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        for place in ("/fresh", "/there", "/filled", "/full"):
            options = ["tmpcopyup"] if place[1] == "f" and place != "/fresh" else []
            config["mounts"].append({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})

    folder = bundle("stat", "-c", "%a", "/fresh", "/there", "/filled", "/full", change=change)
    for name in ("there", "full"):
        (folder / "rootfs" / name).mkdir(mode=0o750)
    assert joey("run", "-b", str(folder), joey.id()).stdout.split() == ["1777", "750", "1777", "750"]


def test_the_callers_files_stay_the_callers(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    folder = bundle("true", change=lambda config: config["process"]["user"].update(uid=1000, gid=1000))
    with secret.open() as stream:
        joey("run", "-b", str(folder), joey.id(), stdin=stream)
    assert secret.stat().st_uid == os.geteuid()


def test_a_weight_for_disks(joey: Joey, bundle: MakeBundle) -> None:
    report = json.loads(joey("probe", "--json", "--only", "cgroups").stdout)["findings"]
    controller, knob = report["cgroup.blkio"], report["cgroup.blkio.weight"]
    if knob["state"] != "works" or controller["detail"]["version"] != 1:
        pytest.skip(f"no v1 disk weights here: {knob['answer']}")
    name = joey.id()
    folder = bundle("sleep", "100", change=lambda config: config["linux"]["resources"].update(blockIO={"weight": 300}))
    joey("run", "--detach", "-b", str(folder), name)
    group = Path(controller["detail"]["mount"], "joey", name)
    assert (group / knob["answer"]).read_text().split()[-1] == "300"


def test_exec_as_a_user_keeps_the_containers_groups(joey: Joey, bundle: MakeBundle) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": [5]}
    name = joey.id()
    folder = bundle("sleep", "100", change=lambda config: config["process"]["user"].update(user))
    joey("run", "--detach", "-b", str(folder), name)
    ids = ("sh", "-c", "id -u; id -g; id -G")
    assert joey("exec", "--user", "1001", name, *ids).stdout.split("\n")[:3] == ["1001", "1000", "1000 5"]
    assert joey("exec", "--user", "1001:1002", name, *ids).stdout.split("\n")[:3] == ["1001", "1002", "1002 5"]
    assert joey("exec", "-g", "7", "-g", "8", name, *ids).stdout.split("\n")[:3] == ["1000", "1000", "1000 5 7 8"]


@pytest.mark.parametrize("name", ["net/ipv4/ip_forward", "net.ipv4.ip_forward"])
def test_sysctls_in_both_spellings(name: str, joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle(
        "cat", "/proc/sys/net/ipv4/ip_forward", change=lambda config: config["linux"].update(sysctl={name: "1"})
    )
    assert joey("run", "-b", str(folder), joey.id()).stdout == "1\n"


@pytest.mark.parametrize(("name", "path"), [
    ("net.ipv4.conf.eth0/1.mtu", "net/ipv4/conf/eth0.1/mtu"), ("net/ipv4/conf/eth0.1/mtu", "net/ipv4/conf/eth0.1/mtu"),
    ("net.ipv4.conf.//.x", ""), ("net/../kernel/x", ""), ("net..x", ""), (".net", ""), ("/net", ""), ("net/", ""),
])  # fmt: skip
def test_sysctl_names(name: str, path: str) -> None:
    assert sysctl_path(name) == path


def test_an_update_of_nothing_is_no_error(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    joey("run", "--detach", "-b", str(bundle("sleep", "100")), name)
    done = subprocess.run(joey.command("update", "-r", "-", name), input="{}", text=True, check=False)
    assert done.returncode == 0


def test_a_created_container_ends_by_sigterm(joey: Joey, bundle: MakeBundle) -> None:
    """Its process is the first of a pid namespace, where the default action does nothing."""
    name = joey.id()
    joey("create", "-b", str(bundle("sleep", "100")), name)
    joey("kill", name, "TERM")
    end = time.monotonic() + 10
    while joey.state(name)["status"] != "stopped":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "container not running" in joey("kill", name, "TERM", check=False).stderr
    assert joey("kill", "--all", name, "TERM").returncode == 0


def test_a_background_job_with_a_terminal_is_stopped_not_killed(joey: Joey, bundle: MakeBundle) -> None:
    words = " ".join(joey.command("run", "-b", str(bundle("echo", "hello", change=terminal)), joey.id()))
    text, _ = run_in_terminal(["/bin/bash", "-mc", f"{words} & sleep 1.5; jobs; fg"])
    assert "Traceback" not in text
    assert "hello" in text


def test_root_has_ambient_capabilities_too(joey: Joey, bundle: MakeBundle) -> None:
    names = ["CAP_CHOWN", "CAP_KILL"]

    def change(config: dict[str, Any]) -> None:
        config["process"]["capabilities"] = dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable", "ambient"), names
        )

    out = joey("run", "-b", str(bundle("cat", "/proc/self/status", change=change)), joey.id()).stdout
    sets = dict(line.split(":\t") for line in out.splitlines() if line.startswith("Cap"))
    assert int(sets["CapEff"], 16) == 0x21
    assert int(sets.get("CapAmb", "21"), 16) == 0x21, "before Linux 4.3 there are none"


def test_a_mount_at_the_place_of_a_device_stays(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine\n")

    def change(config: dict[str, Any]) -> None:
        for place, source in (("/dev/random", "/dev/zero"), ("//dev/full", str(tmp_path / "file"))):
            config["mounts"].append({"destination": place, "type": "bind", "source": source, "options": ["bind"]})

        # as of a privileged container, which lists the host's
        config["linux"]["devices"] = [{"path": "/dev/random", "type": "c", "major": 1, "minor": 8}]

    folder = bundle("sh", "-c", "head -c 1 /dev/random | od -An -tx1; cat /dev/full", change=change)
    assert joey("run", "-b", str(folder), joey.id()).stdout.split() == ["00", "mine"]

    def without_dev(config: dict[str, Any]) -> None:
        config["mounts"] = [entry for entry in config["mounts"] if not entry["destination"].startswith("/dev")]

    folder = bundle("cat", "/dev/null", change=without_dev)
    (folder / "rootfs/dev").mkdir(exist_ok=True)
    (folder / "rootfs/dev/null").write_text("the image's\n")
    assert joey("run", "-b", str(folder), joey.id()).stdout == "the image's\n"


@pytest.mark.parametrize("place", ["/dev", "//dev", "dev"])
def test_a_bound_dev_is_the_hosts_and_stays_as_it_is(
    place: str, joey: Joey, bundle: MakeBundle, tmp_path: Path
) -> None:
    mine = tmp_path / "dev"
    mine.mkdir()
    (mine / "ptmx").write_text("")

    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [entry for entry in config["mounts"] if not entry["destination"].startswith("/dev")]
        config["mounts"].append({"destination": place, "type": "bind", "source": str(mine), "options": ["rbind"]})

    joey("run", "-b", str(bundle("true", change=change)), joey.id())
    assert [(path.name, path.is_file()) for path in mine.iterdir()] == [("ptmx", True)]


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_standard_stream_that_is_closed(stream: int, joey: Joey, bundle: MakeBundle) -> None:
    """Its number is not given to a file of joey's, which the container would have open."""
    name = joey.id()
    words = " ".join(joey.command("create", "-b", str(bundle("sh", "-c", "exit 7")), name))
    streams = " ".join(f"{number}{'>&-' if number == stream else '>/dev/null'}" for number in range(3))
    subprocess.run(f"{words} {streams}", shell=True, check=True)
    pid = joey.state(name)["pid"]
    assert os.readlink(f"/proc/{pid}/fd/{stream}") == "/dev/null"
    words = " ".join(joey.command("run", "-b", str(bundle("sh", "-c", "exit 7")), joey.id()))
    assert subprocess.run(f"{words} {streams}", shell=True, check=False).returncode == 7


def test_exec_of_a_process_inherits_what_it_leaves_out(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["oomScoreAdj"] = 77
        config["process"]["capabilities"] = {kind: ["CAP_CHOWN"] for kind in ("bounding", "effective", "permitted")}
        config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}]

    name = joey.id()
    joey("run", "--detach", "-b", str(bundle("sleep", "100", change=change)), name)
    script = "cat /proc/self/oom_score_adj; ulimit -n; grep CapEff /proc/self/status"
    process: dict[str, Any] = {"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"]}
    (tmp_path / "process").write_text(json.dumps(process))
    out = joey("exec", "--process", str(tmp_path / "process"), name).stdout.split()
    assert (*out[:3], int(out[3], 16)) == ("77", "99", "CapEff:", 1)
    process["capabilities"] = {}
    (tmp_path / "process").write_text(json.dumps(process))
    assert int(joey("exec", "--process", str(tmp_path / "process"), name).stdout.split()[3], 16) == 0
    for words in (("--user", "name", name, "true"), (name,), ("--cgroup", "../x", name, "true")):
        assert joey("exec", *words, check=False).returncode == 255, "not a status of the program's own"


def test_a_frozen_group_is_not_joined(joey: Joey, bundle: MakeBundle) -> None:
    report = json.loads(joey("probe", "--json", "--only", "cgroups").stdout)["findings"]["cgroup.freezer"]
    if report["state"] != "works" or report["detail"]["version"] != 1:
        pytest.skip(f"no v1 freezer here: {report['answer']}")
    name = joey.id()
    group = Path(report["detail"]["mount"], f"f{name}")
    group.mkdir()
    try:
        (group / "freezer.state").write_text("FROZEN")
        for path in (f"/f{name}", f"/f{name}/below"):
            folder = bundle("true", change=lambda config, path=path: config["linux"].update(cgroupsPath=path))
            done = joey("run", "-b", str(folder), joey.id(), check=False, timeout=20)
            assert (done.returncode, "cgroup unexpectedly frozen" in done.stderr) == (1, True), done.stderr
    finally:
        (group / "freezer.state").write_text("THAWED")
        group.rmdir()


def test_what_cannot_be_granted_is_warned_of(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["capabilities"] = {"bounding": ["CAP_KILL"], "permitted": [], "effective": ["CAP_KILL"]}

    done = joey("run", "-b", str(bundle("true", change=change)), joey.id())
    assert "process.capabilities.effective: not permitted, so not there: CAP_KILL" in done.stderr
    words = joey.command("run", "-b", str(bundle("true")), joey.id())
    command = ["setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "joey has not got them to give: CAP_KILL" in done.stderr


def test_what_lists_print(joey: Joey, bundle: MakeBundle) -> None:
    assert joey("list", "--format", "json").stdout == "null\n"
    name = joey.id()
    joey("run", "--detach", "-b", str(bundle("sh", "-c", "sleep 100; true", "\x1b]0;evil\x07\nline")), name)
    keys = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"]
    assert [key for key in joey.state(name) if key != "annotations"] == keys
    assert joey("list", "--format", "json").stdout.startswith('[{"ociVersion":"1.2.0","id":"')
    table = joey("ps", name).stdout
    head, first, *_ = table.splitlines()
    assert head.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert "\x1b" not in table
    assert r"\x1b]0;evil\x07\nline" in first
    assert "cannot start an already running container" in joey("start", name, check=False).stderr
    stats = json.loads(joey("events", "--stats", name).stdout)["data"]
    if "cpus" in stats["cpuset"]:
        assert stats["cpuset"]["cpus"]
        assert all(isinstance(number, int) for number in stats["cpuset"]["cpus"])
    joey("kill", name, "KILL")
    until = time.monotonic() + 10
    while joey.state(name)["status"] != "stopped" and time.monotonic() < until:
        time.sleep(0.02)
    assert "container not running" in joey("update", "--memory", "1g", name, check=False).stderr
    assert joey("ps", "--format", "json", name).stdout == "null\n"


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ("ro", "ro"), ("nosuid", "nosuid"), ("nodev", "nodev"), ("noexec", "noexec"), ("sync", "sync"),
        ("dirsync", "dirsync"), ("noatime", "noatime"), ("nodiratime", "nodiratime"), ("relatime", "relatime"),
        ("strictatime", "-relatime"), ("lazytime", "lazytime"), ("nosymfollow", "nosymfollow"),
    ],
)  # fmt: skip
def test_options_of_a_mount(option: str, shown: str, joey: Joey, bundle: MakeBundle) -> None:
    if option == "nosymfollow":
        report = json.loads(joey("probe", "--json", "--only", "mounts").stdout)["findings"]
        if report["mount.nosymfollow"]["state"] != "works":
            pytest.skip("Linux before 5.10 has no nosymfollow")
    entry = {"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": [option]}
    folder = bundle("grep", " /x ", "/proc/mounts", change=lambda config: config["mounts"].append(entry))
    options = joey("run", "-b", str(folder), joey.id()).stdout.split()[3].split(",")
    assert (shown.lstrip("-") in options) == (not shown.startswith("-")), options


@pytest.mark.parametrize("where", ["mount", "rootfs"])
@pytest.mark.parametrize(
    ("word", "pattern"),
    [("private", "^$"), ("slave", "^(master:[0-9]+)?$"), ("shared", "shared:"), ("unbindable", "unbindable"),
     ("rprivate", "^$"), ("rslave", "^(master:[0-9]+)?$"), ("rshared", "shared:")],
)  # fmt: skip
def test_propagation(word: str, pattern: str, where: str, joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        if where == "rootfs":
            config["linux"]["rootfsPropagation"] = word
        else:
            entry = {"destination": "/x", "type": "bind", "source": str(tmp_path), "options": ["bind", word]}
            config["mounts"].append(entry)

    place = "/" if where == "rootfs" else "/x"
    folder = bundle("cat", "/proc/self/mountinfo", change=change)
    rows = [line.split() for line in joey("run", "-b", str(folder), joey.id()).stdout.splitlines()]
    (row,) = [row for row in rows if row[4] == place]
    assert re.search(pattern, " ".join(row[6 : row.index("-")])), row


@pytest.mark.parametrize(
    ("action", "status", "said"),
    [
        ("SCMP_ACT_LOG", 0, ""), ("SCMP_ACT_TRACE", 1, "Function not implemented"), ("SCMP_ACT_ERRNO", 1, "Operation not permitted"),
        ("SCMP_ACT_KILL_PROCESS", 128 + 31, ""), ("SCMP_ACT_TRAP", 128 + 31, ""),
    ],
)  # fmt: skip
def test_actions_of_a_profile(action: str, status: int, said: str, joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}],
        }

    done = joey("run", "-b", str(bundle("mkdir", "/made", change=change)), joey.id(), check=False)
    assert done.returncode == status, done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    ("resources", "file", "value"),
    [
        ({"cpu": {"idle": 1}}, "cpu.idle", "1"),
        ({"cpu": {"quota": 50000, "period": 100000, "burst": 20000}}, "cpu.cfs_burst_us", "20000"),
        ({"memory": {"swappiness": 7}}, "memory.swappiness", "7"),
        ({"memory": {"kernelTCP": 1 << 20}}, "memory.kmem.tcp.limit_in_bytes", str(1 << 20)),
        ({"memory": {"disableOOMKiller": True}}, "memory.oom_control", "oom_kill_disable 1"),
        ({"memory": {"limit": 64 << 20, "reservation": 32 << 20}}, "memory.soft_limit_in_bytes", str(32 << 20)),
        ({"network": {"classID": 0x100001}}, "net_cls.classid", str(0x100001)),
        ({"network": {"priorities": [{"name": "lo", "priority": 5}]}}, "net_prio.ifpriomap", "lo 5"),
        ({"blockIO": {"leafWeight": 300}}, "blkio.leaf_weight", "300"),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}, "hugetlb.2MB.[lm]*", str(4 << 20)),
    ],
)
def test_a_limit_is_written_or_refused_by_name(
    resources: dict[str, Any], file: str, value: str, joey: Joey, bundle: MakeBundle
) -> None:
    """Whatever this kernel has of it: nothing is left out without a word."""
    name = joey.id()
    folder = bundle("sleep", "100", change=lambda config: config["linux"].update(resources=resources))
    done = joey("run", "--detach", "-b", str(folder), name, check=False)
    found = list(Path("/sys/fs/cgroup").glob(f"*/joey/{name}/{file}"))
    if done.returncode:
        (section,) = resources
        assert file in done.stderr or f"resources.{section}" in done.stderr, done.stderr
    elif not list(Path("/sys/fs/cgroup").glob(f"*/joey/{name}/tasks")):
        pytest.skip("no v1 groups here")
    else:
        assert any(value in path.read_text() for path in found), found
