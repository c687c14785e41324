"""A container's own view of /proc: memory, CPUs, load, uptime, disks; by each of the ways that a host may have."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle, cgroups_named

pytestmark = pytest.mark.root

LIMIT = 96 << 20
FILES = ("/proc/cpuinfo /proc/diskstats /proc/loadavg /proc/meminfo /proc/stat /proc/swaps /proc/uptime "
         "/sys/devices/system/cpu/online").split()  # fmt: skip
WAYS = ("fuse", "files", "lxcfs", "lxcfs-started")

needs_lxcfs = pytest.mark.skipif(shutil.which("lxcfs") is None, reason="needs lxcfs (tools/test installs it)")


def limited(config: dict[str, Any]) -> None:
    config["linux"]["resources"].update(memory={"limit": LIMIT}, cpu={"quota": 50000, "period": 100000})


class Lxcfs:
    """An lxcfs that somebody runs on this host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        self.process = subprocess.Popen(["lxcfs", "-f", "-l", "--enable-cfs", "-p", f"{self.folder}.pid", self.folder],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        deadline = time.monotonic() + 10
        while not (self.folder / "proc").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self.process

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.fixture
def lxcfs(tmp_path: Path) -> Iterator[Lxcfs]:
    """The only one at a time: joey shows the first that it finds."""
    with Path(tempfile.gettempdir(), "joey-tests-lxcfs").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        made = Lxcfs(tmp_path / "lxcfs")
        yield made
        made.kill()


@pytest.fixture(params=[*WAYS[:2], *(pytest.param(way, marks=needs_lxcfs) for way in WAYS[2:])])
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "lxcfs":
        request.getfixturevalue("lxcfs")
    return name


def meminfo(text: str) -> dict[str, int]:
    """Bytes by name."""
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in text.splitlines() if line}


def sections(text: str) -> dict[str, str]:
    """What `head FILE...` prints, by file."""
    parts = re.split(r"^==> (\S+) <==\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_it_sees_itself(joey: Joey, bundle: MakeBundle, way: str) -> None:
    """After 1.5 seconds of work it has lived some seconds, worked for about one on half a CPU, and has its limit."""
    script = f"yes >/dev/null & sleep 3; head -n 200 {' '.join(FILES)}"
    done = joey(
        "run", "--views", "--force", f"views={way}", "-b", str(bundle("sh", "-c", script, change=limited)), joey.id()
    )
    seen = sections(done.stdout)
    assert list(seen) == FILES
    memory, of_host = meminfo(seen["/proc/meminfo"]), meminfo(Path("/proc/meminfo").read_text())
    assert memory["MemTotal"] == LIMIT
    assert LIMIT // 2 < memory["MemFree"] <= memory["MemAvailable"] <= LIMIT
    assert memory["SwapTotal"] <= of_host["SwapTotal"]
    assert 1.5 < float(seen["/proc/uptime"].split()[0]) < 20
    load = seen["/proc/loadavg"].split()
    assert all(float(word) < 3 for word in load[:3])
    assert int(load[3].split("/")[1]) <= 5
    assert seen["/proc/swaps"].startswith("Filename")
    assert len(re.findall(r"^processor\s*: \d+$", seen["/proc/cpuinfo"], re.MULTILINE)) == 1
    assert "cpu0 " in seen["/proc/stat"]
    assert "cpu1 " not in seen["/proc/stat"]
    if not way.startswith("lxcfs"):  # the packaged lxcfs sees no CPU time in cgroups with a quota
        user, _, system = (int(word) for word in seen["/proc/stat"].split()[1:4])
        assert 0.4 < (user + system) / os.sysconf("SC_CLK_TCK") < 4
        assert seen["/sys/devices/system/cpu/online"].strip() == "0"


def test_they_are_as_long_as_they_say(joey: Joey, bundle: MakeBundle, way: str) -> None:
    """Programs go by the size: tail seeks from the end, sendfile ends there."""
    script = "for f in meminfo cpuinfo; do cat /proc/$f >/tmp/$f; wc -c </proc/$f; wc -c </tmp/$f; tail -c 20 /proc/$f | wc -c; done"

    def change(config: dict[str, Any]) -> None:
        limited(config)
        config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]})

    out = joey(
        "run", "--views", "--force", f"views={way}", "-b", str(bundle("sh", "-c", script, change=change)), joey.id()
    )
    one, two, tail, three, four, more = map(int, out.stdout.split())
    assert (one, tail) == (two, 20)
    if not way.startswith("lxcfs"):  # whose cpuinfo says the size of the host's
        assert more == 20
    assert (three, three > 20) == (four, True)


