"""A container's life: create, start, state, exec, kill, delete; hooks; limits; terminals."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle

pytestmark = pytest.mark.root


def wait_for(condition: Any, seconds: float = 10) -> Any:
    """The condition's first true value; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value


def test_create_start_kill_delete(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["annotations"] = {"org.example": "yes"}

    name = joey.id()
    folder = bundle("sh", "-c", "echo started > /tmp/proof; exec sleep 100", change=change)
    joey("create", "-b", str(folder), "--pid-file", str(tmp_path / "pid"), name)
    state = joey.state(name)
    assert (state["status"], state["annotations"], state["bundle"]) == ("created", {"org.example": "yes"}, str(folder))
    assert state["pid"] == int((tmp_path / "pid").read_text()) > 0
    assert not (folder / "rootfs" / "tmp" / "proof").exists()
    assert "container with given ID already exists" in joey("create", "-b", str(folder), name, check=False).stderr
    joey("start", name)
    wait_for((folder / "rootfs" / "tmp" / "proof").exists)
    assert joey.state(name)["status"] == "running"
    assert "cannot start an already running container" in joey("start", name, check=False).stderr
    done = joey("delete", name, check=False)
    assert (done.returncode, "that is not stopped: running" in done.stderr) == (1, True)
    joey("kill", name, "KILL")
    wait_for(lambda: joey.state(name)["status"] == "stopped")
    assert joey.state(name)["pid"] == 0
    assert "container not running" in joey("kill", name, check=False).stderr
    joey("delete", name)
    done = joey("state", name, check=False)
    assert (done.returncode, "container does not exist" in done.stderr) == (1, True)
    joey("delete", "--force", name)  # gone already: no error


def test_config_changes_after_create_are_not_seen(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    folder = bundle("sh", "-c", "echo original > /tmp/out; sleep 100")
    joey("create", "-b", str(folder), name)
    (folder / "config.json").write_text("{}")
    joey("start", name)
    wait_for((folder / "rootfs" / "tmp" / "out").exists)
    assert joey("exec", name, "echo", "hi").stdout == "hi\n"


def test_a_created_container_can_be_deleted(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    joey("create", "-b", str(bundle("true")), name)
    pid = joey.state(name)["pid"]
    joey("delete", name)
    stat = Path(f"/proc/{pid}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"  # nobody's child any more: init reaps it in its time


def test_list_and_ps(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    joey("run", "-d", "-b", str(bundle("sh", "-c", "sleep 101 & sleep 102; true")), name)
    rows = json.loads(joey("list", "--format", "json").stdout)
    assert [(row["id"], row["status"], row["owner"]) for row in rows] == [(name, "running", "root")]
    assert joey("list", "-q").stdout == f"{name}\n"
    assert name in joey("list").stdout
    wait_for(lambda: len(json.loads(joey("ps", "--format", "json", name).stdout)) == 3)
    table = joey("ps", name).stdout
    assert "sleep 101" in table
    assert "sleep 102" in table
    assert len(joey("ps", name, "-ef").stdout.splitlines()) == 4


def test_exec_needs_a_running_container(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    joey("run", "--keep", "-b", str(bundle("true")), name)
    done = joey("exec", name, "true", check=False)
    assert (done.returncode, "container that is stopped" in done.stderr) == (255, True)


HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def hook(folder: Path, kind: str, script: str = "") -> dict[str, Any]:
    """A hook that notes its kind, the state it was given and its mount namespace; in the container it runs busybox."""
    place = folder / "log" if kind != "startContainer" else Path("/tmp/log")
    shell = "/bin/sh"
    text = f'read -r state || true; echo "{kind} $(readlink /proc/self/ns/mnt) $HOOKENV $state" >> {place}; {script}'
    return {"path": shell, "args": ["sh", "-c", text], "env": [f"HOOKENV=env-{kind}", "PATH=/bin:/usr/bin"]}


def test_hooks_run_in_order_with_the_state_in_their_namespaces(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    name = joey.id()

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {kind: [hook(tmp_path, kind)] for kind in HOOKS}

    folder = bundle("sleep", "100", change=change)
    joey("create", "-b", str(folder), name)
    pid = joey.state(name)["pid"]
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["prestart", "createRuntime", "createContainer"]
    host, container = os.readlink("/proc/self/ns/mnt"), os.readlink(f"/proc/{pid}/ns/mnt")
    assert [line.split()[1] for line in lines] == [host, host, container]
    state = json.loads(lines[0].split(" ", 3)[3])
    assert (state["id"], state["status"], state["pid"], state["bundle"]) == (name, "creating", pid, str(folder))
    assert lines[1].split()[2] == "env-createRuntime"
    joey("start", name)
    inside = (folder / "rootfs" / "tmp" / "log").read_text().split()
    assert inside[:3] == ["startContainer", container, "env-startContainer"]
    joey("kill", name, "KILL")
    wait_for(lambda: joey.state(name)["status"] == "stopped")
    joey("delete", name)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["poststart", "poststop"]
    assert json.loads(lines[4].split(" ", 3)[3])["status"] == "stopped"


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"])
def test_a_failing_hook_ends_the_container_and_is_named(
    kind: str, joey: Joey, bundle: MakeBundle, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {kind: [hook(tmp_path, kind, "echo broken >&2; exit 5")]}

    name = joey.id()
    done = joey("run", "-d", "-b", str(bundle("sleep", "100", change=change)), name, check=False)
    assert done.returncode == 1
    assert f"hooks.{kind}[0] /bin/sh: exit status 5: broken" in done.stderr
    assert "does not exist" in joey("state", name, check=False).stderr


def test_a_hook_that_takes_too_long_is_killed(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}

    started = time.monotonic()
    done = joey("run", "-b", str(bundle("true", change=change)), joey.id(), check=False)
    assert (done.returncode, "after its timeout of 1 s" in done.stderr) == (1, True)
    assert time.monotonic() - started < 15


def test_a_failing_poststop_hook_is_a_warning(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"poststop": [hook(tmp_path, "poststop", "exit 5"), hook(tmp_path, "poststop")]}

    done = joey("run", "-b", str(bundle("true", change=change)), joey.id())
    assert "warning: hooks.poststop[0] /bin/sh: exit status 5" in done.stderr
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def with_resources(**resources: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["resources"].update(resources)

    return change


def read_group(name: str, *files: str) -> list[str]:
    """A limit of a container as the kernel has it, from whichever hierarchy carries it."""
    groups = [Path(place) for place, _, _ in os.walk("/sys/fs/cgroup") if place.endswith(f"/joey/{name}")]
    return [(group / file).read_text().strip() for file in files for group in groups if (group / file).exists()]


def test_limits_are_in_the_kernel(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    change = with_resources(
        memory={"limit": 64 << 20, "reservation": 32 << 20}, pids={"limit": 17},
        cpu={"shares": 512, "quota": 50000, "period": 100000, "cpus": "0", "mems": "0"},
    )  # fmt: skip
    joey("run", "-d", "-b", str(bundle("sleep", "100", change=change)), name)
    assert read_group(name, "memory.limit_in_bytes", "memory.max") == [str(64 << 20)]
    assert read_group(name, "pids.max") == ["17"]
    assert read_group(name, "cpu.shares", "cpu.weight") in (["512"], ["20"])
    assert read_group(name, "cpu.cfs_quota_us", "cpu.max") in (["50000"], ["50000 100000"])
    assert read_group(name, "cpuset.cpus") == ["0"]
    assert joey("exec", name, "nproc").stdout == "1\n"


def test_the_memory_limit_kills(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle(
        "sh",
        "-c",
        "tail -c 80m /dev/zero; echo $?",
        change=with_resources(memory={"limit": 16 << 20, "swap": 16 << 20}),
    )
    assert joey("run", "-b", str(folder), joey.id()).stdout.strip() == "137"


def test_the_pids_limit_holds(joey: Joey, bundle: MakeBundle) -> None:
    script = "i=0; while [ $i -lt 30 ]; do sleep 5 & i=$((i+1)); done; echo all"
    done = joey(
        "run", "-b", str(bundle("sh", "-c", script, change=with_resources(pids={"limit": 10}))), joey.id(), check=False
    )
    assert "all" not in done.stdout
    assert "can't fork" in done.stderr


def test_device_rules_hold(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        sets = config["process"]["capabilities"]
        for names in sets.values():
            names.append("CAP_MKNOD")
        config["linux"]["resources"]["devices"].append(
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
        )

    script = "mknod /tmp/kmsg c 1 11; mknod /tmp/fuse c 10 229; (: < /tmp/kmsg) 2>&1; (: < /tmp/fuse) && echo fuse; echo x > /dev/null && echo null"
    out = joey("run", "-b", str(bundle("sh", "-c", script, change=change)), joey.id()).stdout
    assert "Operation not permitted" in out
    assert out.split()[-2:] == ["fuse", "null"]


def test_a_limit_the_kernel_refuses_names_its_field_and_leaves_nothing(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("true", change=with_resources(cpu={"cpus": "999", "mems": "0"}))
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert done.returncode == 1
    assert "linux.resources.cpu.cpus: writing 999" in done.stderr
    assert not list(joey.root.iterdir())


def test_a_cgroups_path_is_followed(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()

    def change(config: dict[str, Any]) -> None:
        config["linux"]["cgroupsPath"] = f"/joey-test/{name}/deep"

    out = joey("run", "-b", str(bundle("cat", "/proc/self/cgroup", change=change)), name).stdout
    assert f":/joey-test/{name}/deep\n" in out
    assert not list(Path("/sys/fs/cgroup").glob("*/joey-test"))


def test_an_empty_cpuset_above_is_filled(joey: Joey, bundle: MakeBundle) -> None:
    """As another joey leaves it for the moment between making the common parent and filling it."""
    mount = Path("/sys/fs/cgroup/cpuset")
    if not (mount / "cpuset.cpus").exists():
        pytest.skip("no v1 cpuset hierarchy here")
    name = joey.id()
    parent = mount / f"joey-test-{name}"
    parent.mkdir()
    try:
        folder = bundle(
            "echo", "in", change=lambda config: config["linux"].update(cgroupsPath=f"/joey-test-{name}/a/b")
        )
        assert joey("run", "-b", str(folder), name).stdout == "in\n"
    finally:
        if parent.exists():
            parent.rmdir()


@pytest.mark.parametrize("namespaced", [True, False])
def test_the_container_sees_its_own_cgroups(namespaced: bool, joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        if namespaced:
            config["linux"]["namespaces"].append({"type": "cgroup"})

    name = joey.id()
    out = joey(
        "run",
        "-b",
        str(
            bundle(
                "sh",
                "-c",
                "cat /proc/self/cgroup; cat /sys/fs/cgroup/*/cgroup.procs; for d in /sys/fs/cgroup/*; do mkdir $d/x; done",
                change=change,
            )
        ),
        name,
        check=False,
    )
    assert (f"/joey/{name}" in out.stdout) is not namespaced
    assert "\n1\n" in out.stdout
    assert "Read-only" in out.stderr or "Permission" in out.stderr


@pytest.mark.parametrize("by", ["clone3", "cgroup.procs"])
def test_both_ways_into_a_cgroup_v2_group(by: str, joey: Joey, bundle: MakeBundle) -> None:
    mounted = [
        line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"
    ]
    if not mounted:
        pytest.skip("no cgroup v2 hierarchy is mounted here")
    force = ("--force", f"cgroup-v2-entry={by}")
    name = joey.id()
    joey("run", "--detach", *force, "-b", str(bundle("sleep", "100")), name)
    assert f"0::/joey/{name}\n" in Path(f"/proc/{joey.state(name)['pid']}/cgroup").read_text()
    assert f"0::/joey/{name}\n" in joey("exec", *force, name, "cat", "/proc/self/cgroup").stdout
    # a container with a service manager: its first process moved below, the group has handed its controllers down
    group = Path(f"{mounted[0]}/joey/{name}")
    controllers = (group / "cgroup.controllers").read_text().split()
    if not controllers:
        return
    (group / "init").mkdir()
    (group / "init" / "cgroup.procs").write_text(str(joey.state(name)["pid"]))
    (group / "cgroup.subtree_control").write_text(f"+{controllers[0]}")
    assert f"0::/joey/{name}/init\n" in joey("exec", *force, name, "cat", "/proc/self/cgroup").stdout


def terminal(config: dict[str, Any]) -> None:
    config["process"]["terminal"] = True
    config["process"]["consoleSize"] = {"height": 33, "width": 99}


def run_in_terminal(command: list[str], say: bytes = b"") -> tuple[str, int]:
    """Run a command on a pseudo-terminal of its own; what it printed, and its exit status."""
    pid, master = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    out = b""
    try:
        if say:
            time.sleep(0.7)
            os.write(master, say)
        while chunk := os.read(master, 4096):
            out += chunk
    except OSError:
        pass  # the other side has gone: end of output
    return out.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_terminal_in_the_foreground(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle(
        "sh",
        "-c",
        "tty; test -t 0 && test -t 1 && echo is; stat -c %t:%T /dev/console; read line; echo got $line; exit 4",
        change=terminal,
    )
    out, status = run_in_terminal(joey.command("run", "-b", str(folder), joey.id()), b"words\r")
    assert "/dev/console" in out or "/dev/pts/0" in out
    assert "is\r\n88:0" in out
    assert "got words" in out
    assert status == 4


def receive_master(path: Path) -> tuple[socket.socket, list[int]]:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen(1)
    return server, []


def accept_master(server: socket.socket) -> int:
    connection, _ = server.accept()
    message, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(4))
    assert message
    return int(array("i", ancillary[0][2])[0])


def test_a_terminal_over_the_console_socket(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    server, _ = receive_master(tmp_path / "console")
    name = joey.id()
    folder = bundle("sh", "-c", "stty size; read x; echo you said $x", change=terminal)
    joey("create", "--console-socket", str(tmp_path / "console"), "-b", str(folder), name)
    master = accept_master(server)
    joey("start", name)
    os.write(master, b"hello\r")
    out = b""
    while b"you said hello" not in out:
        out += os.read(master, 1000)
    assert b"33 99" in out
    os.close(master)
    server.close()


def test_a_terminal_needs_somebody_at_the_other_end(joey: Joey, bundle: MakeBundle) -> None:
    folder = str(bundle("true", change=terminal))
    assert "needs --console-socket" in joey("create", "-b", folder, joey.id(), check=False).stderr
    assert (
        "process.terminal is false"
        in joey("create", "--console-socket", "/x", "-b", str(bundle()), joey.id(), check=False).stderr
    )
    done = joey("create", "--console-socket", "/nowhere", "-b", folder, joey.id(), check=False)
    assert (done.returncode, "can't connect to the socket /nowhere" in done.stderr) == (1, True)
    assert not joey.root.exists() or not list(joey.root.iterdir())


def test_start_that_fails_says_why(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    folder = bundle("/gone")
    (folder / "rootfs" / "gone").write_text("#!/bin/sh\n")
    (folder / "rootfs" / "gone").chmod(0o755)
    joey("create", "-b", str(folder), name)
    (folder / "rootfs" / "gone").unlink()
    done = joey("start", name, check=False)
    assert (done.returncode, 'exec: "/gone": no such file or directory' in done.stderr) == (1, True)
    assert joey.state(name)["status"] == "stopped"


def test_nothing_of_joey_stays_behind_a_detached_container(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    joey("run", "-d", "-b", str(bundle("sleep", "100")), name)
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert not [line for line in lines if str(joey.root) in line and "joey" in line.split()[0]]
