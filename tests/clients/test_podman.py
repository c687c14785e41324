"""podman with joey as its runtime: what its users do every day."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest

from ..conftest import cgroups_named
from .conftest import Podman, until

pytestmark = [pytest.mark.root, pytest.mark.slow]

ALONE = ("--network", "none")


@pytest.fixture
def box(podman: Podman) -> str:
    """The name of a running container that ends with status 3 on SIGTERM."""
    name = f"c{uuid.uuid4().hex[:8]}"
    script = 'trap "exit 3" TERM; echo hello; while :; do sleep 0.1; done'
    limits = ("--memory", "64m", "--cpus", "0.5", "--pids-limit", "50")
    podman("run", "-d", "--name", name, *ALONE, *limits, "bb", "sh", "-c", script)
    return name


def test_the_exit_status_and_output_are_the_programs(podman: Podman) -> None:
    done = podman("run", "--rm", *ALONE, "bb", "sh", "-c", "echo out; echo err >&2; exit 7", status=7)
    assert (done.stdout, "err" in done.stderr) == ("out\n", True)


def test_a_program_that_is_not_there_is_127_and_one_that_may_not_run_is_126(podman: Podman) -> None:
    """podman tells these two apart by the runtime's log lines."""
    assert "no such file or directory" in podman("run", "--rm", *ALONE, "bb", "/gone", status=127).stderr.lower()
    assert "executable file not found" in podman("run", "--rm", *ALONE, "bb", "gone", status=127).stderr.lower()
    assert "permission denied" in podman("run", "--rm", *ALONE, "bb", "/etc/passwd", status=126).stderr.lower()


def test_standard_input_and_a_terminal(podman: Podman) -> None:
    assert podman("run", "--rm", "-i", *ALONE, "bb", "cat", input="words\n").stdout == "words\n"
    assert "/dev/pts/0" in podman("run", "--rm", "-it", *ALONE, "bb", "tty", tty=True).stdout


def test_exec(podman: Podman, box: str) -> None:
    assert podman("exec", box, "sh", "-c", "echo in; exit 5", status=5).stdout == "in\n"
    assert podman("exec", "-i", box, "cat", input="data").stdout == "data"
    assert "/dev/pts/" in podman("exec", "-it", box, "tty", tty=True).stdout
    assert "uid=1000(user) gid=1000(user)" in podman("exec", "--user", "1000:1000", box, "id").stdout
    assert podman("exec", "--workdir", "/tmp", "--env", "A=b", box, "sh", "-c", "pwd; echo $A").stdout == "/tmp\nb\n"
    podman("exec", box, "gone", status=127)


def test_logs_top_and_stats(podman: Podman, box: str) -> None:
    until(lambda: podman("logs", box).stdout == "hello\n", "the log")
    assert "sh -c trap" in podman("top", box, "args").stdout
    (stats,) = podman.json("stats", "--no-stream", "--format", "json", box)
    assert re.search(r"/ 6[47]\.?\d*MB", stats["mem_usage"]), stats
    assert int(stats["pids"]) >= 1


def test_pause_and_unpause(podman: Podman, box: str) -> None:
    podman("pause", box)
    assert podman("inspect", "--format", "{{.State.Status}}", box).stdout == "paused\n"
    podman("exec", box, "true", status=255)
    podman("unpause", box)
    podman("exec", box, "true")


def test_limits_and_their_update(podman: Podman, box: str) -> None:
    def limit() -> str:
        identity = podman("inspect", "--format", "{{.Id}}", box).stdout.strip()
        (group,) = (path for path in cgroups_named(f"libpod-{identity}") if "/memory/" in str(path))
        return (group / "memory.limit_in_bytes").read_text()

    if not Path("/sys/fs/cgroup/memory").is_dir():
        pytest.skip("cgroup v1 is not mounted here: tests/e2e/test_cgroup_v2.py has v2")
    assert limit() == f"{64 << 20}\n"
    podman("update", "--memory", "128m", "--cpus", "1", box)
    assert limit() == f"{128 << 20}\n"


def test_stop_start_and_kill(podman: Podman, box: str) -> None:
    status = ("inspect", "--format", "{{.State.ExitCode}}", box)
    podman("stop", box)
    assert podman(*status).stdout == "3\n"
    podman("start", box)
    podman("kill", "--signal", "KILL", box)
    until(lambda: podman(*status).stdout == "137\n", "the end")
    podman("rm", box)


