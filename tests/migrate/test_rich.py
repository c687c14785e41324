"""Rich containers: real inits with their services, their life, their ends, and the way back from an upgrade."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..conftest import TOP, Joey, cgroups_named, leftovers_of
from ..e2e.conftest import host
from ..e2e.host import Host
from ..e2e.oldkernel import boot
from .guests import SERVER, debian_root, run

__all__ = ["host"]

pytestmark = [pytest.mark.root]

SYSVINIT = "sysvinit-core initscripts insserv openssh-server cron nginx-light iproute2 procps".split()
OPENRC = "openrc sysvinit-core openssh-server cron nginx-light iproute2 procps".split()


def wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.02)
    return found


class Rich:
    """`joey rich` with a store of its own."""

    def __init__(self, joey: Joey, store: Path) -> None:
        self._joey = joey
        self.store = store
        self.program = joey.program

    def __call__(
        self, *words: str, check: bool = True, timeout: float = 100, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "JOEY_RICH": str(self.store)}
        return self._joey("rich", *words, check=check, timeout=timeout, env=environment, **options)

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(self("ps", "--all", "--json").stdout)}

    def inspect(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self("inspect", "--json", name).stdout)
        return value

    def inside(self, name: str, script: str, check: bool = True) -> str:
        return self("exec", name, "sh", "-c", script, check=check).stdout

    def log(self, name: str) -> str:
        return self("logs", name).stdout

    def status(self, name: str) -> str:
        return str(self.rows()[name]["status"])


@pytest.fixture
def rich(tmp_path: Path) -> Iterator[Rich]:
    joey = Joey(tmp_path)
    made = Rich(joey, tmp_path / "store")
    yield made
    for name in list(made.rows()):
        made("rm", "--force", name)
    assert not leftovers_of(joey, tmp_path)
    assert not cgroups_named("rich-" + str(tmp_path))


@pytest.fixture
def there(host: Host, tmp_path: Path) -> Iterator[Rich]:
    """`joey rich` on a host of its own, whose network nobody else has."""
    made = Rich(host, tmp_path / "store")
    yield made
    for name in list(made.rows()):
        made("rm", "--force", name)
    assert host.links() == set()


def fetched(host: Host, url: str) -> str:
    """A page, as the host gets it."""
    script = (
        "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode(), end='')"
    )
    return host.call("/usr/bin/python3", "-c", script, url)


@pytest.mark.skipif(not Path("/sys/fs/cgroup/blkio").is_dir(), reason="needs the blkio controller of cgroup v1")
def test_its_disk_traffic_is_limited(rich: Rich, machine: Callable[..., Path], tmp_path: Path) -> None:
    """By a folder on a disk; changed and lifted while it runs. Of a cgroup v1 here."""
    root = machine()
    rich("run", "--rootfs", str(root), "--name", "one", "--device-write-bps", f"{tmp_path}:2M",
         "--device-read-iops", f"{tmp_path}:500")  # fmt: skip
    lines = Path(f"/proc/{rich.inspect('one')['pid']}/cgroup").read_text().splitlines()
    path = next(line.split(":")[2] for line in lines if "blkio" in line.split(":")[1].split(","))
    group = Path("/sys/fs/cgroup/blkio" + path)
    device = (group / "blkio.throttle.write_bps_device").read_text().split()
    assert device[1:] == ["2097152"]
    assert (group / "blkio.throttle.read_iops_device").read_text().split() == [device[0], "500"]
    disk = Path("/sys/dev/block") / device[0]
    assert not (disk / "partition").exists()
    rich(
        "update", "--device-write-bps", f"{tmp_path}:0", "--device-read-iops", f"/dev/{disk.resolve().name}:700", "one"
    )
    assert (group / "blkio.throttle.write_bps_device").read_text() == ""
    assert (group / "blkio.throttle.read_iops_device").read_text().split() == [device[0], "700"]
    rich("stop", "one")
    rich("start", "one")
    assert (group / "blkio.throttle.write_bps_device").read_text() == ""
    assert (group / "blkio.throttle.read_iops_device").read_text().split() == [device[0], "700"]
    assert rich.inspect("one")["io"] == {"device-read-iops": {f"/dev/{disk.resolve().name}": 700}}
    # all or nothing: what was written before the refusal is taken back; and a disk that is gone holds nobody up
    bad = rich("update", "--device-write-bps", f"{tmp_path}:1M", "--pids", "1", "--memory", "4096", "one", check=False)
    assert bad.returncode == 1
    assert (group / "blkio.throttle.write_bps_device").read_text() == ""
    record = rich.store / "one/rich.json"
    value = json.loads(record.read_text())
    value["io"]["device-write-iops"] = {"/mnt/gone": 5}
    record.write_text(json.dumps(value))
    rich("update", "--env", "A=b", "one")
    rich("stop", "one")
    assert "/mnt/gone" in rich("start", "one", check=False).stderr + rich.log("one")
    rich("update", "--device-write-iops", "/mnt/gone:0", "one")
    rich("start", "one")
    for words, what in (
        (("--device-write-bps", "/proc:1M"), "on no disk"),
        (("--device-write-bps", "/dev/none:1M"), "No such file"),
        (("--device-write-bps", "sda:1M"), "not DEVICE:RATE"),
        (("--device-read-iops", f"{tmp_path}:1M"), "not DEVICE:RATE"),
        (("--device-read-iops", f"{tmp_path}:\N{SUPERSCRIPT TWO}"), "not DEVICE:RATE"),
        (("--blkio-weight", "0"), "10 to 1000"),
        (("--blkio-weight", "5"), "10 to 1000"),
    ):
        assert what in rich("update", *words, "one", check=False).stderr


def test_mounts_are_the_containers_own(rich: Rich, machine: Callable[..., Path]) -> None:
    """CentOS 6's /etc/mtab is a file, which a migration leaves behind; without one its df says nothing."""
    root = machine()
    (root / "etc/mtab").write_text("/dev/mapper/vg-root / ext4 rw 0 0\n")
    rich("run", "--rootfs", str(root), "--name", "one")
    assert "vg-root" not in rich.inside("one", "cat /etc/mtab")
    assert rich.inside("one", "df /").endswith("% /\n")
    (root / "etc/mtab").unlink()
    (root / "etc/mtab").symlink_to("../proc/self/mounts")
    rich("run", "--rootfs", str(root), "--name", "two")
    assert "/etc/mtab" not in {fix["path"] for fix in rich.inspect("two")["fixes"]}


