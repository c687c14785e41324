"""docker with joey as its default runtime."""

from __future__ import annotations

import uuid

import pytest

from ..conftest import cgroups_named
from .conftest import Docker, until

pytestmark = [pytest.mark.root, pytest.mark.slow]

ALONE = ("--network", "none")


@pytest.fixture
def box(docker: Docker) -> str:
    name = f"c{uuid.uuid4().hex[:8]}"
    command = ("sh", "-c", 'trap "exit 3" TERM; echo hello; while :; do sleep 0.1; done')
    docker(
        "run", "-d", "--name", name, *ALONE, "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "bb", *command
    )
    return name


def test_joey_is_the_runtime(docker: Docker) -> None:
    assert docker("info", "--format", "{{.DefaultRuntime}}").stdout == "joey\n"


def test_run(docker: Docker) -> None:
    assert docker("run", "--rm", *ALONE, "bb", "sh", "-c", "echo out; exit 7", status=7).stdout == "out\n"
    assert docker("run", "--rm", "-i", *ALONE, "bb", "cat", input="words").stdout == "words"
    assert "/dev/pts/0" in docker("run", "--rm", "-it", *ALONE, "bb", "tty", tty=True).stdout


def test_a_program_that_is_not_there_is_127_and_one_that_may_not_run_is_126(docker: Docker) -> None:
    docker("run", "--rm", *ALONE, "bb", "/gone", status=127)
    docker("run", "--rm", *ALONE, "bb", "gone", status=127)
    docker("run", "--rm", *ALONE, "bb", "/etc/passwd", status=126)


def test_exec_logs_top_and_pause(docker: Docker, box: str) -> None:
    assert docker("exec", box, "sh", "-c", "echo in; exit 5", status=5).stdout == "in\n"
    assert docker("exec", "--user", "1000:1000", box, "id", "-u").stdout == "1000\n"
    assert "/dev/pts/" in docker("exec", "-it", box, "tty", tty=True).stdout
    docker("exec", box, "gone", status=126)  # as with runc and docker 20.10
    until(lambda: docker("logs", box).stdout == "hello\n", "the log")
    assert "sleep 0.1" in docker("top", box).stdout or "sh -c" in docker("top", box).stdout
    docker("pause", box)
    assert docker("inspect", "--format", "{{.State.Status}}", box).stdout == "paused\n"
    docker("unpause", box)
    docker("rm", "-f", box)


def test_update_stats_stop_and_restart(docker: Docker, box: str) -> None:
    docker("update", "--memory", "128m", "--memory-swap", "256m", box)
    for _ in range(5):  # why more than once: see test_containerd.py
        counters = docker("stats", "--no-stream", box).stdout
        if "/ 128MiB" in counters:
            break
        docker("restart", "--time", "0", box)
    assert "/ 128MiB" in counters
    docker("stop", "--time", "5", box)
    assert docker("inspect", "--format", "{{.State.ExitCode}}", box).stdout == "3\n"
    docker("restart", box)
    identity = docker("inspect", "--format", "{{.Id}}", box).stdout.strip()
    docker("rm", "-f", box)
    assert not cgroups_named(identity)


def test_a_locked_down_container(docker: Docker) -> None:
    hard = (
        "--user",
        "1234",
        "--cap-drop",
        "ALL",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--security-opt",
        "no-new-privileges",
    )
    script = (
        "id -u; grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; touch /tmp/y && echo ok; touch /x"
    )
    done = docker("run", "--rm", *ALONE, *hard, "bb", "sh", "-c", script, status=1)
    assert done.stdout.split() == ["1234", "CapEff:", "0000000000000000", "NoNewPrivs:", "1", "ok"]


def test_an_init_and_a_memory_kill(docker: Docker) -> None:
    script = "tail /dev/zero; echo $?"
    done = docker("run", "--rm", *ALONE, "--init", "--memory", "32m", "--memory-swap", "32m", "bb", "sh", "-c", script)
    assert done.stdout == "137\n"
