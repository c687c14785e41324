"""Disks read without mounting them: for plain users, and what this kernel does not mount. The extra `dissect`."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from joey.compat.errors import JoeyError
from joey.migrate.disks import dissecting
from joey.migrate.disks.volumes import volumes

from ..conftest import Joey
from .guests import MIB, listing, make_file_system, mounted, partitioned, run
from .test_disks import DROPPED, assert_same, digest, migrate, unpacked

pytestmark = pytest.mark.root


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4", "xfs", "btrfs"])
def test_the_same_as_the_kernel_reads(kind: str, tree: Path, joey: Joey, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    run("cp", "-a", tree, source)
    disk = tmp_path / "disk.raw"
    make_file_system(
        disk, kind, (320 if kind == "xfs" else 128) * MIB, source, *(("-I", "256") if kind.startswith("ext") else ())
    )
    before = digest(disk)
    migrate(joey, disk, "--reader", "dissect", "--to", f"oci:{tmp_path}/image")
    expected, found = listing(source, DROPPED), listing(unpacked(joey, tmp_path / "image"), DROPPED)
    assert found.keys() == expected.keys()
    different = [path for path, value in expected.items() if found[path] != value and path != "etc/fstab"]
    if kind == "xfs":  # the loss that is told: attributes outside of an inode
        different = [path for path in different if found[path][:6] != expected[path][:6]]
    assert different == []
    assert digest(disk) == before


def test_attributes_that_xfs_keeps_elsewhere_are_told(tree: Path, joey: Joey, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    run("cp", "-a", tree, source)
    os.setxattr(source / "etc/passwd", "user.large", b"x" * 2000)
    make_file_system(tmp_path / "disk.raw", "xfs", 320 * MIB, source)
    report = migrate(joey, tmp_path / "disk.raw", "--reader", "dissect", "--to", f"oci:{tmp_path}/image")
    assert any("attributes that XFS keeps outside of an inode of" in line for line in report["warnings"])
    assert any("its journal is not replayed" in line for line in report["warnings"])


def test_xfs_of_version_4(joey: Joey, tmp_path: Path) -> None:
    """Of CentOS 6 and 7, which today's kernels do not mount: read by dissect, and the report says so."""
    busybox = shutil.which("busybox")
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    proto = f"/\n0 0\nd--755 0 0\netc d--755 0 0\npasswd ---644 0 0 {tmp_path}/passwd\n$\nbin d--755 0 0\nbusybox ---755 0 0 {busybox}\n" \
            "sh l--777 0 0 busybox\nnull c--666 0 0 1 3\n$\nusr d--755 0 0\n$\nhome d--700 1000 1000\nmine u-644 1000 1000 {0}/passwd\n$\n$\n".replace("{0}", str(tmp_path))  # fmt: skip
    (tmp_path / "proto").write_text(proto.replace("mine u-644", "mine ---644"))
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(320 * MIB)
    run("mkfs.xfs", "-q", "-m", "crc=0,finobt=0", "-n", "ftype=0", "-p", tmp_path / "proto", disk)
    report = migrate(joey, disk, "--to", f"oci:{tmp_path}/image")
    if any("read by dissect, without mounting" in line for line in report["warnings"]):
        assert any("can't be mounted" in line for line in report["warnings"])
    root = unpacked(joey, tmp_path / "image")
    assert (root / "etc/passwd").read_text() == "root:x:0:0::/root:/bin/sh\n"
    assert os.readlink(root / "bin/sh") == "busybox"
    assert (root / "bin/null").stat().st_rdev == os.makedev(1, 3)
    assert (root / "home").stat().st_uid == 1000
    assert (root / "bin/busybox").read_bytes() == Path(str(busybox)).read_bytes()


def test_file_systems_are_joined(tree: Path, joey: Joey, tmp_path: Path) -> None:
    source, home = tmp_path / "tree", tmp_path / "home"
    run("cp", "-a", tree, source)
    (source / "opt/app/third").unlink()
    (source / "home").rename(home)
    (source / "home").mkdir()
    (source / "etc/fstab").write_text("LABEL=people /home btrfs subvol=deep/er 0 0\n")
    make_file_system(tmp_path / "root.fs", "ext4", 48 * MIB, source, "-I", "256")
    make_file_system(tmp_path / "home.fs", "btrfs", 128 * MIB, None, "-L", "people")
    with mounted(tmp_path / "home.fs") as place:
        (place / "deep").mkdir()
        run("btrfs", "-q", "subvolume", "create", place / "deep/er")
        run("cp", "-a", f"{home}/.", place / "deep/er")
    partitioned(tmp_path / "disk.raw", "gpt", [tmp_path / "root.fs", tmp_path / "home.fs"])
    migrate(joey, tmp_path / "disk.raw", "--reader", "dissect", "--to", f"oci:{tmp_path}/image")
    assert listing(unpacked(joey, tmp_path / "image") / "home") == listing(home)