def test_a_life(rich: Rich, machine: Callable[..., Path]) -> None:
    root = machine(up="hostname; touch /written")
    rich("run", "--rootfs", str(root), "--name", "one", "--hostname", "old-name", "--memory", "64M", "--pids", "50")
    row = rich.rows()["one"]
    assert (row["status"], row["init"]) == ("running", "busybox")
    wait_for(lambda: "old-name" in rich.log("one"))
    assert rich.inside("one", "cat /proc/1/comm; cat /etc/hostname").split() == ["init", "old-name"]
    assert "written" not in os.listdir(root)  # the image stays as it is
    assert "Seccomp:\t2" in rich.inside("one", "cat /proc/1/status")
    assert "not permitted" in rich("exec", "one", "sh", "-c", "unshare -U true 2>&1", check=False).stdout
    stats = json.loads(rich("stats", "--json", "one").stdout)
    assert (stats["memory"]["usage"]["limit"], stats["pids"]["limit"]) == (64 << 20, 50)
    assert "busybox" in rich("top", "one").stdout or "init" in rich("top", "one").stdout
    rich("pause", "one")
    assert rich.status("one") == "paused"
    rich("resume", "one")
    rich("update", "--memory", "96M", "one")
    assert json.loads(rich("stats", "--json", "one").stdout)["memory"]["usage"]["limit"] == 96 << 20
    rich("stop", "one")
    assert "going down" in rich.log("one")
    assert rich.status("one") == "stopped"
    assert "rm -f" not in rich("rename", "one", "two").stdout
    rich("start", "two")
    assert rich.inside("two", "ls /written; hostname").split() == ["/written", "old-name"]
    assert rich.inspect("two")["memory"] == 96 << 20
    done = rich("rm", "two", check=False)
    assert (done.returncode, "two runs" in done.stderr) == (1, True)
    rich("rm", "--force", "two")
    assert not rich.rows()


def test_it_ends_and_reboots_by_its_own_commands(rich: Rich, machine: Callable[..., Path]) -> None:
    rich("run", "--rootfs", str(machine(up="echo life >>/lives")), "--name", "one", "--restart", "unless-stopped")
    rich("exec", "one", "reboot")
    wait_for(lambda: "it reboots" in rich.log("one") and rich.status("one") == "running")
    wait_for(lambda: rich.inside("one", "cat /lives", check=False).split() == ["life", "life"])
    rich("exec", "one", "poweroff")
    wait_for(lambda: rich.status("one") == "stopped")
    assert "ended with signal 2" in rich.log("one")


def test_what_supervises_it_may_die(rich: Rich, machine: Callable[..., Path]) -> None:
    """Its output goes on to a FIFO that it holds itself; a new supervisor takes it over."""
    up = "(i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.1; done) &"
    rich("run", "--rootfs", str(machine(up=up)), "--name", "one")
    before = rich.inspect("one")
    os.kill(before["supervisor"], signal.SIGKILL)
    wait_for(lambda: not rich.inspect("one")["supervisor"])
    time.sleep(0.5)
    assert rich.status("one") == "running"
    rich("start", "one")
    after = wait_for(lambda: (found := rich.inspect("one"))["supervisor"] and found)
    assert after["pid"] == before["pid"]
    ticks = wait_for(lambda: (got := [int(line.split()[1]) for line in rich.log("one").splitlines() if line[:4] == "tick"])
                     and len(got) > 12 and got)  # fmt: skip
    assert ticks == list(range(1, len(ticks) + 1))  # none was lost
    rich("stop", "one")


