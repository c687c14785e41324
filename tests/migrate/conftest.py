"""Fixtures of migration: a small guest's tree, made once, and the file systems made of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..conftest import Joey
from .fleets import Desk
from .guests import MIB, make_file_system, make_tree, run

tempfile.gettempdir()  # as it is for all tests, before TMPDIR is another
NEEDED = ("qemu-img", "mkfs.ext4", "sfdisk", "lvcreate", "setcap", "setfacl")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's files. Not to be written to."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    assert not missing, f"{missing} not installed (tools/test installs them)"
    root = tmp_path_factory.mktemp("guest") / "root"
    root.mkdir()
    make_tree(root)
    return root


@pytest.fixture(scope="session")
def ext4(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Path:
    """The guest on ext4, a file system without a partition. Not to be written to."""
    path = tmp_path_factory.mktemp("ext4") / "disk.raw"
    make_file_system(path, "ext4", 48 * MIB, tree, "-I", "256")
    return path


@pytest.fixture(autouse=True)
def work_files_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failed migration keeps for the next run goes with the test."""
    work = tmp_path / "joey-work"
    work.mkdir()
    monkeypatch.setenv("TMPDIR", str(work))


@pytest.fixture
def machine(tmp_path: Path, busybox_root: Path) -> Callable[..., Path]:
    """A function that makes a machine with busybox's init, which runs a script as it comes up and one as it ends."""

    def make(name: str = "machine", up: str = "", down: str = "") -> Path:
        root = tmp_path / name
        run("cp", "-a", busybox_root, root)
        (root / "sbin").mkdir(exist_ok=True)
        (root / "sbin" / "init").symlink_to("../bin/busybox")
        for applet in (
            "httpd",
            "reboot",
            "poweroff",
            "env",
            "hostname",
            "nc",
            "wget",
            "ping",
            "ip",
            "free",
            "kill",
            "sed",
        ):
            if not (root / "bin" / applet).exists():
                (root / "bin" / applet).symlink_to("busybox")
        (root / "etc" / "init.d").mkdir()
        (root / "etc" / "inittab").write_text(
            "::sysinit:/etc/init.d/rcS\n::shutdown:/etc/init.d/rcK\ntty1::respawn:/sbin/getty 38400 tty1\n"
        )
        for script, text in (("rcS", f"echo coming up; {up}"), ("rcK", f"echo going down; {down}")):
            (root / "etc" / "init.d" / script).write_text(f"#!/bin/sh\n{text}\n")
            (root / "etc" / "init.d" / script).chmod(0o755)
        return root

    return make


@pytest.fixture
def desk(tmp_path: Path, joey: Joey) -> Iterator[Desk]:
    """A network namespace with joey in it, for hosts to be added."""
    made = Desk(tmp_path / "desk", joey)
    yield made
    made.close()