def test_memory_that_is_used_is_seen(joey: Joey, bundle: MakeBundle, way: str) -> None:
    """Held in a file of /dev/shm, which counts for the container."""
    script = "grep MemFree /proc/meminfo; dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null; sleep 2; grep MemFree /proc/meminfo"
    folder = bundle("sh", "-c", script, change=limited)
    out = joey("run", "--views", "--force", f"views={way}", "-b", str(folder), joey.id()).stdout
    before, after = (int(line.split()[1]) for line in out.splitlines())
    assert 35 << 10 < before - after < 60 << 10


def test_a_limit_that_changes_is_seen(joey: Joey, bundle: MakeBundle, way: str) -> None:
    name = joey.id()
    joey("run", "-d", "--views", "--force", f"views={way}", "-b", str(bundle("sleep", "100", change=limited)), name)
    joey("update", "--memory", str(64 << 20), "--memory-swap", str(64 << 20), name)
    time.sleep(1.5)
    out = joey("exec", name, "grep", "MemTotal", "/proc/meminfo").stdout
    assert int(out.split()[1]) == 64 << 10


@pytest.mark.parametrize("by", ["fuse", "files"])
def test_without_a_cgroup_it_sees_what_the_watcher_keeps(joey: Joey, bundle: MakeBundle, by: str) -> None:
    words = ["--force", "cgroup.memory=watcher", "--policy", "permissive", "--force", f"views={by}", "--views"]
    folder = bundle("sh", "-c", "sleep 2; grep -E 'MemTotal|MemFree' /proc/meminfo", change=limited)
    total, free = (
        int(line.split()[1]) << 10 for line in joey("run", *words, "-b", str(folder), joey.id()).stdout.splitlines()
    )
    assert total == LIMIT
    assert LIMIT // 2 < free < LIMIT


