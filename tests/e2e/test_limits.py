"""Limits and pauses without a cgroup controller: forced here, where there are all."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle
from .test_life import wait_for, with_resources

pytestmark = pytest.mark.root

PYTHON = Path("/usr/bin/python3")
needs_python = pytest.mark.skipif(not PYTHON.exists(), reason=f"needs {PYTHON}")
# tries to have 40 processes at once; says how many it got, and that they ended
FORKS = (
    "import os, errno\n"
    "made = []\n"
    "for _ in range(40):\n"
    "    try: pid = os.fork()\n"
    "    except OSError as error:\n"
    "        print(errno.errorcode[error.errno], len(made) < 20, flush=True); break\n"
    "    if pid == 0:\n"
    "        import time; time.sleep(3); os._exit(0)\n"
    "    made.append(pid)\n"
    "else: print('all', flush=True)\n"
    "for pid in made: os.kill(pid, 9); os.waitpid(pid, 0)\n"
    "pid = os.fork()\n"
    "print('again', flush=True)\n"
    "if pid: os.waitpid(pid, 0)\n"
)


def with_python(change: Any) -> Any:
    def both(config: dict[str, Any]) -> None:
        change(config)
        for place in ("/usr", "/lib", "/lib64"):
            if Path(place).is_dir():
                mount = {"destination": place, "source": place, "type": "bind", "options": ["rbind", "ro"]}
                config["mounts"].append(mount)

    return both


@needs_python
@pytest.mark.parametrize("way", ["v1", "ptrace"])
def test_a_process_limit_answers_eagain(way: str, joey: Joey, bundle: MakeBundle) -> None:
    if way == "v1" and not Path("/sys/fs/cgroup/pids").is_dir():
        pytest.skip("no v1 pids hierarchy here")
    change = with_python(with_resources(pids={"limit": 20}))
    folder = bundle(str(PYTHON), "-c", FORKS, change=change)
    done = joey("run", "--force", f"cgroup.pids={way}", "-b", str(folder), joey.id())
    assert done.stdout.splitlines()[0] == "EAGAIN True", done.stderr
    assert done.stdout.count("again") == 2


def in_user_namespace(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = ids


def with_profile(config: dict[str, Any]) -> None:
    rule = {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


@needs_python
@pytest.mark.parametrize(
    ("forced", "more"),
    [
        (("userns=emulated",), (in_user_namespace,)),
        (("userns=emulated-unfiltered",), (in_user_namespace,)),
        (("seccomp=ptrace",), (with_profile,)),
        (("userns=emulated", "seccomp-privileged=ptrace"), (in_user_namespace, with_profile)),
        (("userns=emulated-unfiltered", "seccomp-privileged=ptrace"), (in_user_namespace, with_profile)),
    ],
)
def test_a_process_limit_beside_what_else_is_traced(
    forced: tuple[str, ...], more: tuple[Any, ...], joey: Joey, bundle: MakeBundle
) -> None:
    limited = with_python(with_resources(pids={"limit": 20}))

    def change(config: dict[str, Any]) -> None:
        for one in (limited, *more):
            one(config)

    folder = bundle(str(PYTHON), "-c", FORKS, change=change)
    if in_user_namespace in more:
        subprocess.run(["chown", "-R", "-h", "100000:100000", folder / "rootfs"], check=True)
    words = [word for item in ("cgroup.pids=ptrace", *forced) for word in ("--force", item)]
    done = joey("run", *words, "-b", str(folder), joey.id())
    assert done.stdout.splitlines()[0] == "EAGAIN True", done.stderr
    assert done.stdout.count("again") == 2


@needs_python
def test_a_process_limit_kept_by_a_tracer_can_be_changed(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    change = with_python(with_resources(pids={"limit": 100}))
    joey("run", "-d", "--force", "cgroup.pids=ptrace", "-b", str(bundle("sleep", "100", change=change)), name)
    assert joey("exec", name, str(PYTHON), "-c", FORKS).stdout.startswith("all\n")
    joey("update", "--pids-limit", "12", name)
    assert joey("exec", name, str(PYTHON), "-c", FORKS).stdout.startswith("EAGAIN True\n")


def permissive(joey: Joey, folder: Path, name: str, *forced: str) -> subprocess.CompletedProcess[str]:
    words = [word for item in forced for word in ("--force", item)]
    done = joey("run", "-d", *words, "-b", str(folder), name, check=False)
    assert (done.returncode, "too weak for the strict policy" in done.stderr) == (1, True)
    return joey("run", "-d", "--policy", "permissive", *words, "-b", str(folder), name)


@needs_python
def test_a_watcher_keeps_the_memory_limit(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    change = with_python(with_resources(memory={"limit": 64 << 20}))
    done = permissive(joey, bundle("sleep", "100", change=change), name, "cgroup.memory=watcher")
    assert "cgroup.memory: watcher is used" in done.stderr
    hungry = "x = b'x' * (200 << 20); import time; time.sleep(5); print('still here')"
    done = joey("exec", name, str(PYTHON), "-c", hungry, check=False)
    assert (done.returncode, done.stdout) == (137, "")
    assert joey.state(name)["status"] == "running"
    assert "killed" in (joey.root / name / "watcher.log").read_text()
    joey("update", "--memory", "400m", name)
    time.sleep(0.2)
    assert joey("exec", name, str(PYTHON), "-c", hungry.replace("5", "0.3")).stdout == "still here\n"


@needs_python
def test_a_watcher_keeps_the_process_limit(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    change = with_python(with_resources(pids={"limit": 15}))
    permissive(joey, bundle("sleep", "100", change=change), name, "cgroup.pids=watcher")
    joey("exec", name, str(PYTHON), "-c", FORKS.replace("len(made) < 20", "0"), check=False)
    wait_for(lambda: len(json.loads(joey("ps", "--format", "json", name).stdout)) <= 15)
    assert joey.state(name)["status"] == "running"


def test_the_watcher_ends_with_the_container(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    change = with_resources(memory={"limit": 64 << 20})
    permissive(joey, bundle("sleep", "100", change=change), name, "cgroup.memory=watcher")

    def watchers() -> list[str]:
        out = []
        for pid in os.listdir("/proc"):
            try:
                text = Path(f"/proc/{pid}/comm").read_text() + Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            if text.startswith("joey-watcher") and str(joey.root) in text:
                out.append(pid)
        return out

    wait_for(lambda: len(watchers()) == 1)  # it takes its name a moment after it was started
    joey("kill", name, "KILL")
    wait_for(lambda: not watchers())


def busy_share(joey: Joey, name: str, seconds: float) -> float:
    """How many CPUs a container's processes used, on average over some seconds."""

    def ticks() -> int:
        total = 0
        for entry in json.loads(joey("ps", "--format", "json", name).stdout):
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total

    before, started = ticks(), time.monotonic()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - started)