def test_a_dirty_journal_of_ext4(tree: Path, joey: Joey, tmp_path: Path) -> None:
    live, disk = tmp_path / "live.raw", tmp_path / "disk.raw"
    make_file_system(live, "ext4", 64 * MIB, tree)
    with mounted(live) as place:
        (place / "late").mkdir()
        for index in range(50):
            with (place / "late" / f"{index}").open("w") as file:
                file.write(str(index))
                file.flush()
                os.fsync(file.fileno())
        shutil.copyfile(live, disk)
    before = digest(disk)
    migrate(joey, disk, "--reader", "dissect", "--to", f"oci:{tmp_path}/image")
    assert {path.read_text() for path in (unpacked(joey, tmp_path / "image") / "late").iterdir()} == {
        str(n) for n in range(50)
    }
    assert digest(disk) == before


def as_plain_user(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A joey of its own for the user nobody, whose Python knows the extra: root's may be where nobody can't look."""
    site = Path(dissecting.__file__).parents[3]
    code = f"import sys; sys.path[:0] = [{str(place / 'site')!r}]; from joey.runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    if not (place / "site").exists():
        (place / "site").mkdir()
        run("cp", "-rL", site / "joey", place / "site/joey")
        for name in ("dissect", "isal", "yaml", "rich", "elftools", "zstandard"):
            found = Path(__import__(name).__path__[0])
            run("cp", "-r", found, place / "site" / name)
        run("chown", "-R", "65534:65534", place)
    return subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"HOME={place}", "/usr/bin/python3", "-c", code, *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_plain_user_migrates_a_disk(ext4: Path, tree: Path, joey: Joey) -> None:
    place = Path("/var/tmp") / f"joey-plain-{os.getpid()}"
    place.mkdir()
    try:
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", ext4, place / "disk.qcow2")
        done = as_plain_user(
            place, "migrate", f"{place}/disk.qcow2", "--work", str(place), "--verify", "--to", f"oci:{place}/image"
        )
        assert done.returncode == 0, done.stderr
        assert "read by dissect, without mounting: mounting a disk takes root" in done.stdout
        assert_same(tree, unpacked(joey, place / "image"))
        assert not list(place.glob("joey-migrate*"))
    finally:
        shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_damaged_file_systems_are_errors_of_joeys(tree: Path, tmp_path: Path) -> None:
    """Random damage to file systems: each is read or refused in joey's own words."""
    random.seed(7)
    refusals = 0
    small = tmp_path / "small"
    for name in ("etc", "usr/bin"):
        (small / name).mkdir(parents=True)
    (small / "etc/passwd").write_text("x")
    for index in range(50):
        (small / f"usr/bin/{index}").write_bytes(os.urandom(3000))
    for kind, size in (("ext4", 8), ("xfs", 320), ("btrfs", 128)):
        disk = tmp_path / f"{kind}.raw"
        make_file_system(disk, kind, size * MIB, small)
        data = disk.read_bytes()
        used = [at for at in range(0, len(data), 4096) if any(data[at : at + 4096])]
        for _ in range(25):
            damaged = tmp_path / "damaged.raw"
            run("cp", "--sparse=always", disk, damaged)
            with damaged.open("r+b") as file:
                for _ in range(random.choice((1, 5, 30))):
                    file.seek(random.choice(used) + random.randrange(4096))
                    file.write(random.randbytes(random.choice((1, 4, 64))))
            try:
                found = dissecting.read_guest(str(tmp_path), volumes([str(damaged)]), "", [])
                for entry in found.tree.entries():
                    read_some(entry)
            except JoeyError:
                refusals += 1
    assert refusals > 3


def read_some(entry: Any) -> None:
    if entry.open is not None and entry.size < MIB:
        content = entry.open()
        content.readinto(memoryview(bytearray(min(entry.size, 10_000))))
        content.close()