def test_in_a_user_namespace(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        limited(config)
        config["linux"]["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = ids

    for by in ("fuse", "files"):
        folder = bundle("grep", "MemTotal", "/proc/meminfo", change=change)
        subprocess.run(["chown", "-R", "-h", "100000:100000", folder / "rootfs"], check=True)
        out = joey("run", "--views", "--force", f"views={by}", "-b", str(folder), joey.id()).stdout
        assert int(out.split()[1]) << 10 == LIMIT


def test_nothing_stays(joey: Joey, bundle: MakeBundle, way: str) -> None:
    """No mount, no process, no file; neither after a container that ended nor after one that never began."""
    before = set(Path("/run/joey-public").glob("*")) if Path("/run/joey-public").exists() else set()

    def failing(config: dict[str, Any]) -> None:
        limited(config)
        config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}

    names = []
    for change in (limited, failing):
        names.append(joey.id())
        joey(
            "run",
            "--views",
            "--force",
            f"views={way}",
            "-b",
            str(bundle("true", change=change)),
            names[-1],
            check=False,
        )
    mine = [
        name for name in names if any(name in line for line in Path("/proc/self/mountinfo").read_text().splitlines())
    ]
    assert not mine
    left = {path for path in Path("/run/joey-public").glob("*") if any(name in path.name for name in names)} - before
    assert not left
    assert not [group for name in names for group in cgroups_named(name)]


def test_a_killed_joey_is_cleaned_up_after(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"]}]}

    name = joey.id()
    command = joey.command("run", "--views", "--force", "views=fuse", "-b", str(bundle("true", change=change)), name)
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 20
        while f"/run/joey-public/{name}" not in Path("/proc/self/mountinfo").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGKILL)
    joey("delete", "--force", name)
    assert f"/run/joey-public/{name}" not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/run/joey-public").glob(f"{name}*"))


@needs_lxcfs
def test_lxcfs_is_shown_again_after_a_restart(joey: Joey, bundle: MakeBundle, lxcfs: Lxcfs) -> None:
    name = joey.id()
    folder = bundle("sleep", "100", change=limited)
    joey("run", "-d", "--views", "--force", "views=lxcfs", "-b", str(folder), name)
    read = ("exec", name, "grep", "MemTotal", "/proc/meminfo")
    assert str(LIMIT >> 10) in joey(*read).stdout
    lxcfs.kill()
    assert "not connected" in joey(*read, check=False).stderr
    lxcfs.start()
    deadline = time.monotonic() + 10
    while (done := joey(*read, check=False)).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert str(LIMIT >> 10) in done.stdout
    assert "lxcfs" in joey("exec", name, "cat", "/proc/mounts").stdout


@needs_lxcfs
def test_the_lxcfs_that_joey_starts_is_shared_and_ends_with_the_last(joey: Joey, bundle: MakeBundle) -> None:
    def running() -> list[str]:
        out = subprocess.run(["pgrep", "-a", "lxcfs"], capture_output=True, text=True, check=False).stdout
        return [line for line in out.splitlines() if "/run/joey-public/" in line]

    before = running()
    names = [joey.id(), joey.id()]
    folder = bundle("sleep", "100", change=limited)
    for name in names:
        joey("run", "-d", "--views", "--force", "views=lxcfs-started", "-b", str(folder), name)
    (mine,) = set(running()) - set(before)
    joey("delete", "--force", names[0])
    assert mine in running()
    assert joey("exec", names[1], "cat", "/proc/uptime").returncode == 0
    joey("delete", "--force", names[1])
    deadline = time.monotonic() + 10
    while mine in running():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_hostile_readers_and_writers(joey: Joey, bundle: MakeBundle) -> None:
    """Nobody writes there; a thousand open files, and reads of any size and place, do no harm."""
    script = (
        "(echo x > /proc/meminfo) 2>/dev/null && echo wrote; rm -f /proc/meminfo 2>/dev/null && echo removed; "
        '(ulimit -n 3000; i=3; while [ $i -lt 2000 ]; do eval "exec $i</proc/stat" || break; i=$((i+1)); done) 2>/dev/null; '
        "dd if=/proc/meminfo bs=1 skip=100000 count=5 2>/dev/null | wc -c; dd if=/proc/meminfo bs=7 2>/dev/null | wc -l; "
        "for i in $(yes | head -n 200); do cat /proc/stat /proc/cpuinfo >/dev/null & done; wait; grep MemTotal /proc/meminfo"
    )
    folder = bundle("sh", "-c", script, change=limited)
    out = joey("run", "--views", "--force", "views=fuse", "-b", str(folder), joey.id()).stdout.split()
    assert out[0] == "0"
    assert int(out[1]) > 20
    assert out[2:4] == ["MemTotal:", str(LIMIT >> 10)]


def test_by_annotation_and_in_the_plan(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        limited(config)
        config["annotations"] = {"io.joey.views": "on"}

    done = joey("plan", "-b", str(bundle("true", change=change)))
    assert re.search(r"views +(lxcfs|lxcfs-started|fuse) ", done.stdout)
    assert "views" not in joey("plan", "-b", str(bundle("true"))).stdout

    def wrong(config: dict[str, Any]) -> None:
        config["annotations"] = {"io.joey.views": "yes"}

    done = joey("plan", "-b", str(bundle("true", change=wrong)), check=False)
    assert done.returncode == 1
    assert '"yes" is neither "on" nor "off"' in done.stderr


@pytest.mark.parametrize("by", ["fuse", "files"])
def test_root_inside_writes_to_none_of_them(joey: Joey, bundle: MakeBundle, by: str) -> None:
    paths = " ".join(FILES)
    script = f"for f in {paths}; do (dd if=/dev/zero of=$f bs=1k count=1 || chmod 777 $f) 2>/dev/null && echo $f; done; echo end"
    folder = bundle("sh", "-c", script, change=limited)
    assert joey("run", "--views", "--force", f"views={by}", "-b", str(folder), joey.id()).stdout == "end\n"