def seen_stopped(joey: Joey, name: str) -> bool:
    """Whether a process of the container is found stopped by a signal, in a second of looking."""
    pids = json.loads(joey("ps", "--format", "json", name).stdout)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if any(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" for pid in pids):
            return True
        time.sleep(0.005)
    return False


@pytest.mark.slow
def test_a_watcher_keeps_the_cpu_quota(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    change = with_resources(cpu={"quota": 30000, "period": 100000})
    script = "yes >/dev/null & yes >/dev/null & exec yes >/dev/null"
    done = permissive(joey, bundle("sh", "-c", script, change=change), name, "cgroup.cpu.quota=watcher")
    assert "cgroup.cpu.quota: watcher is used" in done.stderr
    time.sleep(0.5)
    assert 0 < busy_share(joey, name, 3) < 0.45
    assert seen_stopped(joey, name)
    assert joey.state(name)["status"] == "running"
    joey("pause", "--force", "pause=sigstop", name)
    time.sleep(0.2)
    assert busy_share(joey, name, 1) < 0.02, "what the user has paused stays so"
    joey("resume", name)
    joey("update", "--cpu-quota", "80000", name)
    time.sleep(0.5)
    assert 0 < busy_share(joey, name, 3) < 1.1
    joey("update", "--cpu-quota", "-1", name)
    time.sleep(0.5)
    assert not seen_stopped(joey, name)


def test_shares_of_each_process(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    change = with_resources(cpu={"shares": 336, "cpus": "0"}, blockIO={"weight": 10})
    forced = ("cgroup.cpu=nice", "cgroup.cpuset=affinity", "cgroup.blkio=io-priority")
    done = joey("run", "-d", "--policy", "permissive", *(word for item in forced for word in ("--force", item)), "-b",
                str(bundle("sleep", "100", change=change)), name)  # fmt: skip
    for feature in forced:
        assert f"{feature.partition('=')[0]}: {feature.partition('=')[2]} is used" in done.stderr
    for process in (str(joey.state(name)["pid"]), joey("exec", "-d", "--pid-file", f"{joey.root}/pid", name, "sleep", "9")
                    .stdout or (joey.root / "pid").read_text()):  # fmt: skip
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        assert fields[16] == "5"  # 1024 / 1.25 ** 5
        assert "Cpus_allowed_list:\t0\n" in Path(f"/proc/{process}/status").read_text()
        # ioprio_get(2): best effort, 7
        code = "import ctypes, sys; print(ctypes.CDLL(None).syscall(252, 1, int(sys.argv[1])))"
        done = subprocess.run([str(PYTHON), "-c", code, process], capture_output=True, text=True, check=True)
        assert int(done.stdout) == 2 << 13 | 7
    (joey.root / "pid").unlink()


def test_a_pause_by_signals(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    script = "while true; do sh -c 'date +%s%N > /tmp/now'; done"
    folder = bundle("sh", "-c", script)
    joey("run", "-d", "-b", str(folder), name)
    now = folder / "rootfs" / "tmp" / "now"
    wait_for(now.exists)
    assert "pause: sigstop is used" in joey("pause", "--force", "pause=sigstop", name).stderr
    assert joey.state(name)["status"] == "paused"
    before = now.read_text()
    time.sleep(0.3)
    assert now.read_text() == before
    assert "cannot exec in a paused container" in joey("exec", name, "true", check=False).stderr
    joey("resume", name)
    assert joey.state(name)["status"] == "running"
    wait_for(lambda: now.read_text() != before)
    joey("pause", "--force", "pause=sigstop", name)
    joey("kill", name, "KILL")
    wait_for(lambda: joey.state(name)["status"] == "stopped")


@pytest.mark.skipif("rdma" in Path("/proc/cgroups").read_text(), reason="this kernel has an RDMA controller")
def test_a_limit_that_nothing_keeps_is_not_changed(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    name = joey.id()
    joey("run", "-d", "-b", str(bundle("sleep", "100")), name)
    (tmp_path / "resources.json").write_text('{"rdma": {"mlx5_1": {"hcaHandles": 1}}, "memory": {"limit": 99999744}}')
    done = joey("update", "--resources", str(tmp_path / "resources.json"), name, check=False)
    assert (
        done.returncode,
        "linux.resources.rdma: the container is in no cgroup that carries rdma" in done.stderr,
    ) == (1, True)
    assert "99999744" not in (joey.root / name / "config.json").read_text()
    (tmp_path / "resources.json").write_text('{"hugepageLimits": [], "blockIO": {"weight": 0}, "pids": {"limit": 0}}')
    joey("update", "--resources", str(tmp_path / "resources.json"), name)
