"""Fields of the runtime-spec, each seen from inside the container or in the kernel."""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Change, Joey, MakeBundle
from .test_life import wait_for

pytestmark = pytest.mark.root

IDS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def process(**fields: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["process"].update(fields)

    return change


def linux(**fields: Any) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["linux"].update(fields)

    return change


def with_userns(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"].update(uidMappings=IDS, gidMappings=IDS)


def stat_fields(pid: int) -> list[str]:
    """proc(5) stat from field 3 (the state) on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@pytest.mark.parametrize("by", ["sched_setattr", "sched_setscheduler"])
def test_scheduler(by: str, joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("sleep", "100", change=process(scheduler={"policy": "SCHED_BATCH", "nice": 7}))
    name = joey.id()
    joey("run", "-d", "--force", f"scheduler={by}", "-b", str(folder), name)
    fields = stat_fields(joey.state(name)["pid"])
    assert (fields[19 - 3], fields[41 - 3]) == ("7", "3")


def test_scheduler_flags_need_sched_setattr(joey: Joey, bundle: MakeBundle) -> None:
    scheduler = {"policy": "SCHED_BATCH", "nice": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    name = joey.id()
    joey("run", "-d", "-b", str(bundle("sleep", "100", change=process(scheduler=scheduler))), name)
    pid = joey.state(name)["pid"]
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH | os.SCHED_RESET_ON_FORK


def test_io_priority(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    change = process(ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6})
    joey("run", "-d", "-b", str(bundle("sleep", "100", change=change)), name)
    out = subprocess.run(["ionice", "-p", str(joey.state(name)["pid"])], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "best-effort: prio 6"


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_exec_cpu_affinity(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    name = joey.id()
    joey("run", "-d", "-b", str(bundle("sleep", "100")), name)
    file = tmp_path / "process.json"
    for affinity, expected in (({"initial": "1"}, "1"), ({"initial": "1", "final": "0"}, "0"), ({}, "0-")):
        what = {"cwd": "/", "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "execCPUAffinity": affinity}
        file.write_text(json.dumps(what))
        assert joey("exec", "-p", str(file), name).stdout.split()[1].startswith(expected)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the machine's 32-bit name is x86's")
def test_personality(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("uname", "-m", change=linux(personality={"domain": "LINUX32"}))
    assert joey("run", "-b", str(folder), joey.id()).stdout == "i686\n"


@pytest.mark.parametrize("userns", [False, True])
def test_time_offsets(userns: bool, joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5, "nanosecs": 9}}
        if userns:
            with_userns(config)

    folder = bundle(
        "sh", "-c", "cat /proc/uptime; readlink /proc/self/ns/time; cat /proc/self/timens_offsets", change=change
    )
    if userns:
        subprocess.run(["chown", "-R", "100000:100000", str(folder / "rootfs")], check=True)
    uptime, namespace, *offsets = joey("run", "-b", str(folder), joey.id()).stdout.splitlines()
    assert float(uptime.split()[0]) > 1_000_000
    assert namespace != os.readlink("/proc/self/ns/time")
    assert [line.split() for line in offsets] == [["monotonic", "5", "9"], ["boottime", "1000000", "0"]]


def test_a_time_namespace_for_root_of_a_user_namespace(joey: Joey, bundle: MakeBundle) -> None:
    """joey itself may not come back from it there: the container's process makes it."""

    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "time")]
        config["linux"].update(timeOffsets={"boottime": {"secs": 7000}}, resources={})
        config["mounts"] = [mount for mount in config["mounts"] if mount["type"] not in ("sysfs", "cgroup")]
        for mount in config["mounts"]:  # gid 5 has no map
            mount["options"] = [word for word in mount.get("options", []) if word != "gid=5"]

    folder = bundle("cat", "/proc/self/timens_offsets", change=change)
    command = joey.command("run", "-b", str(folder), joey.id())
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", *command], capture_output=True, text=True, check=False
    )
    assert re.search(r"^boottime +7000 +0$", done.stdout, re.MULTILINE), done.stderr