@pytest.mark.slow
def test_a_policy_says_whether_it_starts_again(rich: Rich, machine: Callable[..., Path]) -> None:
    root = str(machine())
    rich("run", "--rootfs", root, "--name", "fails", "--init", "none", "--restart", "on-failure:2", "--no-wait", "--",
         "sh", "-c", "sleep 0.2; echo tried; exit 3")  # fmt: skip
    wait_for(lambda: rich.status("fails") == "stopped")
    assert rich.log("fails").count("tried") == 3
    assert rich.rows()["fails"]["lastStatus"] == 3
    rich("run", "--rootfs", root, "--name", "ends", "--init", "none", "--restart", "on-failure", "--no-wait", "sh", "-c",
         "sleep 0.2; echo tried")  # fmt: skip
    wait_for(lambda: rich.status("ends") == "stopped")
    assert rich.log("ends").count("tried") == 1
    rich("run", "--rootfs", root, "--name", "always", "--init", "none", "--restart", "always", "--no-wait", "sh", "-c",
         "sleep 0.1; echo tried")  # fmt: skip
    wait_for(lambda: rich.log("always").count("tried") >= 3)
    rich("stop", "always")
    count = rich.log("always").count("tried")
    time.sleep(1)
    assert rich.log("always").count("tried") == count
    done = rich("run", "--rootfs", root, "--name", "missing", "--init", "none", "/missing", check=False)
    assert (done.returncode, "joey rich logs missing" in done.stderr) == (1, True)
    assert "no such file" in rich.log("missing")


@pytest.mark.parametrize("way", ["native", "emulated"])
def test_its_root_is_nobody_on_the_host(rich: Rich, machine: Callable[..., Path], way: str) -> None:
    root = machine()
    done = rich("run", "--rootfs", str(root), "--name", "one", "--id-map", "150000:1000", check=False)
    assert (done.returncode, "lets nobody but its owner through" in done.stderr) == (1, True)
    rich("rm", "one")
    for folder in list(rich.store.parents)[:4]:
        folder.chmod(folder.stat().st_mode | 0o001)
    (root / "theirs").write_text("x")
    os.chown(root / "theirs", 33, 44)
    rich("run", "--rootfs", str(root), "--name", "one", "--id-map", "150000:1000", "--force", f"userns={way}")
    status = Path(f"/proc/{rich.inspect('one')['pid']}/status").read_text()
    assert "Uid:\t150000\t150000" in status
    out = rich.inside(
        "one", "id -u; stat -c %u:%g /theirs /etc; touch /etc/mine; stat -c %u /etc/mine; echo said >/dev/console"
    )
    assert out.split() == ["0", "33:44", "0:0", "0"]
    wait_for(lambda: "said" in rich.log("one"))
    written = rich.store / "one" / "bundle" / "joey-layers" / "upper" / "etc" / "mine"
    assert written.stat().st_uid == 150000
    assert (root / "theirs").stat().st_uid == 33
    rich("stop", "one")
    assert "going down" in rich.log("one")
    done = rich("create", "--rootfs", str(root), "--id-map", "0", check=False)
    assert (done.returncode, "--id-map" in done.stderr) == (2, True)


def test_values_arrive_as_they_were_given(rich: Rich, machine: Callable[..., Path]) -> None:
    value = "a=b \"c\" $HOME `id` \\n 'd' %h"
    rich("run", "--rootfs", str(machine()), "--name", "one", "--env", f"ODD={value}", "--env", "PLAIN=x=y")
    assert rich.inside("one", 'printf "%s|%s" "$ODD" "$PLAIN"') == f"{value}|x=y"
    assert rich.inside("one", "cat /etc/environment").splitlines()[2:] == ["PLAIN=x=y"]
    rich("update", "--env", "PLAIN=later", "one")
    assert rich.inside("one", "tail -n 1 /etc/environment") == "PLAIN=later\n"
    rich("update", "--unset-env", "ODD", "--env", "MORE=1", "one")
    assert rich.inside("one", "cat /etc/environment") == "# joey: --env\nPLAIN=later\nMORE=1\n"
    rich("stop", "one")
    rich("update", "--env", "PLAIN=last", "one")
    rich("start", "one")
    assert rich.inside("one", "tail -n 2 /etc/environment; cat /proc/1/environ | tr '\\0' '\\n' | grep PLAIN") == (
        "PLAIN=last\nMORE=1\nPLAIN=last\n"
    )
    done = rich("update", "--env", "BAD=two\nlines", "one", check=False)
    assert (done.returncode, "line break" in done.stderr) == (2, True)


def test_hooks_run_in_their_order_and_place(rich: Rich, machine: Callable[..., Path], tmp_path: Path) -> None:
    told = tmp_path / "told"
    phases = ["createRuntime", "poststart", "after-services", "before-stop", "poststop"]
    words = []
    for phase in phases:
        place = ",place=host" if phase in ("after-services", "before-stop") else ""
        words += ["--hook", f"{phase}{place}:sh -c 'echo {phase} $(hostname) >>{told}'"]
    inside = ["--hook", "startContainer:sh -c 'echo startContainer $(hostname) >/by-hook'",
              "--hook", "after-services:sh -c 'echo $JOEY_PHASE $JOEY_NAME $(hostname) >>/by-hook; echo said'"]  # fmt: skip
    scripts = tmp_path / "scripts" / "before-stop"
    scripts.mkdir(parents=True)
    (scripts / "10-tell").write_text(f"#!/bin/sh\necho script $JOEY_NAME >>{told}\n")
    (scripts / "10-tell").chmod(0o755)
    rich("run", "--rootfs", str(machine()), "--name", "one", "--scripts", str(tmp_path / "scripts"), *words, *inside)
    wait_for(lambda: "after-services" in told.read_text() and "after-services" in rich.inside("one", "cat /by-hook"))
    assert rich.inside("one", "cat /by-hook").split("\n")[:2] == ["startContainer one", "after-services one one"]
    wait_for(lambda: "said" in rich.log("one"))  # what a hook says is in the log
    rich("stop", "one")
    host = os.uname().nodename
    expected = [f"{phase} {host}" for phase in phases]
    expected.insert(4, "script one")
    assert told.read_text().splitlines() == expected


