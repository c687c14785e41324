"""Disk quotas: the grammar, loop images, btrfs quota groups. XFS and ext4 projects are tried in the test kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from joey.compat.errors import UsageError
from joey.compat.quota.words import pools

from ..conftest import Joey, MakeBundle
from .test_life import wait_for

root = pytest.mark.root
PLACES = ["/", "/data", "/vol1", "/vol2"]


def parsed(*words: str) -> list[tuple[str, int, int]]:
    return [("&".join(pool.places), pool.size >> 20, pool.inodes) for pool in pools(list(words), PLACES)]


def test_the_words() -> None:
    assert parsed("10G") == [("/", 10240, 0)]
    assert parsed("/data=20m") == [("/data", 20, 0)]
    assert parsed("/&/data=10g") == [("/&/data", 10240, 0)]
    assert parsed("/vol.*=1.5GiB:500") == [("/vol1", 1536, 500), ("/vol2", 1536, 500)]
    assert parsed(".*=1T") == [(place, 1 << 20, 0) for place in PLACES]
    assert parsed("1g", "/data=2g", "/vol1=3g") == [("/", 1024, 0), ("/data", 2048, 0), ("/vol1", 3072, 0)]


def test_exact_words_go_before_patterns_and_those_in_their_order() -> None:
    assert parsed(".*=1g", "/vol.*=2g", "/vol2=3g") == [
        ("/", 1024, 0), ("/data", 1024, 0), ("/vol1", 1024, 0), ("/vol2", 3072, 0),
    ]  # fmt: skip
    assert parsed("/vol.*=2g", ".*=1g") == [("/vol1", 2048, 0), ("/vol2", 2048, 0), ("/", 1024, 0), ("/data", 1024, 0)]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("ten", "is no size"),
        ("10x", "is no size"),
        ("-5G", "is no size"),
        ("/data=", "is no size"),
        ("1k", "are not from 1 MiB"),
        ("9" * 30, "are not from 1 MiB"),
        ("/data=1G:many", "no number of files"),
        ("/data=1G:0", "no number of files"),
        ("data=1G", "no absolute path"),
        ("/nope=1G", "names no directory of the container"),
        ("/&/nope=1G", "/nope names no directory of the container"),
        ("/(=1G", "not a pattern"),
    ],
)
def test_words_that_mean_nothing(word: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parsed(word)


def with_data(folder: Path) -> Any:
    (folder / "old").write_text("hello")

    def change(config: dict[str, Any]) -> None:
        mount = {"destination": "/data", "source": str(folder), "type": "bind", "options": ["rbind", "rw"]}
        config["mounts"].append(mount)

    return change


FILL = "dd if=/dev/zero of={0}/big bs=1M count=60 2>&1 | grep -c 'No space\\|quota exceeded'; echo $(($(stat -c %s {0}/big) >> 20))"


@root
def test_an_image_is_the_limit(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    folder = bundle(
        "sh", "-c", f"cat /data/old; {FILL.format('/tmp')}; {FILL.format('/data')}", change=with_data(tmp_path / "data")
    )
    words = ["--force", "disk-quota=loop-image", "--disk-quota", "40M", "--disk-quota", "/data=20M"]
    done = joey("run", *words, "-b", str(folder), joey.id())
    said, full, size, data_full, data_size = done.stdout.replace("hello", "hello\n").split()
    assert (said, full, data_full) == ("hello", "1", "1")
    assert 25 <= int(size) < 40
    assert 12 <= int(data_size) < 20
    assert "disk-quota: loop-image is used" in done.stderr
    assert sorted(path.suffix for path in (folder / "joey-quota").iterdir()) == [".img", ".img"]
    assert not (folder / "rootfs" / "tmp" / "big").exists()
    assert str(folder) not in subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    again = bundle("sh", "-c", "rm /tmp/big; ls /tmp | wc -l")
    shutil.rmtree(again / "joey-quota", ignore_errors=True)
    config = (again / "config.json").read_text()
    (folder / "config.json").write_text(config.replace(str(again), str(folder)))
    done = joey("run", "--force", "disk-quota=loop-image", "--disk-quota", "40M", "-b", str(folder), joey.id())
    assert done.stdout == "0\n", "what was written the last time is there"


@root
def test_one_pool_by_the_annotation_and_live_growth(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = with_data(tmp_path / "data")

    def change(config: dict[str, Any]) -> None:
        data(config)
        config["annotations"] = {"io.joey.disk-quota": "/&/data=40M"}

    name = joey.id()
    folder = bundle("sleep", "100", change=change)
    joey("run", "-d", "--force", "disk-quota=loop-image", "-b", str(folder), name)
    assert joey("exec", name, "sh", "-c", FILL.format("/tmp")).stdout.split()[0] == "1"
    full, size = joey("exec", name, "sh", "-c", FILL.format("/data")).stdout.split()
    assert full == "1"
    assert int(size) < 5
    done = joey("run", "--force", "disk-quota=loop-image", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, "is in use" in done.stderr) == (1, True)
    if not may_resize():
        done = joey("update", "--disk-quota", "/&/data=120M", name, check=False)
        assert (done.returncode, "CAP_SYS_RESOURCE" in done.stderr) == (1, True)
        return
    joey("update", "--disk-quota", "/&/data=120M", name)
    full, size = joey("exec", name, "sh", "-c", FILL.format("/data")).stdout.split()
    assert (full, size) == ("0", "60")
    for word, reason in (("/&/data=10M", "can't be made smaller"), ("/data=300M", "is one pool")):
        done = joey("update", "--disk-quota", word, name, check=False)
        assert (done.returncode != 0, reason in done.stderr) == (True, True), done.stderr


def may_resize() -> bool:
    """Whether this process has CAP_SYS_RESOURCE (24), which the kernel asks for."""
    status = Path("/proc/self/status").read_text()
    return bool(int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16) >> 24 & 1)


@root
def test_a_limit_of_files(joey: Joey, bundle: MakeBundle) -> None:
    script = "i=0; while echo > /tmp/$i; do i=$((i+1)); done 2>/dev/null; echo $i"
    folder = bundle("sh", "-c", script)
    done = joey("run", "--force", "disk-quota=loop-image", "--disk-quota", "40M:300", "-b", str(folder), joey.id())
    assert 100 < int(done.stdout) <= 320


@root
def test_an_image_that_lets_more_in_than_the_limit_is_refused(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("true")
    force = ("--force", "disk-quota=loop-image")
    joey("run", *force, "--disk-quota", "40M", "-b", str(folder), joey.id())
    for word, reason in (("20M", "has 41943040 bytes, the limit is 20971520"), ("40M:100", "the limit is 100")):
        done = joey("run", *force, "--disk-quota", word, "-b", str(folder), joey.id(), check=False)
        assert (done.returncode, reason in done.stderr) == (1, True), done.stderr


@root
def test_first_starts_at_once_make_one_image(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("sh", "-c", "cat /large | wc -c")
    (folder / "rootfs" / "large").write_bytes(os.urandom(8 << 20))
    command = ["run", "--force", "disk-quota=loop-image", "--disk-quota", "40M", "-b", str(folder)]
    started = [
        subprocess.Popen(joey.command(*command, joey.id()), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in started]
    for out, err, status in ended:
        assert (status, out) == (0, "8388608\n") or "is in use" in err, err
    assert any(status == 0 for _, _, status in ended)
    assert [path.suffix for path in (folder / "joey-quota").iterdir()] == [".img"]


@root
def test_what_is_made_is_whole_or_not_there(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("true")
    (folder / "rootfs" / "large").write_bytes(os.urandom(6 << 20))
    done = joey(
        "run", "--force", "disk-quota=loop-image", "--disk-quota", "4M", "-b", str(folder), joey.id(), check=False
    )
    assert (done.returncode, "No space left" in done.stderr) == (1, True), done.stderr
    assert list((folder / "joey-quota").iterdir()) == []


@root
def test_a_quota_that_can_not_be_had_is_refused(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("true")
    done = joey(
        "run", "--force", "disk-quota=btrfs-qgroup", "--disk-quota", "40M", "-b", str(folder), joey.id(), check=False
    )
    assert (done.returncode, "place.btrfs-qgroup absent" in done.stderr) == (1, True)
    name = joey.id()
    joey("run", "-d", "-b", str(bundle("sleep", "9")), name)
    assert "has no disk quota" in joey("update", "--disk-quota", "40M", name, check=False).stderr


@root
def test_a_subvolume_has_a_quota_group(joey: Joey, bundle: MakeBundle, btrfs: Path) -> None:
    folder = bundle("sh", "-c", FILL.format("/tmp"))
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(btrfs / "root")], check=True)
    shutil.copytree(folder / "rootfs", btrfs / "root", symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(folder / "rootfs")
    (folder / "rootfs").symlink_to(btrfs / "root")
    done = joey(
        "run", "--force", "disk-quota=btrfs-qgroup", "--disk-quota", "20M", "-b", str(folder), joey.id(), check=False
    )
    assert "btrfs quota enable" in done.stderr
    subprocess.run(["btrfs", "quota", "enable", str(btrfs)], check=True)
    subprocess.run(["btrfs", "quota", "rescan", "-w", str(btrfs)], check=True, stdout=subprocess.DEVNULL)
    name = joey.id()
    done = joey("run", "--keep", "--disk-quota", "20M", "-b", str(folder), name)
    assert done.stderr == ""
    full, size = done.stdout.split()
    assert full == "1"
    assert int(size) < 20
    assert limit_of(btrfs) == "20.00MiB"
    (btrfs / "root" / "tmp" / "big").unlink()
    joey("delete", name)
    wait_for(lambda: limit_of(btrfs) == "none")


def limit_of(place: Path) -> str:
    """What `btrfs qgroup show` says of the subvolume called root."""
    done = subprocess.run(["btrfs", "qgroup", "show", "-r", str(place)], capture_output=True, text=True, check=True)
    return next(line.split()[3] for line in done.stdout.splitlines() if line.endswith("root"))
