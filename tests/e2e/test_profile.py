"""The seccomp profile, by a filter in the kernel and by a tracer where there is none: the same answers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle
from .test_life import wait_for

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.uname().machine != "x86_64", reason="the tracer is for x86-64")]

WAYS = ("filter", "ptrace")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "profile"
    source = Path(__file__).parent / "programs" / "profile.c"
    subprocess.run(["cc", "-static", "-pthread", "-o", str(path), str(source)], check=True)
    return path


@pytest.fixture(params=WAYS)
def under(request: pytest.FixtureRequest, joey: Joey, bundle: MakeBundle, program: Path) -> Run:
    """A function that runs the program with a word, under rules (or a whole section), by one of the mechanisms."""

    def run(word: str, *rules: dict[str, Any], nnp: bool = True, **section: Any) -> subprocess.CompletedProcess[str]:
        def change(config: dict[str, Any]) -> None:
            config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": list(rules), **section}
            config["process"]["noNewPrivileges"] = nnp

        folder = bundle("/bin/profile", word, change=change)
        (folder / "rootfs" / "bin" / "profile").write_bytes(program.read_bytes())
        (folder / "rootfs" / "bin" / "profile").chmod(0o755)
        feature = "seccomp" if nnp else "seccomp-privileged"
        return joey("run", "--force", f"{feature}={request.param}", "-b", str(folder), joey.id(), check=False)

    return run


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": f"SCMP_ACT_{action}", **more}


@pytest.mark.parametrize("nnp", [True, False])
def test_a_call_is_refused_in_threads_children_and_programs(under: Run, nnp: bool) -> None:
    done = under("mkdir", rule("ERRNO", "mkdir", "mkdirat", errnoRet=123), nnp=nnp)
    assert done.stdout == "mkdir: 123\nthread: 123\nchild: 123\nexecuted: 123\n", done.stderr


def test_a_first_process_ends_by_its_own_fault(under: Run) -> None:
    """Linux 4.15 keeps a traced one alive: it would make the fault again for ever."""
    done = under("fault", rule("ERRNO", "mkdir"))
    assert done.returncode in (139, 137), done.stderr  # 137 under a tracer


def test_no_child_escapes_it(under: Run) -> None:
    done = under("untraced", rule("ERRNO", "mkdir", "mkdirat", errnoRet=123))
    assert done.stdout in ("child: 123\ndone\n", "done\n"), done.stderr


def test_arguments_decide(under: Run) -> None:
    def family(op: str, value: int, **more: int) -> list[dict[str, Any]]:
        return [{"index": 0, "value": value, "op": f"SCMP_CMP_{op}", **more}]

    done = under(
        "socket",
        rule("ERRNO", "socket", errnoRet=95, args=family("EQ", 1)),
        rule("ERRNO", "socket", errnoRet=96, args=family("GE", 3)),
        rule("ERRNO", "personality", errnoRet=1, args=family("MASKED_EQ", 8, valueTwo=8)),
    )
    assert done.stdout.splitlines()[:4] == ["socket 0: 97", "socket 1: 95", "socket 2: 0", "socket 3: 96"], done.stderr
    assert done.stdout.splitlines()[4] == "personality: -1 -1"


def test_what_a_profile_does_not_name_is_refused(under: Run) -> None:
    named = ["read", "write", "writev", "brk", "mmap", "munmap", "exit_group", "execve", "execveat", "fcntl", "uname", "readlink",
             "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "mprotect", "getrandom", "personality",
             "fstat", "newfstatat", "readlinkat"]  # fmt: skip
    done = under("socket", rule("ALLOW", *named), defaultAction="SCMP_ACT_ERRNO")
    assert done.stdout.splitlines()[:2] == ["socket 0: 1", "socket 1: 1"], done.stderr
    assert done.stdout.splitlines()[-1] == "unknown: -1 38"  # newer than all that are named


def test_a_trap_is_a_signal_that_says_what_was_called(under: Run) -> None:
    done = under("trap", rule("TRAP", "mkdir"))
    assert done.stdout == "traps 1, call 83, code 1, errno 0\n", done.stderr


@pytest.mark.parametrize("action", ["KILL", "KILL_PROCESS", "KILL_THREAD"])
def test_a_call_that_kills(under: Run, action: str) -> None:
    done = under("kill", rule(action, "mkdir"))
    assert done.stdout == "signal 31\n", done.stderr


def test_calls_of_another_architecture_end_the_program(under: Run) -> None:
    done = under("old-abi", rule("ERRNO", "mkdir"))
    assert done.stdout == "died: 1\n", done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_the_first_process_dies_too(way: str, joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("KILL", "mkdir")]}

    folder = bundle("sh", "-c", "mkdir /tmp/x; echo alive $?", change=change)
    done = joey("run", "--force", f"seccomp={way}", "-b", str(folder), joey.id(), check=False)
    assert done.stdout in ("", "alive 159\n")
    folder = bundle("mkdir", "/tmp/x", change=change)
    done = joey("run", "--force", f"seccomp={way}", "-b", str(folder), joey.id(), check=False)
    assert done.returncode in (159, 137)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_executed_later_is_under_it(way: str, joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("ERRNO", "mkdir", "mkdirat", errnoRet=95)],
        }  # fmt: skip

    name = joey.id()
    joey("create", "--force", f"seccomp={way}", "-b", str(bundle("sleep", "100", change=change)), name)
    joey("start", name)
    done = joey("exec", "--force", f"seccomp={way}", name, "mkdir", "/tmp/x", check=False)
    assert "not supported" in done.stderr
    state = joey.state(name)
    assert ("io.joey.lost.seccomp" in state.get("annotations", {})) is (way == "ptrace")


def test_a_killed_tracer_ends_the_container(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("ERRNO", "mkdir")]}

    name = joey.id()
    joey("run", "-d", "--force", "seccomp=ptrace", "-b", str(bundle("sleep", "100", change=change)), name)
    pid = joey.state(name)["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    tracer = int(next(line.split()[1] for line in status.splitlines() if line.startswith("TracerPid")))
    os.kill(tracer, 9)
    wait_for(lambda: joey.state(name)["status"] == "stopped")


def test_without_filters_and_tracing_strict_refuses(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule("ERRNO", "mkdir")]}

    done = joey("run", "--force", "seccomp=none", "-b", str(bundle("true", change=change)), joey.id(), check=False)
    assert (done.returncode, "too weak for the strict policy" in done.stderr) == (1, True)