def test_a_locked_down_container(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside")
    tmp_path.chmod(0o755)
    hard = ("--user", "1234", "--cap-drop", "all", "--read-only", "--tmpfs", "/tmp", "-v", f"{tmp_path}:/mnt:ro")
    script = "id -u; grep CapEff /proc/self/status; touch /x; touch /tmp/y && echo written; cat /mnt/file; touch /mnt/z"
    done = podman("run", "--rm", *ALONE, *hard, "bb", "sh", "-c", script, status=1)
    assert done.stdout.split() == ["1234", "CapEff:", "0000000000000000", "written", "from", "outside"]
    assert done.stderr.count("Read-only file system") == 2


def test_a_seccomp_profile(podman: Podman, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    command = ("run", "--rm", *ALONE, "--security-opt", f"seccomp={profile}", "bb", "mkdir", "/a")
    assert "Operation not permitted" in podman(*command, status=1).stderr
    podman("run", "--rm", *ALONE, "--security-opt", "seccomp=unconfined", "bb", "mkdir", "/a")


def test_privileged_device_sysctl_and_shm(podman: Podman) -> None:
    here = re.search(r"CapBnd:\t(\w+)", Path("/proc/self/status").read_text())
    assert here
    assert (
        f"CapEff:\t{here[1]}" in podman("run", "--rm", *ALONE, "--privileged", "bb", "cat", "/proc/self/status").stdout
    )
    options = (
        "--device",
        "/dev/null:/dev/also",
        "--sysctl",
        "net.ipv4.ip_forward=1",
        "--shm-size",
        "1m",
        "--hostname",
        "foo",
    )
    script = "cat /proc/sys/net/ipv4/ip_forward; mount | grep -o size=1024k; hostname; echo x > /dev/also && echo ok"
    assert podman("run", "--rm", *ALONE, *options, "bb", "sh", "-c", script).stdout.split() == [
        "1",
        "size=1024k",
        "foo",
        "ok",
    ]


def test_a_user_namespace(podman: Podman) -> None:
    maps = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
    done = podman("run", "--rm", *ALONE, *maps, "bb", "sh", "-c", "id -u; cat /proc/self/uid_map")
    assert done.stdout.split() == ["0", "0", "100000", "65536"]


def test_a_healthcheck(podman: Podman, box: str) -> None:
    health = ("--health-cmd", "test -e /healthy", "--health-interval", "disable", "--health-retries", "1")
    podman("run", "-d", "--name", f"{box}h", *ALONE, *health, "bb", "sleep", "100")
    podman("healthcheck", "run", f"{box}h", status=1)
    podman("exec", f"{box}h", "touch", "/healthy")
    podman("healthcheck", "run", f"{box}h")


def test_a_bridge_network(podman: Podman, box: str) -> None:
    """Two containers on a netavark bridge talk; a published port would need more of the host than a test may take."""
    serve = ("sh", "-c", "echo over the bridge | nc -l -p 80")
    podman("run", "-d", "--name", f"{box}n", "--network", "podman", "bb", *serve)
    address = podman("inspect", "--format", "{{.NetworkSettings.IPAddress}}", f"{box}n").stdout.strip()
    assert address.startswith("10.88.")
    client = ("sh", "-c", f"nc -w 5 {address} 80 < /dev/null")
    assert podman("run", "--rm", "--network", "podman", "bb", *client).stdout == "over the bridge\n"


def test_a_pod_shares_its_namespaces(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", f"{box}a", *ALONE, "--hostname", "shared", "bb", "sleep", "100")
    join = ("--network", f"container:{box}a", "--pid", f"container:{box}a", "--uts", f"container:{box}a")
    done = podman("run", "--rm", *join, "bb", "sh", "-c", "hostname; ps")
    assert done.stdout.startswith("shared\n")
    assert "sleep 100" in done.stdout


def test_nothing_is_left(podman: Podman, box: str) -> None:
    identity = podman("inspect", "--format", "{{.Id}}", box).stdout.strip()
    podman("rm", "-f", "-t", "0", box)
    assert not cgroups_named(identity)
    assert identity not in Path("/proc/self/mountinfo").read_text()
    assert not (Path("/run/joey/containers") / identity).exists()
