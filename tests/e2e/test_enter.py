"""Entering a running container: by setns, and by the agent inside on kernels without it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle
from .test_life import accept_master, receive_master, run_in_terminal, wait_for

pytestmark = pytest.mark.root

MakeContainer = Callable[..., str]


@pytest.fixture(params=["setns", "agent"])
def enterable(request: pytest.FixtureRequest, joey: Joey, bundle: MakeBundle) -> MakeContainer:
    """A function that makes a running container, entered by one of the mechanisms."""

    def make(*args: str, change: Any = None) -> str:
        name = joey.id()
        folder = bundle(*(args or ("sleep", "100")), change=change)
        joey("run", "-d", "--force", f"enter={request.param}", "-b", str(folder), name)
        assert ("joey-agent" in joey("ps", name).stdout) is (request.param == "agent")
        return name

    return make


@pytest.fixture
def with_agent(joey: Joey, bundle: MakeBundle) -> MakeContainer:
    def make(*args: str, change: Any = None) -> str:
        name = joey.id()
        folder = bundle(*(args or ("sleep", "100")), change=change)
        joey("run", "-d", "--force", "enter=agent", "-b", str(folder), name)
        return name

    return make


def agent_of(joey: Joey, name: str) -> int:
    """The host's pid of a container's agent."""
    pid: int = json.loads((joey.root / name / "state.json").read_text())["agent"][0]
    return pid


def test_exec(enterable: MakeContainer, joey: Joey, tmp_path: Path) -> None:
    name = enterable()
    out = joey(
        "exec",
        "--env",
        "X=1",
        "--cwd",
        "/tmp",
        "--user",
        "1000:1000",
        name,
        "sh",
        "-c",
        "hostname; pwd; id -u; echo $X; ps",
    ).stdout
    assert out.splitlines()[:4] == ["joey", "/tmp", "1000", "1"]
    assert "sleep 100" in out
    assert joey("exec", name, "sh", "-c", "exit 9", check=False).returncode == 9
    done = joey("exec", name, "nope", check=False)
    assert (done.returncode, 'exec: "nope": executable file not found in $PATH' in done.stderr) == (255, True)
    inside = joey("exec", name, "sh", "-c", "for k in pid net ipc uts mnt; do readlink /proc/self/ns/$k; done; cat /proc/self/cgroup; "
                  "grep -E 'Cap(Eff|Bnd)|NoNew' /proc/self/status").stdout  # fmt: skip
    pid = joey.state(name)["pid"]
    assert all(os.readlink(f"/proc/{pid}/ns/{kind}") in inside for kind in ("pid", "net", "ipc", "uts", "mnt"))
    assert inside.count(f"/joey/{name}") >= 5
    assert "CapEff:\t0000000020000420" in inside
    assert "NoNewPrivs:\t1" in inside
    process = {"args": ["sh", "-c", "echo $A; id -G"], "cwd": "/", "env": ["A=from file", "PATH=/bin"],
               "user": {"uid": 5, "gid": 6, "additionalGids": [7]}}  # fmt: skip
    (tmp_path / "process.json").write_text(json.dumps(process))
    assert joey("exec", "--process", str(tmp_path / "process.json"), name).stdout == "from file\n6 7\n"
    joey("exec", "-d", "--pid-file", str(tmp_path / "pid"), name, "sleep", "200")
    assert b"sleep\x00200" in Path(f"/proc/{(tmp_path / 'pid').read_text()}/cmdline").read_bytes()
    (tmp_path / "process.json").write_text('{"args": "x", "cwd": "/"}')
    assert (
        "process.args: expected an array"
        in joey("exec", "-p", str(tmp_path / "process.json"), name, check=False).stderr
    )


def test_exec_with_a_terminal(enterable: MakeContainer, joey: Joey, tmp_path: Path) -> None:
    name = enterable()
    out, status = run_in_terminal(joey.command("exec", "-t", name, "sh", "-c", "tty; exit 6"))
    assert ("/dev/pts/" in out, status) == (True, 6)
    server, _ = receive_master(tmp_path / "console")
    joey("exec", "-t", "-d", "--console-socket", str(tmp_path / "console"), name, "echo", "over there")
    master = accept_master(server)
    assert b"over there" in os.read(master, 1000)
    server.close()


def test_exec_in_a_group_below_the_containers(enterable: MakeContainer, joey: Joey) -> None:
    running = enterable()
    place = Path("/sys/fs/cgroup/pids/joey") / running / "below"
    if not place.parent.exists():
        pytest.skip("no v1 pids hierarchy here")
    place.mkdir()
    out = joey("exec", "--cgroup", "pids:below", running, "cat", "/proc/self/cgroup").stdout
    assert f"pids:/joey/{running}/below\n" in out
    assert f"memory:/joey/{running}\n" in out
    for word, reason in (("pids:nowhere", "does not exist"), ("nosuch:below", "carries nosuch"), ("../x", "leaves")):
        assert reason in joey("exec", "--cgroup", word, running, "true", check=False).stderr


def test_streams_and_kept_descriptors_are_passed(enterable: MakeContainer, joey: Joey, tmp_path: Path) -> None:
    name = enterable()
    (tmp_path / "text").write_text("kept")
    with (tmp_path / "text").open() as file:
        assert joey("exec", name, "cat", stdin=file).stdout == "kept"
    fds = [os.open(tmp_path / "text", os.O_RDONLY) for _ in range(250)]
    try:
        for place, fd in enumerate(fds):
            os.dup2(fd, 600 + place)
        script = " ".join(f"{3 + place}<&{600 + place}" for place in range(250))
        command = " ".join(
            joey.command("exec", "--preserve-fds", "250", name, "sh", "-c", "'cat <&200; ls /proc/self/fd | wc -l'")
        )
        done = subprocess.run(
            ["bash", "-c", f"exec {script}; {command}"], pass_fds=range(600, 850), capture_output=True, text=True, check=False
        )  # fmt: skip
    finally:
        for fd in (*fds, *range(600, 850)):
            os.close(fd)
    assert done.stdout.split("kept")[1:] == ["254\n"] or done.stdout.startswith("kept25"), done


def test_signals_reach_the_process_and_its_end_is_told(enterable: MakeContainer, joey: Joey) -> None:
    name = enterable()
    script = "trap 'exit 42' USR1; echo ready; while true; do sleep 0.05; done"
    process = subprocess.Popen(joey.command("exec", name, "sh", "-c", script), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(10) == 42
    assert joey("exec", name, "sh", "-c", "kill -9 $$", check=False).returncode == 137
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert (
            joey("exec", name, "sh", "-c", f"kill -{int(number)} $$; echo on", check=False).returncode == 128 + number
        )


def test_an_affinity_of_exec_holds(enterable: MakeContainer, joey: Joey, tmp_path: Path) -> None:
    name = enterable()
    process = {"args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"]}
    last = max(os.sched_getaffinity(0))
    for affinity in ({"initial": str(last)}, {"initial": "0", "final": str(last)}):
        (tmp_path / "process.json").write_text(json.dumps({**process, "execCPUAffinity": affinity}))
        done = joey("exec", "--process", str(tmp_path / "process.json"), name)
        assert done.stdout.split() == ["Cpus_allowed_list:", str(last)]


def test_a_profile_holds_for_what_is_executed(enterable: MakeContainer, joey: Joey) -> None:
    def change(config: dict[str, Any]) -> None:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    name = enterable(change=change)
    assert "not supported" in joey("exec", name, "mkdir", "/tmp/x", check=False).stderr


def test_many_at_once(enterable: MakeContainer, joey: Joey) -> None:
    name = enterable()
    processes = [
        subprocess.Popen(joey.command("exec", name, "sh", "-c", f"sleep 0.2; exit {number}"), stderr=subprocess.PIPE)
        for number in range(1, 13)
    ]
    assert [process.wait(30) for process in processes] == list(range(1, 13))
    wait_for(lambda: len(json.loads(joey("ps", "--format", "json", name).stdout)) <= 2)


def test_an_exec_that_is_killed_leaves_its_process(enterable: MakeContainer, joey: Joey) -> None:
    name = enterable()
    process = subprocess.Popen(joey.command("exec", name, "sleep", "321"))

    def runs() -> bool:
        """Not only its words, which the stub before it has too."""
        rows = [line.split() for line in joey("ps", name).stdout.splitlines() if "sleep 321" in line]
        with contextlib.suppress(FileNotFoundError):  # a process of the way in, which has ended since
            return bool(rows) and os.readlink(f"/proc/{rows[0][1]}/exe").endswith("/busybox")
        return False

    wait_for(runs)
    process.kill()
    process.wait()
    assert "sleep 321" in joey("ps", name).stdout
    assert joey("exec", name, "echo", "still").stdout == "still\n"


def python_inside(config: dict[str, Any]) -> None:
    """This machine's programs, to be read in the container."""
    for place in ("/usr", "/lib", "/lib64"):
        if Path(place).is_dir():
            mount = {"destination": place, "source": place, "type": "bind", "options": ["rbind", "ro"]}
            config["mounts"].append(mount)


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="needs /usr/bin/python3")
def test_the_container_does_not_wait_for_the_agent(with_agent: MakeContainer, joey: Joey, tmp_path: Path) -> None:
    script = (
        "import os, time\n"
        "if os.fork() == 0: os._exit(3)\n"
        "print(os.wait()[1])\n"
        "try: os.wait()\n"
        "except ChildProcessError: print('no other child', flush=True)\n"
        "open('/tmp/done', 'w').close()\n"
        "time.sleep(100)\n"
    )
    name = with_agent("/usr/bin/python3", "-c", script, change=python_inside)
    wait_for(lambda: joey("exec", name, "test", "-e", "/tmp/done", check=False).returncode == 0)