def test_a_hook_that_fails_ends_the_start_or_is_only_told(rich: Rich, machine: Callable[..., Path]) -> None:
    root = str(machine())
    done = rich("run", "--rootfs", root, "--name", "one", "--hook", "createRuntime:false", check=False)
    assert done.returncode == 1
    assert rich.status("one") == "stopped"
    rich("run", "--rootfs", root, "--name", "two", "--hook", "createRuntime,failure=ignore:false")
    assert "a hook failed with status 1: false" in rich.log("two")
    done = rich("create", "--rootfs", root, "--hook", "poststart,place=container:true", check=False)
    assert (done.returncode, "poststart runs on the host" in done.stderr) == (2, True)


def test_volumes(rich: Rich, machine: Callable[..., Path], tmp_path: Path) -> None:
    root = machine()
    (root / "data").mkdir()
    (root / "data" / "first").write_text("of the image")
    os.chown(root / "data" / "first", 33, 44)
    (tmp_path / "given").mkdir()
    words = ["--volume", "kept:/data", "--volume", f"{tmp_path}/given:/given:ro", "--volume", "/scratch"]
    rich("run", "--rootfs", str(root), "--name", "one", *words)
    script = "stat -c %u:%g /data/first; echo second >/data/second; touch /given/x 2>/dev/null || echo kept; df /scratch | tail -n 1"
    out = rich.inside("one", script)
    assert out.startswith("33:44\nkept\n")
    assert "tmpfs" in out
    rich("rm", "--force", "one")
    rich("run", "--rootfs", str(root), "--name", "two", "--volume", "kept:/data")
    assert rich.inside("two", "cat /data/first /data/second") == "of the imagesecond\n"
    done = rich("run", "--rootfs", str(root), "--name", "three", "--volume", "/not/there:/x", check=False)
    assert (done.returncode, "/not/there does not exist" in done.stderr) == (1, True)


@pytest.mark.slow
def test_they_reach_each_other_and_the_host(host: Host, there: Rich, machine: Callable[..., Path]) -> None:
    serve = "mkdir -p /www; hostname >/www/index.html; httpd -p 80 -h /www"
    root = str(machine(up=serve))
    there("run", "--rootfs", root, "--name", "one", "--network", "bridge,address=10.71.0.10", "--wait-for", "port:80")
    there(
        "run", "--rootfs", root, "--name", "two", "--network", "bridge,mac=52:54:00:12:34:56", "--wait-for", "port:80"
    )
    assert there.inside("two", "wget -qO- http://10.71.0.10/") == "one\n"
    assert "52:54:00:12:34:56" in there.inside("two", "ip link show eth0")
    assert fetched(host, "http://10.71.0.10/") == "one\n"
    assert there.rows()["one"]["networks"] == ["10.71.0.10/24"]
    there("run", "--rootfs", str(machine("third")), "--name", "three", "--network", "container:one")
    assert there.inside("three", "wget -qO- http://127.0.0.1/") == "one\n"
    there("stop", "three")
    there("restart", "one")
    assert there.inside("two", "wget -qO- http://10.71.0.10/") == "one\n"


