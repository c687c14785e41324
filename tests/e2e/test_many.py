"""Many containers, at once and one after the other: nothing is left of any."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import Joey, MakeBundle
from .test_failures import processes_in

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def quick(bundle: MakeBundle) -> Iterator[Path]:
    """A bundle whose containers must all be gone at the end."""
    folder = bundle("true")
    yield folder
    assert processes_in(folder) == []


def test_a_hundred_at_once(joey: Joey, quick: Path) -> None:
    names = [joey.id() for _ in range(100)]
    started = [
        subprocess.Popen(
            joey.command("run", "-b", str(quick), name),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for name in names
    ]  # fmt: skip
    ends = [(process.communicate()[1], process.returncode) for process in started]
    assert {end for end in ends if end != ("", 0)} == set()
    assert joey("list", "--quiet").stdout == ""


def test_a_hundred_that_run_at_once(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("sleep", "1000")
    names = [joey.id() for _ in range(100)]
    started = [
        subprocess.Popen(
            joey.command("run", "--detach", "-b", str(folder), name),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for name in names
    ]  # fmt: skip
    assert [process.wait() for process in started] == [0] * 100
    running = json.loads(joey("list", "--format", "json").stdout)
    assert {entry["id"] for entry in running} == set(names)
    namespaces = {os.readlink(f"/proc/{entry['pid']}/ns/net") for entry in running}
    assert len(namespaces - {os.readlink("/proc/self/ns/net")}) == 100
    ended = [subprocess.Popen(joey.command("delete", "--force", name)) for name in names]
    assert [process.wait() for process in ended] == [0] * 100
    assert processes_in(folder) == []


def test_a_thousand_one_after_the_other(joey: Joey, quick: Path) -> None:
    name = joey.id()
    command = joey.command("run", "-b", str(quick), name)
    for _ in range(1000):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    mine = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    states = [
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in Path(mine).read_text().split()
    ]
    assert "Z" not in states
    assert joey("list", "--quiet").stdout == ""