def test_a_killed_agent_is_told_of_and_the_rest_lives(with_agent: MakeContainer, joey: Joey, tmp_path: Path) -> None:
    name = with_agent("sh", "-c", "while true; do sleep 0.1; done", change=lambda config: give(config, "CAP_KILL"))
    joey("exec", name, "sh", "-c", "kill -TERM 2; kill -INT 2; kill -HUP 2")
    assert joey("exec", name, "echo", "still").stdout == "still\n"
    process = subprocess.Popen(joey.command("exec", name, "sleep", "50"), stderr=(tmp_path / "said").open("w"))
    wait_for(lambda: "sleep 50" in joey("ps", name).stdout)
    os.kill(agent_of(joey, name), signal.SIGKILL)
    assert process.wait(10) == 255
    assert "agent does not answer: it ended before" in (tmp_path / "said").read_text()
    done = joey("exec", name, "true", check=False)
    assert (done.returncode, "agent does not answer: it has ended" in done.stderr) == (255, True)
    assert joey.state(name)["status"] == "running"


def give(config: dict[str, Any], *names: str) -> None:
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind] += names


def test_the_agent_is_out_of_reach(with_agent: MakeContainer, joey: Joey) -> None:
    name = with_agent(change=lambda config: give(config, "CAP_DAC_OVERRIDE", "CAP_SETUID"))
    for file in ("mem", "environ", "maps", "fd/3", "root/etc", "exe", "cwd/"):
        done = joey("exec", name, "sh", "-c", f"head -c 1 /proc/2/{file} || ls /proc/2/{file}/", check=False)
        assert done.returncode != 0, file
        assert "ermission denied" in done.stderr, (file, done.stderr)
    assert joey("exec", name, "cat", "/proc/2/comm").stdout == "joey-agent\n"
    assert joey("exec", name, "cat", "/proc/2/cmdline").stdout.rstrip("\0") == "joey-agent"