@pytest.mark.slow
def test_they_know_each_other_by_name(host: Host, there: Rich, machine: Callable[..., Path]) -> None:
    serve = "mkdir -p /www; hostname >/www/index.html; httpd -p 80 -h /www"
    first, second, third = (machine(name, up=serve) for name in ("first", "second", "third"))
    (second / "etc/resolv.conf").write_text("search shop.test\nnameserver 192.0.2.53\n")
    (third / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    there("run", "--rootfs", str(first), "--name", "one", "--network", "bridge", "--wait-for", "port:80")
    there("run", "--rootfs", str(second), "--name", "two", "--network", "bridge", "--wait-for", "port:80")
    there("run", "--rootfs", str(third), "--name", "three", "--network", "bridge", "--wait-for", "port:80")
    assert there.inside("two", "wget -qO- http://one/") == "one\n"
    assert there.inside("one", "wget -qO- http://two/") == "two\n"
    there("stop", "two")
    there("rename", "two", "shop")
    there("start", "shop")
    assert there.inside("one", "wget -qO- http://shop/") == "two\n"
    text = there.inside("shop", "cat /etc/resolv.conf")
    assert text == "search shop.test\nnameserver 10.71.0.1\nnameserver 192.0.2.53\n", "its own is asked by joey's"
    assert there.inside("three", "cat /etc/resolv.conf") == "nameserver 127.0.0.1\n", "it is its own name server"
    assert "asked first" in str(there.inspect("shop")["fixes"])


@pytest.mark.slow
def test_published_ports_lead_to_it(host: Host, there: Rich, machine: Callable[..., Path]) -> None:
    root = str(machine(up="mkdir -p /www; hostname >/www/index.html; httpd -p 80 -h /www"))
    words = [
        "--network",
        "bridge",
        "--publish",
        "8080:80",
        "--publish",
        "10.71.0.1:8081:80/tcp",
        "--wait-for",
        "port:80",
    ]
    there("run", "--rootfs", root, "--name", "one", *words)
    there("run", "--rootfs", root, "--name", "two", "--network", "bridge")
    wait_for(lambda: "8081" in host.call("sh", "-c", "iptables -t nat -S; nft list ruleset", check=False))
    for port in (8080, 8081):
        assert there.inside("two", f"wget -qO- http://10.71.0.1:{port}/") == "one\n"
        assert fetched(host, f"http://10.71.0.1:{port}/") == "one\n"
    there("stop", "one")
    assert "808" not in host.call("sh", "-c", "iptables-save; nft list ruleset", check=False)
    done = there("create", "--rootfs", root, "--publish", "80:http", check=False)
    assert (done.returncode, "--publish" in done.stderr) == (2, True)


def test_what_it_is_waited_for_and_does_not_come(rich: Rich, machine: Callable[..., Path]) -> None:
    done = rich(
        "run", "--rootfs", str(machine()), "--name", "one", "--wait-for", "port:81", "--wait-timeout", "1", check=False
    )
    assert (done.returncode, "port:81 is not there after 1 seconds" in done.stderr) == (1, True)
    assert rich.status("one") == "running"
    done = rich("start", "--wait-for", "x", "one", check=False)
    assert done.returncode == 2
    done = rich("create", "--rootfs", "/", "--wait-for", "moon", check=False)
    assert (done.returncode, "target:NAME" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_full_disk_is_its_own(rich: Rich, machine: Callable[..., Path]) -> None:
    old, new = machine("old"), machine("new")
    (new / "version").write_text("2\n")
    rich(
        "run",
        "--rootfs",
        str(old),
        "--name",
        "one",
        "--disk-quota",
        "32M",
        "--views",
        "--force",
        "views=fuse",  # an lxcfs that another test has started ends with that one
        "--memory",
        "100M",
    )
    out = rich.inside(
        "one",
        "dd if=/dev/zero of=/big bs=1M count=64 2>&1 | grep -o 'No space left'; ls -s /big; grep MemTotal /proc/meminfo",
        check=False,
    )
    assert out.startswith("No space left\n")
    assert 20_000 < int(out.splitlines()[1].split()[0]) < 33_000
    assert int(out.split("MemTotal:")[1].split()[0]) == 100 << 10  # as it is shown its own
    rich.inside("one", "rm /big; echo mine >/written")
    with subprocess.Popen(["unshare", "-m", "sleep", "60"]) as other:  # a mount namespace that keeps the disk in use
        time.sleep(0.2)
        rich("stop", "one")
        rich("start", "one")
        assert rich.inside("one", "cat /written") == "mine\n"
        rich("stop", "one")
        other.kill()
    rich("rename", "one", "two")
    rich("start", "two")
    assert rich.inside("two", "cat /written") == "mine\n"
    rich("upgrade", "--rootfs", str(new), "two")
    assert rich.inside("two", "cat /version /written; df -m / | tail -n 1").split()[:2] == ["2", "mine"]
    assert "No space left" in rich.inside("two", "dd if=/dev/zero of=/big bs=1M count=64 2>&1", check=False)
    rich("rollback", "two")
    assert rich.inside("two", "cat /version /written 2>/dev/null", check=False) == "mine\n"
    assert "overlay" in rich.inside("two", "df / | tail -n 1")
    done = rich("update", "--disk-quota", "16M", "two", check=False)
    assert (done.returncode, "smaller" in done.stderr) == (1, True)


def test_its_health_is_told(rich: Rich, machine: Callable[..., Path]) -> None:
    rich("run", "--rootfs", str(machine()), "--name", "one", "--health", "test ! -e /ill", "--health-interval", "0.1")
    wait_for(lambda: rich.rows()["one"]["health"] == "healthy")
    rich.inside("one", "touch /ill")
    wait_for(lambda: rich.rows()["one"]["health"] == "unhealthy")
    rich.inside("one", "rm /ill")
    wait_for(lambda: rich.rows()["one"]["health"] == "healthy")


def test_an_upgrade_with_a_way_back(rich: Rich, machine: Callable[..., Path]) -> None:
    old, new, bad = machine("old"), machine("new"), machine("bad", up="exec /bin/poweroff -f")
    for root, version in ((old, "1"), (new, "2"), (bad, "3")):
        (root / "version").write_text(f"{version}\n")
    rich("run", "--rootfs", str(old), "--name", "one", "--health", "test ! -e /ill", "--health-interval", "60")
    rich.inside("one", "echo mine >/written")
    rich("upgrade", "--rootfs", str(new), "one")
    assert rich.inside("one", "cat /version /written") == "2\nmine\n"
    done = rich("upgrade", "--rootfs", str(new), "one", check=False)
    assert (done.returncode, "not confirmed" in done.stderr) == (1, True)
    rich("rollback", "one")
    assert rich.inside("one", "cat /version /written") == "1\nmine\n"
    (new / "ill").write_text("")
    done = rich("upgrade", "--rootfs", str(new), "one", check=False)
    assert (done.returncode, "the old one runs again" in done.stderr) == (1, True)
    assert rich.inside("one", "cat /version") == "1\n"
    (new / "ill").unlink()
    rich("upgrade", "--rootfs", str(new), "--changes", "discard", "one")
    assert rich.inside("one", "cat /version; ls /written 2>/dev/null", check=False) == "2\n"
    rich("confirm", "one")
    assert not rich.inspect("one")["upgraded"]


def test_a_killed_upgrade_loses_nothing(rich: Rich, machine: Callable[..., Path]) -> None:
    """What a joey leaves that was killed amid it: all moved away, nothing in its place yet."""
    rich("run", "--rootfs", str(machine("old")), "--name", "one")
    rich.inside("one", "echo mine >/written")
    rich("stop", "one")
    folder = rich.store / "one"
    (folder / "before.new").mkdir()
    shutil.copy(folder / "rich.json", folder / "before.new" / "rich.json")
    for name in ("bundle", "fixes", "fixes.json"):
        (folder / name).rename(folder / "before.new" / name)
    (folder / "bundle").mkdir()
    rich("start", "one")
    assert rich.inside("one", "cat /written") == "mine\n"
    assert not (folder / "before.new").exists()


def test_links_in_what_it_has_written_lead_nowhere(rich: Rich, machine: Callable[..., Path], tmp_path: Path) -> None:
    """A container that makes its /etc a link to the host's keys, and is then upgraded."""
    host = tmp_path / "host"
    (host / "ssh").mkdir(parents=True)
    (host / "ssh" / "ssh_host_rsa_key").write_text("the host's")
    (host / "machine-id").write_text("the host's")
    rich("run", "--rootfs", str(machine("old")), "--name", "one")
    upper = rich.store / "one" / "bundle" / "joey-layers" / "upper"
    rich.inside("one", f"rm -rf /etc; ln -s {host} /etc")
    assert (upper / "etc").is_symlink()
    rich("upgrade", "--rootfs", str(machine("new")), "--changes", "discard", "one")
    assert "the host's" not in rich.inside("one", "cat /etc/machine-id /etc/ssh/* 2>/dev/null", check=False)


def test_two_upgrades_at_once_are_one(rich: Rich, machine: Callable[..., Path]) -> None:
    rich("run", "--rootfs", str(machine("old")), "--name", "one", "--hook", "on-upgrade:sleep 1")
    rich.inside("one", "echo mine >/written")
    new = str(machine("new"))
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: rich("upgrade", "--rootfs", new, "one", check=False), range(2)))
    assert sorted(item.returncode for item in done) == [0, 1]
    assert "is being upgraded" in done[0].stderr + done[1].stderr
    assert rich.inside("one", "cat /written") == "mine\n"