def test_a_clock_before_zero_is_refused(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": -(10**9)}}

    done = joey("run", "-b", str(bundle("true", change=change)), joey.id(), check=False)
    assert (done.returncode, "linux.timeOffsets" in done.stderr) == (1, True)


@pytest.mark.parametrize("words", [["rbind", "ridmap"], ["bind", "idmap"]])
def test_an_id_mapped_mount_takes_the_containers_ids(
    words: list[str], joey: Joey, bundle: MakeBundle, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("x")

    def change(config: dict[str, Any]) -> None:
        with_userns(config)
        config["mounts"].append({"destination": "/volume", "source": str(volume), "options": words})

    folder = bundle("sh", "-c", "stat -c %u:%g /volume/file; echo new > /volume/new", change=change)
    subprocess.run(["chown", "-R", "100000:100000", str(folder / "rootfs")], check=True)
    assert joey("run", "-b", str(folder), joey.id()).stdout == "0:0\n"
    assert (volume / "new").stat().st_uid == 0  # not 100000: the mount maps back


def test_an_id_mapped_mount_with_maps_of_its_own(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("x")
    maps = [{"containerID": 0, "hostID": 4000, "size": 10}]

    def change(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": "/volume", "type": "bind", "source": str(volume), "options": ["bind"],
                                 "uidMappings": maps, "gidMappings": maps})  # fmt: skip

    folder = bundle("stat", "-c", "%u:%g", "/volume/file", change=change)
    assert joey("run", "-b", str(folder), joey.id()).stdout == "4000:4000\n"


def test_tmpcopyup(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]})

    script = "cd /data; stat -c '%n %a %u %h' . a b deep/c link; cat a; readlink link; echo changed > a; ls pipe"
    folder = bundle("sh", "-c", script, change=change)
    data = folder / "rootfs" / "data"
    (data / "deep").mkdir(parents=True)
    (data / "a").write_text("text\n")
    os.chown(data / "a", 33, 33)
    (data / "a").chmod(0o4755)
    (data / "b").hardlink_to(data / "a")
    (data / "deep" / "c").hardlink_to(data / "a")
    (data / "link").symlink_to("/etc/passwd")
    os.mkfifo(data / "pipe")
    data.chmod(0o711)
    out = joey("run", "-b", str(folder), joey.id()).stdout.splitlines()
    assert out[:5] == [". 711 0 3", "a 4755 33 3", "b 4755 33 3", "deep/c 4755 33 3", "link 777 0 1"]
    assert out[5:] == ["text", "/etc/passwd", "pipe"]
    assert (data / "a").read_text() == "text\n"


def test_tmpcopyup_that_does_not_fit_is_an_error(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].append(
            {"destination": "/bin2", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=64k"]}
        )

    folder = bundle("true", change=change)
    (folder / "rootfs" / "bin2").mkdir()
    (folder / "rootfs" / "bin2" / "big").write_bytes(bytes(1 << 20))
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, "tmpcopyup of /bin2: No space left" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("field", ["apparmorProfile", "selinuxLabel"])
def test_a_label_without_its_module_is_refused_by_name_or_a_recorded_loss(
    field: str, joey: Joey, bundle: MakeBundle
) -> None:
    feature = field.removesuffix("Profile").removesuffix("Label")
    report = json.loads(joey("probe", "--json").stdout)
    if report["findings"][f"lsm.{feature}"]["state"] == "works":
        pytest.skip(f"{feature} is active here: its profiles are not the tests' to load")
    folder = bundle("sleep", "100", change=process(**{field: "some:label"}))
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, f"process.{field}" in done.stderr) == (1, True)
    name = joey.id()
    joey("run", "-d", "--policy", "permissive", "-b", str(folder), name)
    assert f"io.joey.lost.{feature}" in joey.state(name)["annotations"]