def test_an_agent_that_may_be_traced_has_no_more_than_the_container(with_agent: MakeContainer, joey: Joey) -> None:
    name = with_agent(change=lambda config: give(config, "CAP_SYS_PTRACE"))
    status = Path(f"/proc/{agent_of(joey, name)}/status").read_text()
    bounding = joey("exec", name, "grep", "CapBnd", "/proc/self/status").stdout.split()[1]
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert f"{kind}:\t{bounding}" in status
    done = joey("exec", "--cap", "CAP_SYS_ADMIN", name, "true", check=False)
    assert (done.returncode, "CAP_SYS_ADMIN is not in the container's bounding set" in done.stderr) == (255, True)


def test_the_agent_ends_with_the_container(with_agent: MakeContainer, joey: Joey) -> None:
    def no_pid_namespace(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item["type"] != "pid"]
        config["mounts"] = [item for item in config["mounts"] if item["destination"] != "/proc"]
        config["linux"].update(maskedPaths=[], readonlyPaths=[])

    for change in (None, no_pid_namespace):
        name = with_agent(change=change)
        pid = agent_of(joey, name)
        joey("kill", name, "KILL")
        wait_for(lambda pid=pid: not Path(f"/proc/{pid}").exists())


def test_a_started_container_with_an_agent_runs_on_a_created_one(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    joey("create", "--force", "enter=agent", "-b", str(bundle("sh", "-c", "echo up > /tmp/up; sleep 100")), name)
    assert joey("exec", name, "sh", "-c", "ls /tmp; echo in").stdout == "in\n"
    joey("start", name)
    wait_for(lambda: joey("exec", name, "cat", "/tmp/up", check=False).stdout == "up\n")