def test_two_creates_at_once_are_one(rich: Rich, machine: Callable[..., Path]) -> None:
    root = str(machine())
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: rich("create", "--rootfs", root, "--name", "one", check=False), range(4)))
    assert sorted(item.returncode for item in done) == [0, 1, 1, 1]
    rich("start", "one")


def test_a_stop_amid_a_start_is_one(rich: Rich, machine: Callable[..., Path]) -> None:
    rich("create", "--rootfs", str(machine()), "--name", "one", "--hook", "createRuntime:sleep 1")
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(rich, "start", "--no-wait", "one", check=False)
        time.sleep(0.4)
        rich("stop", "one")
        starting.result()
    assert rich.status("one") == "stopped"


@pytest.mark.parametrize("words", [(), ("--id-map", "150000:1000")], ids=["own-ids", "id-map"])
def test_an_image_of_what_it_has_become(
    rich: Rich, machine: Callable[..., Path], tmp_path: Path, words: tuple[str, ...]
) -> None:
    root = machine()
    (root / "gone").write_text("of the image")
    for folder in [rich.store, *rich.store.parents][: 5 if words else 0]:
        folder.mkdir(exist_ok=True)
        folder.chmod(folder.stat().st_mode | 0o001)
    rich("run", "--rootfs", str(root), "--name", "one", "--env", "A=1", *words)
    rich.inside("one", "echo mine >/written; rm /gone; chown 33:44 /written")
    done = rich("commit", "one", f"oci:{tmp_path}/images:now", check=False)
    assert (done.returncode, "it runs" in done.stderr or "runs:" in done.stderr) == (1, True)
    rich("pause", "one")
    rich("commit", "one", f"oci:{tmp_path}/images:now")
    rich("export", "one", f"{tmp_path}/files.tar")
    rich("resume", "one")
    listed = run("tar", "--numeric-owner", "-tvf", tmp_path / "files.tar")
    assert re.search(r"33/44 +5 .* written$", listed, re.M)
    assert "15000" not in listed, "owners are as they are inside"
    assert "gone" not in listed
    done = rich("export", "one", f"{tmp_path}/files.tar", check=False)
    assert (done.returncode, "is there already" in done.stderr) == (1, True)
    rich("run", "--name", "two", f"oci:{tmp_path}/images:now")
    assert rich.rows()["two"]["init"] == "busybox"
    assert (
        rich.inside("two", "cat /written; stat -c %u:%g /written; ls /gone 2>/dev/null; echo $A", check=False)
        == "mine\n33:44\n1\n"
    )
    assert "getty" in rich.inside("two", "cat /etc/inittab")  # the image is without fixes
    assert "of the image" in (root / "gone").read_text()
    rich("rm", "--force", "two")
    assert not list((rich.store / ".images").iterdir())