class _Notification(ctypes.Structure):
    """struct seccomp_notif, <linux/seccomp.h>."""

    _fields_ = (
        ("id", ctypes.c_uint64),
        ("pid", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("data", ctypes.c_byte * 64),
    )


class Agent(threading.Thread):
    """A seccomp agent: takes one listener, answers each notification with an errno."""

    def __init__(self, path: Path, errno: int) -> None:
        super().__init__(daemon=True)
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(path))
        self.server.listen(1)
        self.errno = errno
        self.message: dict[str, Any] = {}
        self.answered = 0

    def run(self) -> None:
        connection, _ = self.server.accept()
        fds = array.array("i")
        text, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4 * 4))
        for _level, _kind, data in ancillary:
            fds.frombytes(data[: len(data) - len(data) % 4])
        self.message = json.loads(text)
        while True:
            notification = _Notification()
            try:
                fcntl.ioctl(fds[0], 0xC0502100, notification)  # SECCOMP_IOCTL_NOTIF_RECV
                self.answered += 1
                fcntl.ioctl(fds[0], 0xC0182101, struct.pack("QqiI", notification.id, 0, -self.errno, 0))
            except OSError:
                return


@pytest.mark.parametrize("no_new_privileges", [True, False])
@pytest.mark.parametrize("way", ["run", "create", "exec"])
def test_seccomp_notify(way: str, no_new_privileges: bool, joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent.sock", 71)  # EPROTO: nothing else says "Protocol error"
    agent.start()

    def change(config: dict[str, Any]) -> None:
        config["process"]["noNewPrivileges"] = no_new_privileges
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": str(tmp_path / "agent.sock"),
            "listenerMetadata": "about it",
            "flags": ["SECCOMP_FILTER_FLAG_TSYNC"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        }

    script = "mkdir /tmp/x 2> /tmp/said; exec sleep 100"
    folder, name = bundle("sh", "-c", script if way != "exec" else "exec sleep 100", change=change), joey.id()
    if way == "create":
        joey("create", "-b", str(folder), name)
        joey("start", name)
    else:
        joey("run", "-d", "-b", str(folder), name)
    if way == "exec":
        wait_for(lambda: agent.message)
        second = Agent(tmp_path / "second.sock", 71)
        second.start()
        (tmp_path / "agent.sock").unlink()
        (tmp_path / "second.sock").rename(tmp_path / "agent.sock")
        joey("exec", name, "sh", "-c", "mkdir /tmp/x 2> /tmp/said", check=False)
        assert second.message["pid"] != joey.state(name)["pid"]
        agent = second
    said = folder / "rootfs" / "tmp" / "said"
    assert "Protocol error" in wait_for(lambda: said.exists() and said.read_text())
    assert agent.message["fds"] == ["seccompFd"]
    assert agent.message["metadata"] == "about it"
    assert agent.message["state"]["id"] == name
    if way != "exec":
        assert agent.message["pid"] == joey.state(name)["pid"] == agent.message["state"]["pid"]


def test_no_agent_is_an_error_by_name(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    seccomp = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": str(tmp_path / "nobody"),
               "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}  # fmt: skip
    folder = bundle("true", change=linux(seccomp=seccomp))
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, f"{tmp_path}/nobody" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr


def test_sockets_of_a_service_manager_are_passed(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("sh", "-c", "echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES; readlink /proc/self/fd/3")

    def run(opened: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words = ["sh", "-c", f'{opened} exec "$@"', "sh", *joey.command("run", "-b", str(folder), joey.id())]
        return subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=False)

    told = run("exec 3</dev/zero;", LISTEN_FDS="1", LISTEN_FDNAMES="web")
    assert told.stdout == "1 1 web\n/dev/zero\n"
    refused = run("exec 3<&-;", LISTEN_FDS="1")
    assert (refused.returncode, "descriptor 3 is not open" in refused.stderr) == (2, True)
    for_another = run("exec 3</dev/zero;", LISTEN_FDS="1", LISTEN_PID="1")
    assert for_another.stdout.startswith("\n")
