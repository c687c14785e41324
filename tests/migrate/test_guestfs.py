"""Disks read by libguestfs: the last rung, for what neither this kernel nor dissect reads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from ..conftest import Joey
from .guests import MIB, listing, make_file_system, run
from .test_disks import DROPPED, digest, migrate, unpacked


def starts() -> bool:
    """Whether libguestfs has all that it takes here: a kernel among it."""
    if not shutil.which("guestfish"):
        return False
    words = ["guestfish", "--ro", "-a", "/dev/null", "run"]
    environment = {"LIBGUESTFS_BACKEND": "direct", **os.environ}
    process = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, start_new_session=True
    )
    try:
        return process.wait(100) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with its machine
        process.wait()
        return False


pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def _guestfs() -> None:
    if not starts():
        pytest.skip("needs a libguestfs that starts (apt-get install libguestfs-tools linux-image-amd64)")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_the_same_as_the_kernel_reads(kind: str, tree: Path, joey: Joey, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    run("cp", "-a", tree, source)
    disk = tmp_path / "disk.raw"
    words = ("-I", "256") if kind == "ext4" else ()
    make_file_system(disk, kind, (320 if kind == "xfs" else 128) * MIB, source, *words)
    before = digest(disk)
    report = migrate(joey, disk, "--reader", "guestfs", "--to", f"oci:{tmp_path}/image")
    expected, found = listing(source, DROPPED), listing(unpacked(joey, tmp_path / "image"), DROPPED)
    assert found.keys() == expected.keys()
    different = [path for path, value in expected.items() if found[path] != value and path != "etc/fstab"]
    assert different == [], report["warnings"]
    assert digest(disk) == before


def test_what_joey_itself_does_not_read(tree: Path, joey: Joey, tmp_path: Path) -> None:
    """A machine on RAID 5: by itself, where nothing else reads it; an error that names it where it may not."""
    run(
        "tar",
        "-C",
        tree,
        "--xattrs",
        "--xattrs-include=*",
        "--exclude=./home/user/nasty/sparse*",
        "-cf",
        tmp_path / "tree.tar",
        ".",
    )
    disks = [tmp_path / f"{number}.raw" for number in range(3)]
    words = [word for disk in disks for word in ("-N", f"{disk}=disk:96M")]
    script = f"md-create r '/dev/sda /dev/sdb /dev/sdc' level:raid5\nmkfs ext4 /dev/md127\nmount /dev/md127 /\ntar-in {tmp_path}/tree.tar / xattrs:true\n"
    run("env", "LIBGUESTFS_BACKEND=direct", "guestfish", *words, input=script)
    done = joey("migrate", *map(str, disks), "--reader", "mount", "--to", f"oci:{tmp_path}/none", check=False)
    assert done.returncode == 1
    assert not (tmp_path / "none").exists()
    command = ("migrate", *map(str, disks), "--to", f"oci:{tmp_path}/image", "--json")
    report = json.loads(joey(*command, timeout=300).stdout)
    assert any("read by guestfs, without mounting" in line for line in report["warnings"])
    names = {path for path in listing(unpacked(joey, tmp_path / "image"), DROPPED) if path.startswith("etc/")}
    assert "etc/passwd" in names
