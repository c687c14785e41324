"""The file with a command's modules: made on the first success, used, and dropped when a source changes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle, install

pytestmark = pytest.mark.root


@pytest.fixture
def copy(joey: Joey, tmp_path: Path) -> Path:
    """A joey of its own, which the `joey` fixture calls from then on; the folder of its runtime package."""
    joey.program = install(tmp_path / "installed")
    (folder,) = (tmp_path / "installed" / "lib").glob("*/site-packages/joey/runtime")
    return folder


def made(copy: Path) -> list[str]:
    return sorted(path.name.split(".")[0] for path in copy.glob("__pycache__/*.start"))


def alter(copy: Path, keep_time: bool) -> None:
    """Change what `run --dry-run` prints, from "go to" to "GO TO", in the source; the size stays."""
    source = copy / "steps" / "program.py"
    status = source.stat()
    text = source.read_text()
    assert text.count('f"go to ') == 1
    source.write_text(text.replace('f"go to ', 'f"GO TO '))
    if keep_time:
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        for path in source.parent.glob("__pycache__/program.*.pyc"):
            path.unlink()


def test_it_is_made_and_used(joey: Joey, bundle: MakeBundle, copy: Path) -> None:
    folder = str(bundle("echo", "hello"))
    words = ("run", "--dry-run", "-b", folder, joey.id())
    joey("probe")
    assert made(copy) == []
    assert " go to / " in joey(*words).stdout
    joey("run", "--help")
    assert made(copy) == []
    joey("run", "-b", folder, joey.id())
    assert made(copy) == ["run"]
    # neither the source nor its compiled file is looked into now: what is in the source is not seen
    alter(copy, keep_time=True)
    assert " go to / " in joey(*words).stdout


def test_a_changed_source_is_seen_and_the_file_made_again(joey: Joey, bundle: MakeBundle, copy: Path) -> None:
    folder = str(bundle("echo", "hello"))
    words = ("run", "--dry-run", "-b", folder, joey.id())
    joey("probe")
    joey("run", "-b", folder, joey.id())
    (before,) = (path.read_bytes() for path in copy.glob("__pycache__/*.start"))
    alter(copy, keep_time=False)
    assert " GO TO / " in joey(*words).stdout
    joey("run", "-b", folder, joey.id())
    assert " GO TO / " in joey(*words).stdout
    (after,) = (path.read_bytes() for path in copy.glob("__pycache__/*.start"))
    assert after != before


@pytest.mark.parametrize("content", [b"", b"\x00", b"(\x02\x00\x00", b"x" * 1000])
def test_a_damaged_file_is_made_again(content: bytes, joey: Joey, bundle: MakeBundle, copy: Path) -> None:
    folder = str(bundle("echo", "hello"))
    joey("probe")
    joey("run", "-b", folder, joey.id())
    (file,) = copy.glob("__pycache__/*.start")
    file.write_bytes(content)
    done = joey("run", "-b", folder, joey.id())
    assert (done.stdout, done.stderr) == ("hello\n", "")
    assert len(file.read_bytes()) > 1000


def test_where_it_can_not_be_written_all_goes_on(joey: Joey, bundle: MakeBundle, copy: Path) -> None:
    folder = str(bundle("echo", "hello"))
    command = joey.command("run", "-b", folder, joey.id())
    script = 'mount --bind -o ro "$0" "$0" && mount -o remount,bind,ro "$0" && "$@"'
    top = str(copy.parent.parent.parent.parent.parent)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, top, *command], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "", 0)
    assert made(copy) == []


def test_a_copied_installation_runs_its_own_code(joey: Joey, bundle: MakeBundle, copy: Path, tmp_path: Path) -> None:
    folder = str(bundle("echo", "hello"))
    joey("probe")
    joey("run", "-b", folder, joey.id())
    subprocess.run(["cp", "-a", str(tmp_path / "installed"), str(tmp_path / "other")], check=True)
    joey.program = joey.program.replace("/installed/", "/other/")
    alter(Path(str(copy).replace("/installed/", "/other/")), keep_time=False)
    assert " GO TO / " in joey("run", "--dry-run", "-b", folder, joey.id()).stdout


def test_a_start_that_does_more_slows_no_later_one(joey: Joey, bundle: MakeBundle, copy: Path) -> None:
    """The file of one that had hooks to run has their modules, which others do not load."""

    def hook(config: dict[str, Any]) -> None:
        config["hooks"] = {"poststop": [{"path": "/bin/true"}]}

    def loaded(folder: str) -> set[str]:
        command = [
            str(Path(joey.program).parent / "python3"),
            "-X",
            "importtime",
            "-I",
            "-S",
            *joey.command("run", "-b"),
        ]
        done = subprocess.run([*command, folder, joey.id()], capture_output=True, text=True, check=True)
        return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    plain, more = str(bundle("true")), str(bundle("true", change=hook))
    joey("probe")
    before = loaded(plain)
    assert made(copy) == ["run"]
    next(copy.glob("__pycache__/*.start")).unlink()
    assert "subprocess" in loaded(more)
    assert made(copy) == ["run"]
    assert b"hooks" in next(copy.glob("__pycache__/*.start")).read_bytes()
    assert loaded(plain) - before == set()
