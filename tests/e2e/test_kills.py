"""kill -9 at any moment: joey is killed as it enters its Nth system call, for N over the whole of a command.

`delete --force` then leaves no process, mount, cgroup or state; a killed exec or start leaves the container usable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..conftest import Joey, MakeBundle, leftovers_of
from .test_failures import processes_in

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

MOMENTS = int(os.environ.get("JOEY_TEST_MOMENTS", "60"))  # system calls tried of each command; 0: every one


def call(command: list[str], *options: str) -> int:
    with subprocess.Popen(
        ["strace", *options, *command],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        return process.wait(60)


def moments(command: list[str], log: Path, marker: str) -> list[int]:
    """The numbers of the system calls to be killed at: from the first that names `marker` to the last."""
    assert call(command, "-o", str(log)) == 0
    lines = [line for line in log.read_text().splitlines() if not line.startswith(("---", "+++"))]
    first = next(number for number, line in enumerate(lines, 1) if marker in line)
    step = max(1, (len(lines) - first) // MOMENTS) if MOMENTS else 1
    return list(range(first, len(lines) + 1, step))


def kill_at(number: int, command: list[str]) -> None:
    call(command, "-o", "/dev/null", "-e", f"inject=all:signal=KILL:when={number}")


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (tools/test installs it)")
@pytest.mark.parametrize("verb", ["run", "create", "start", "exec", "delete"])
def test_a_command_killed_at_any_system_call(verb: str, joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    folder = bundle("sleep", "300")
    words = {
        "run": ["run", "--detach", "-b", str(folder)],
        "create": ["create", "-b", str(folder)],
        "start": ["start"],
        "exec": ["exec"],
        "delete": ["delete", "--force"],
    }[verb]
    after = ["true"] if verb == "exec" else []

    def prepared() -> list[str]:
        """The command on a new container, which is made as far as the command needs it."""
        name = joey.id()
        if verb == "start":
            joey("create", "-b", str(folder), name)
        elif verb in ("exec", "delete"):
            joey("run", "--detach", "-b", str(folder), name)
        return joey.command(*words, name, *after)

    def checked(number: int, name: str) -> None:
        if verb == "exec":
            assert joey("exec", name, "echo", "still").stdout == "still\n", f"killed at call {number}"
        joey("delete", "--force", name)
        found = [*processes_in(folder), *leftovers_of(joey, tmp_path)]
        assert not found, f"killed at call {number}: {found}"
        joey.ids.remove(name)

    command = prepared()
    numbers = moments(command, tmp_path / "log", str(joey.root))
    joey("delete", "--force", joey.ids.pop())
    for number in numbers:
        command = prepared()
        kill_at(number, command)
        checked(number, joey.ids[-1])
