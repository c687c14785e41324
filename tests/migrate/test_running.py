"""Commands of a host as they run: here by a shell in the place of the client of SSH, in a real terminal where one is wanted."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from joey.migrate.sources.running import ByTerminal, Running

# what `ssh -tt` does: the words are a command for a shell that has a terminal
CLIENT = ["script", "-qef", "/dev/null", "-c"]


def by_terminal(command: list[str], path: Path | None = None) -> ByTerminal:
    """In a terminal made by script(1); sudo is `env`."""
    words = [*CLIENT]

    class Terminal(ByTerminal):
        def __init__(self) -> None:
            super().__init__(words, ["env", "--"], command, path.open("rb") if path else None)

    return Terminal()


def test_complaints_that_somebody_holds_are_not_waited_for() -> None:
    """As the master of ControlPersist does, which the client leaves behind."""
    start = time.monotonic()
    with Running(["sh", "-c", "echo said >&2; echo out; sleep 20 >/dev/null & exit 3"], subprocess.DEVNULL) as running:
        assert running.out.read() == b"out\n"
        assert running.wait() == 3
    assert running.errors == "said\n"
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_bytes_stay_what_they_are(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "in").write_bytes(data)
    with by_terminal(["sh", "-c", "cat; echo no >&2; exit 4"], tmp_path / "in") as running:
        assert running.out.read() == data
        assert running.wait() == 4
    assert running.errors.strip().splitlines() == ["no"]


def test_marks_are_seen_by_nobody_there() -> None:
    with by_terminal(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; echo; echo joey-end-x."]) as running:
        seen = running.out.read().decode()
    first = running._between._first.decode().strip()
    assert "joey-begin-%s" in seen
    assert first not in seen


def test_an_output_that_is_cut_is_no_success() -> None:
    """Its shell is killed before it could say that it ended."""
    with by_terminal(["sh", "-c", "echo some; kill -9 $(ps -o ppid= -p $PPID) $PPID"]) as running:
        running.out.read()
        assert running.wait() != 0


def test_what_never_began_says_why() -> None:
    class Refused(ByTerminal):
        def __init__(self) -> None:
            super().__init__(CLIENT, ["sh", "-c", "echo not allowed; exit 0", "sudo"], ["true"], None)

    with Refused() as running:
        assert running.out.read() == b""
        assert running.wait() == 255
    assert "not allowed" in running.errors
