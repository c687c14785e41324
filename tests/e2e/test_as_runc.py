"""What runc does and a client may count on: differences that were found by running both."""

from __future__ import annotations

import json
import os
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
    assert '"status": "stopped"' in (tmp_path / "after").read_text()


def test_device_nodes_of_an_image_are_not_open_where_no_rules_are_given(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("cat", "/dev-kmsg", change=lambda config: config["linux"].pop("resources"))
    os.mknod(folder / "rootfs" / "dev-kmsg", 0o600 | stat.S_IFCHR, os.makedev(1, 11))
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.stdout, "Operation not permitted" in done.stderr) == ("", True), done.stderr


def test_a_tmpfs_where_nothing_was_is_for_everybody(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        for place in ("/fresh", "/there"):
            config["mounts"].append({"destination": place, "type": "tmpfs", "source": "tmpfs"})

    folder = bundle("stat", "-c", "%a", "/fresh", "/there", change=change)
    (folder / "rootfs" / "there").mkdir(mode=0o750)
    assert joey("run", "-b", str(folder), joey.id()).stdout.split() == ["1777", "750"]


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