@pytest.mark.slow
def test_after_the_host_was_down(rich: Rich, machine: Callable[..., Path]) -> None:
    """What a reboot leaves: no process, nothing in /run, folders that say what ran."""
    rich("run", "--rootfs", str(machine()), "--name", "one")
    rich("run", "--rootfs", str(machine("other")), "--name", "two")
    rich("stop", "two")
    found = rich.inspect("one")
    os.kill(found["supervisor"], signal.SIGKILL)
    os.kill(found["pid"], signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{found['pid']}").exists())
    assert rich("boot").stdout == "one\n"
    assert rich.status("one") == "running"
    assert rich.status("two") == "stopped"
    assert rich("boot", "--down").stdout == "one\n"
    assert rich.status("one") == "stopped"
    environment = {**os.environ, "JOEY_RICH": str(rich.store), "JOEY": rich.program}
    for word, status in (("start", "running"), ("stop", "stopped")):
        run(TOP / "tools" / "host" / "joey-rich", word, env=environment)
        assert rich.status("one") == status


def test_limits_are_lifted_while_it_runs(rich: Rich, machine: Callable[..., Path]) -> None:
    rich("run", "--rootfs", str(machine()), "--name", "one", "--memory", "256M", "--cpus", "1", "--pids", "50")
    files: dict[str, Path] = {}
    for line in Path(f"/proc/{rich.inspect('one')['pid']}/cgroup").read_text().splitlines():
        _, names, group = line.split(":")
        folder = Path(f"/sys/fs/cgroup/{names}{group}")
        files |= {path.name: path for path in folder.iterdir()} if names and folder.is_dir() else {}
    if "memory.limit_in_bytes" not in files or "pids.max" not in files:
        pytest.skip("no v1 groups here")
    assert files["memory.limit_in_bytes"].read_text() == f"{256 << 20}\n"
    rich("update", "--memory", "0", "--cpus", "0", "--pids", "0", "one")
    assert int(files["memory.limit_in_bytes"].read_text()) > 1 << 60
    assert files["pids.max"].read_text() == "max\n"
    assert files["cpu.cfs_quota_us"].read_text() == "-1\n"


def test_an_upgrade_that_does_not_hold(rich: Rich, machine: Callable[..., Path], tmp_path: Path) -> None:
    """The old one runs again, whatever the new one does: it ends, it has no program, it ends again and again."""
    rich(
        "run",
        "--rootfs",
        str(machine("old")),
        "--name",
        "one",
        "--restart",
        "always",
        "--stop-timeout",
        "0.5",
        "--init",
        "none",
        "/bin/sleep",
        "1000",
    )
    for name, command in (
        ("none", ""),
        ("ends", "#!/bin/sh\nexit 7\n"),
        ("loops", "#!/bin/sh\n/bin/busybox sleep 0.3\nexit 9\n"),
    ):
        root = machine(name)
        (root / "bin/sleep").unlink()
        if command:
            (root / "bin/sleep").write_text(command)
            (root / "bin/sleep").chmod(0o755)
        done = rich("upgrade", "--rootfs", str(root), "one", check=False)
        assert (done.returncode, "the old one runs again" in done.stderr) == (1, True), done.stderr
        assert rich.status("one") == "running", name
    lost = tmp_path / "lost"
    lost.mkdir()
    rich("run", "--rootfs", str(machine("two")), "--name", "two")
    pid = rich.inspect("two")["pid"]
    done = rich("upgrade", "--rootfs", str(lost), "two", check=False)
    assert (done.returncode, "no program" in done.stderr) == (2, True)
    assert rich.inspect("two")["pid"] == pid, "what can't be is told before anything is stopped"


def test_its_address_stays(there: Rich, machine: Callable[..., Path]) -> None:
    """Over a stop, a crash and an upgrade, though others come meanwhile; not where another has taken it."""

    def address(name: str) -> str:
        words = there.inside(name, "ip -4 -o address show dev eth0").split()
        return words[words.index("inet") + 1]

    root = str(machine("old"))
    there("run", "--rootfs", root, "--name", "one", "--network", "bridge", "--restart", "always")
    was = address("one")
    wait_for(lambda: was.partition("/")[0] in (there.store / "one/bundle/config.json").read_text())
    there("run", "--rootfs", root, "--name", "two", "--network", "bridge")
    assert address("two") != was
    pid = there.inspect("one")["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: there.inspect("one").get("pid") not in (0, None, pid) and there.status("one") == "running")
    assert address("one") == was
    there("restart", "one")
    assert address("one") == was
    there("upgrade", "--rootfs", str(machine("new")), "one")
    assert address("one") == was
    there("stop", "one")
    there("run", "--rootfs", root, "--name", "three", "--network", f"bridge,address={was.partition('/')[0]}")
    there("start", "one")
    assert address("one") != was


def test_ports_that_are_none(rich: Rich, machine: Callable[..., Path]) -> None:
    root = str(machine())
    for words, said in (
        (("-p", "127.0.0.1:18772:80"), "loopback"), (("-p", "18772:80", "--network", "none"), "a network of its own"),
        (("-p", "18772:80", "--network", "host"), "a network of its own"), (("--health", "x", "--health-interval", "0"), "--health-interval"),
    ):  # fmt: skip
        done = rich("create", "--rootfs", root, "--name", "one", *words, check=False)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert rich.rows() == {}


def test_no_path_of_a_hostile_machine_leads_out(rich: Rich, machine: Callable[..., Path], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "inittab").write_text("the host's")
    root = machine()
    shutil.rmtree(root / "etc")
    (root / "etc").symlink_to(outside)
    (root / "data").symlink_to(outside)
    done = rich("create", "--rootfs", str(root), "--name", "one", "--volume", "v:/data", "--env", "A=1", check=False)
    assert done.returncode == 0, done.stderr
    rich("start", "--no-wait", "one", check=False)
    assert sorted(os.listdir(outside)) == ["inittab"]
    assert (outside / "inittab").read_text() == "the host's"
    assert not list((rich.store / ".volumes" / "v").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", ["systemd", "sysvinit", "openrc"])
def test_a_real_machine_serves(host: Host, there: Rich, tmp_path: Path, kind: str) -> None:
    """Its page, its sshd with a login and its environment, its cron; and it goes down by its own way."""
    root = tmp_path / "root"
    run("cp", "-a", debian_root(*{"systemd": SERVER, "sysvinit": SYSVINIT, "openrc": OPENRC}[kind]), root)
    (root / "var/www/html/index.html").write_text("the old page\n")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(tmp_path / "key.pub", root / "root/.ssh/authorized_keys")
    (root / "etc/cron.d/joey").write_text("* * * * * root echo fired >>/var/log/fired\n")
    address = "10.71.0.10"
    network = f"bridge,address={address}"
    there("run", "--rootfs", str(root), "--name", "one", "--network", network, "--env", "ODD=a b=c", "--memory", "700M",
         "--wait-for", "init", "--wait-for", "port:80", "--wait-for", "port:22", timeout=180)  # fmt: skip
    assert there.rows()["one"]["init"] == kind
    assert fetched(host, f"http://{address}/") == "the old page\n"
    ssh = ["ssh", "-i", str(tmp_path / "key"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
           "-o", "LogLevel=ERROR", f"root@{address}"]  # fmt: skip
    assert host.call(*ssh, 'hostname; printf "%s\\n" "$ODD"; id -u') == "one\na b=c\n0\n"
    if kind == "systemd":
        failed = there.inside("one", "systemctl --failed --no-legend")
        assert failed == ""
        for group in ("memory/memory.limit_in_bytes", "pids/pids.max", "cpu/cpu.cfs_quota_us"):
            if (Path("/sys/fs/cgroup") / group.partition("/")[0]).is_dir():
                said = there.inside("one", f"echo -1 2>&1 >/sys/fs/cgroup/{group} || :")
                assert "Read-only" in said, "its limits are not its own to lift"
        inventory = tmp_path / "inventory.json"
        inventory.write_text(run(there.program, "migrate", "inspect", root, "--json"))
        compared = there("verify", "--against", str(inventory), "one", "--json")
        assert json.loads(compared.stdout)["unexplained"] == 0
        there.inside("one", "systemctl stop nginx; userdel postgres", check=False)
        compared = there("verify", "--against", str(inventory), "one", check=False)
        assert compared.returncode == 1
        assert "port 80" in compared.stdout
        assert "service nginx" in compared.stdout
        there.inside("one", "systemctl start nginx")
        assert "Started" in there("logs", "--journal", "one").stdout
    wait_for(lambda: "fired" in there.inside("one", "cat /var/log/fired", check=False), 75)
    there("stop", "one", timeout=60)
    log = there.log("one")
    assert "ended with signal 2" in log or "ended with status 0" in log
    assert "signal 9" not in log


@pytest.mark.slow
def test_systemd_with_ids_of_nobodys(rich: Rich) -> None:
    for folder in list(rich.store.parents)[:4]:
        folder.chmod(folder.stat().st_mode | 0o001)
    rich("run", "--rootfs", str(debian_root(*SERVER)), "--name", "one", "--id-map", "150000", "--wait-for", "init",
         "--wait-for", "port:80")  # fmt: skip
    assert rich.inside("one", "systemctl is-system-running").strip() == "running"
    status = Path(f"/proc/{rich.inspect('one')['pid']}/status").read_text()
    assert "Uid:\t150000" in status
    rich("stop", "one")
    assert "signal 9" not in rich.log("one")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64 (tools/test has it)")
def test_a_machine_on_the_kernel_that_answers_like_2_6_32(tmp_path: Path) -> None:
    """By the host kit alone: no overlay, no setns, and reboot(2) would be the host's."""
    job = """
        mount -t tmpfs -o size=1200m none /var/lib
        joey rich run --rootfs /rootfs --name old --wait-timeout 400 --wait-for init --wait-for port:80 --env "A=b c" --policy permissive
        joey rich exec old cat /etc/environment
        joey rich exec old ps ax
        joey rich stop old && joey rich ps --all
        joey rich logs old | tail -3
    """
    status, output = boot(tmp_path, job, f"{debian_root(*SYSVINIT)}=/rootfs", memory=2500, timeout=800)
    assert 'A="b c"' in output
    assert "nginx: master process" in output
    assert "/usr/sbin/cron" in output
    assert "old   stopped  sysvinit" in output
    assert "Will now halt." in output
    assert status == 0


def test_what_a_newer_joey_made_is_left_alone(rich: Rich, machine: Callable[..., Path]) -> None:
    rich("create", "--rootfs", str(machine()), "--name", "one")
    record = rich.store / "one/rich.json"
    value = json.loads(record.read_text())
    record.write_text(json.dumps({**value, "shininess": 7}))
    done = rich("start", "one", check=False)
    assert "is of a newer joey: it has shininess" in done.stderr
    assert "rm --force" not in done.stderr
    record.write_text(json.dumps(value))
    rich("start", "one")
