"""Root file systems made of layers: every way gives the same tree, keeps the layers as they are, and leaves nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import REPORTS, Joey, MakeBundle

pytestmark = pytest.mark.root

ANYWHERE = ("overlay", "fuse-overlayfs", "hard-links", "copy")
WAYS = (*ANYWHERE, "btrfs-snapshot", "reflink")
LIST = "cd /; find etc opt var usr/share ! -name '*.joey' | sort | while read -r f; do stat -c '%n %A %u:%g %Y %t,%T %s' \"$f\" | sed '/^[^ ]* d/s/ [0-9]*$//'; done"  # fmt: skip


def fill(layers: list[Path], busybox_root: Path) -> None:
    """Layers with everything that a layer may say, over a root of busybox."""
    base, app, top = layers
    shutil.copytree(busybox_root, base, symlinks=True, dirs_exist_ok=True)
    for folder in (app, top):
        folder.mkdir(exist_ok=True)
    for name in ("etc/sub", "opt/a/below", "opt/hidden/below", "var/x", "usr/share/y"):
        (base / name).mkdir(parents=True)
    for name, text in {"etc/motd": "base", "etc/gone": "x", "opt/a/below/file": "a", "opt/hidden/below/file": "h",
                       "var/was-a-file": "f", "var/x/file": "x", "usr/share/y/data": "shared" * 5000, "etc/same": "s", "bin/tool": "t"}.items():  # fmt: skip
        (base / name).write_text(text)
    (base / "var/was-a-directory/in").mkdir(parents=True)
    os.link(base / "etc/same", base / "etc/same-too")
    os.link(base / "usr/share/y/data", base / "usr/share/y/data-too")
    (base / "etc/link").symlink_to("/etc/motd")
    (base / "etc/dangling").symlink_to("nowhere")
    os.mknod(base / "opt/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mkfifo(base / "opt/fifo", 0o640)
    (base / "etc/set-id").write_text("s")
    os.chown(base / "etc/set-id", 7, 8)
    (base / "etc/set-id").chmod(0o6755)
    with (base / "opt/sparse").open("wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
    for folder in (app, top):
        for name in ("etc", "opt", "var"):
            (folder / name).mkdir()
    (app / "etc/motd").write_text("app")
    (app / "etc/odd \\ , : name").write_text("odd")
    (app / "var/was-a-file").mkdir()
    (app / "var/was-a-file/now").write_text("n")
    (app / "var/was-a-directory").write_text("a file")
    os.mknod(top / "etc/gone", stat.S_IFCHR, 0)
    os.mknod(top / "etc/never-was", stat.S_IFCHR, 0)
    (top / "opt/hidden").mkdir(0o750)
    os.setxattr(top / "opt/hidden", "trusted.overlay.opaque", b"y")
    (top / "opt/hidden/new").write_text("new")
    os.chown(top / "var", 3, 4)
    for folder in layers:
        for place, names, files in os.walk(folder, topdown=False):
            for name in (*names, *files):
                os.utime(Path(place, name), ns=(10**18, 10**18 + 123), follow_symlinks=False)


def digest(layers: list[Path]) -> str:
    """Everything of the layers: names, kinds, owners, modes, contents."""
    found = hashlib.sha256()
    for layer in layers:
        for place, names, files in sorted(os.walk(layer)):
            for name in sorted((*names, *files)):
                path = Path(place, name)
                status = path.lstat()
                found.update(
                    f"{path} {status.st_mode} {status.st_uid} {status.st_gid} {status.st_size} {status.st_mtime_ns}".encode()
                )
                if path.is_file() and not path.is_symlink():
                    found.update(path.read_bytes())
    return found.hexdigest()


class Layered:
    """A bundle without a root, and its layers."""

    def __init__(self, bundle: Path, layers: list[Path], joey: Joey) -> None:
        self.bundle = bundle
        self.layers = layers
        self.joey = joey

    def words(self, way: str) -> list[str]:
        force = ["--force", f"layers={way}"] if way else []
        return [*force, *(f"--layer={path}" for path in self.layers), "-b", str(self.bundle)]

    def run(self, way: str, script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"]["args"] = ["sh", "-c", script]
        (self.bundle / "config.json").write_text(json.dumps(config))
        return self.joey("run", *self.words(way), self.joey.id(), check=check)


MakeLayered = Callable[..., Layered]


@pytest.fixture
def layered(joey: Joey, bundle: MakeBundle, busybox_root: Path, tmp_path: Path) -> MakeLayered:
    """A function that makes three layers, and a bundle for them; in a folder, or a btrfs where the way needs one."""

    def make(way: str = "", place: Path | None = None, change: Any = None) -> Layered:
        place = place or tmp_path / "place"
        place.mkdir(exist_ok=True)
        made = bundle(change=change)
        shutil.rmtree(made / "rootfs")
        shutil.move(made, place / "bundle")
        layers = [place / name for name in ("base", "app", "top")]
        if way == "btrfs-snapshot":
            fill([place / f"{path.name}-filled" for path in layers], busybox_root)
            subprocess.run(["btrfs", "-q", "subvolume", "create", layers[0]], check=True)
            joey_layers = [place / f"{path.name}-filled" for path in layers]
            copied = Layered(place / "bundle", joey_layers, joey)
            copied.run("copy", "true")
            subprocess.run(["cp", "-a", "--reflink=auto", f"{place}/bundle/rootfs/.", layers[0]], check=True)
            shutil.rmtree(place / "bundle" / "rootfs")
            shutil.rmtree(place / "bundle" / "joey-layers")
            layers = layers[:1]
        else:
            fill(layers, busybox_root)
        return Layered(place / "bundle", layers, joey)

    return make


@pytest.fixture
def expected(layered: MakeLayered, tmp_path: Path) -> str:
    """The tree as the kernel's overlay shows it."""
    return layered(place=tmp_path / "expected").run("overlay", LIST).stdout


@pytest.mark.parametrize("way", WAYS)
def test_the_tree_is_the_same(way: str, layered: MakeLayered, expected: str, request: pytest.FixtureRequest) -> None:
    assert "opt/hidden/new" in expected
    assert "etc/gone" not in expected
    assert "var/was-a-file/now" in expected
    assert "opt/hidden/below" not in expected
    made = layered(way, None if way in ANYWHERE else request.getfixturevalue("btrfs"))
    before = digest(made.layers)
    assert made.run(way, LIST).stdout.splitlines() == expected.splitlines()
    if way not in ("overlay", "fuse-overlayfs"):
        status = (made.bundle / "rootfs/opt/sparse").stat()
        assert status.st_blocks * 512 < 1 << 20, "holes stay holes"
        one, other = (made.bundle / "rootfs/etc" / name for name in ("same", "same-too"))
        assert one.stat().st_ino == other.stat().st_ino
    assert digest(made.layers) == before


ATTACK = """
for path in /usr/share/y/data /etc/motd /bin/tool /opt/sparse /etc/set-id; do
    echo attacked >> $path; chmod 777 $path; chown 5:5 $path; touch $path; dd if=/dev/zero of=$path bs=1 count=1 conv=notrunc
    exec 5<$path; echo more > /proc/self/fd/5; ln $path /tmp/linked; echo linked > /tmp/linked; rm -f /tmp/linked
    mount -o remount,rw /usr; mount -o remount,rw,bind /usr; umount /usr; mv $path $path.away; rm -f $path.away
done 2>/dev/null
rm -rf /usr/share /opt; mkdir /opt; echo hello > /opt/hello; echo mine > /etc/mine; cat /opt/hello
"""


@pytest.mark.parametrize("way", WAYS)
def test_a_hostile_container_keeps_to_its_own(way: str, layered: MakeLayered, request: pytest.FixtureRequest) -> None:
    """Root inside, with every capability that is given to it, changes nothing of the layers; and keeps what it wrote."""

    def change(config: dict[str, Any]) -> None:
        names = [
            "CAP_" + name for name in "CHOWN DAC_OVERRIDE FOWNER FSETID MKNOD SETFCAP SYS_CHROOT SETUID SETGID".split()
        ]
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)

    made = layered(way, None if way in ANYWHERE else request.getfixturevalue("btrfs"), change)
    before = digest(made.layers)
    assert "hello" in made.run(way, ATTACK).stdout
    assert digest(made.layers) == before
    again = made.run("", "cat /opt/hello /etc/mine; ls /usr/share | wc -l")
    assert again.stdout.split()[:2] == ["hello", "mine"]
    assert "making" not in again.stderr
    assert again.stdout.split()[2] == ("1" if way == "hard-links" else "0"), "a farm's programs are read-only"
    assert digest(made.layers) == before


@pytest.mark.parametrize("capability", ["CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"])
def test_links_are_not_given_to_who_could_write_to_them(layered: MakeLayered, capability: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["capabilities"]["bounding"].append(capability)

    done = layered(change=change).run("hard-links", "true", check=False)
    assert done.returncode == 1
    assert f"with {capability} the container could write to the layers' files" in done.stderr


def test_links_are_not_given_to_a_user_namespace(layered: MakeLayered) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [
            {"containerID": 0, "hostID": 0, "size": 1000}
        ]

    done = layered(change=change).run("hard-links", "true", check=False)
    assert done.returncode == 1
    assert "root of a user namespace could write to the layers' files" in done.stderr


def test_the_best_way_is_chosen_and_costs_are_shown(layered: MakeLayered) -> None:
    made = layered()
    done = made.joey("plan", *made.words(""))
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    assert rows["layers"][1] == "overlay"
    assert int(rows["copy"][1]) > int(rows["hard-links"][1]) > int(rows["overlay"][1]) == 0
    assert float(rows["copy"][2]) > float(rows["hard-links"][2])
    assert sorted(path.name for path in made.bundle.iterdir()) == ["config.json"], "a plan makes nothing"
    assert "making" in made.run("copy", "true").stderr
    done = made.joey("plan", *made.words(""))
    assert "layers" in done.stdout
    assert "its root is there already, by copy" in done.stdout
    assert "seconds, about" not in done.stdout


def test_by_annotation_relative_to_the_bundle(layered: MakeLayered, joey: Joey) -> None:
    def change(config: dict[str, Any]) -> None:
        config["annotations"] = {"io.joey.layers": "../base;../app"}
        config["process"]["args"] = ["cat", "/etc/motd", "/etc/gone"]

    made = layered(change=change)
    assert joey("run", "-b", str(made.bundle), joey.id()).stdout == "appx"


@pytest.mark.parametrize("way", ["overlay", "fuse-overlayfs"])
def test_a_mount_is_there_for_hooks_and_gone_after(way: str, layered: MakeLayered, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        script = f"cat {tmp_path}/place/bundle/rootfs/etc/motd > {tmp_path}/seen"
        config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]}

    made = layered(change=change)
    name = made.joey.id()
    made.joey("create", *made.words(way), name)
    assert (tmp_path / "seen").read_text() == "app"
    second = made.joey("run", *made.words(way), made.joey.id(), check=False)
    assert second.returncode == 1
    assert "is mounted already" in second.stderr
    assert os.path.ismount(made.bundle / "rootfs"), "a refused container leaves another's mount"
    made.joey("delete", "--force", name)
    assert not os.path.ismount(made.bundle / "rootfs")
    assert not list((made.bundle / "rootfs").iterdir())


def test_many_layers_and_odd_names(layered: MakeLayered) -> None:
    """More than fit into mount's page, with what its words mean in their names."""
    made = layered()
    for number in range(60):
        folder = made.bundle.parent / f"{number:02} ,lowerdir=x:y\\ {'long' * 20}"
        (folder / "etc").mkdir(parents=True)
        (folder / "etc" / f"n{number}").write_text("x")
        made.layers.append(folder)
    few = Layered(made.bundle, made.layers[:4], made.joey)
    assert few.run("overlay", "ls /etc | grep -c '^n'").stdout == "1\n"
    shutil.rmtree(made.bundle / "joey-layers")
    for way in ("overlay", "copy"):
        assert made.run(way, "ls /etc | grep -c '^n'").stdout == "60\n"
        shutil.rmtree(made.bundle / "joey-layers")


def test_a_start_that_fails_leaves_no_mount(layered: MakeLayered) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}

    made = layered(change=change)
    assert made.run("overlay", "true", check=False).returncode == 1
    assert not os.path.ismount(made.bundle / "rootfs")


def test_a_joey_killed_while_it_copies(layered: MakeLayered) -> None:
    """The next run starts anew, and the root is never half there."""
    made = layered()
    for number in range(3000):
        (made.layers[0] / "etc" / f"many{number}").write_text("x")
    command = made.joey.command("run", *made.words("copy"), made.joey.id())
    half = made.bundle / ".joey-rootfs"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not (half / "etc").exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert half.exists()
    assert not list((made.bundle / "rootfs").iterdir())
    assert made.run("copy", "ls /etc | grep -c many").stdout == "3000\n"
    assert not half.exists()


def test_a_full_disk(layered: MakeLayered, tmp_path: Path) -> None:
    """Said before: how much is needed, and how much is there."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        made = layered()
        shutil.move(made.bundle, small / "bundle")
        moved = Layered(small / "bundle", made.layers, made.joey)
        done = moved.run("copy", "true", check=False)
        assert done.returncode == 1
        assert "MB are free" in done.stderr
        assert sorted(path.name for path in moved.bundle.iterdir()) == ["config.json"]
        assert "they are on another file system" in moved.run("hard-links", "true", check=False).stderr
    finally:
        subprocess.run(["umount", small], check=True)


def test_what_is_refused(layered: MakeLayered) -> None:
    made = layered()
    for words, said in (
        (["--layer=/nowhere"], "layer /nowhere is no directory"),
        (["--layer=/"], "are in one another"),
        ([f"--layer={made.bundle.parent}"], "are in one another"),
    ):
        done = made.joey("run", *words, "-b", str(made.bundle), made.joey.id(), check=False)
        assert done.returncode == 2
        assert said in done.stderr
    (made.bundle / "rootfs").mkdir()
    (made.bundle / "rootfs" / "something").write_text("mine")
    for way in ("overlay", "copy"):
        done = made.run(way, "true", check=False)
        assert done.returncode != 0
        assert "is not empty: layers can't become it" in done.stderr
        shutil.rmtree(made.bundle / "joey-layers", ignore_errors=True)
    assert (made.bundle / "rootfs" / "something").read_text() == "mine"
    (made.bundle / "rootfs" / "something").unlink()
    made.run("copy", "true")
    made.layers.pop()
    done = made.run("", "true", check=False)
    assert done.returncode == 1
    assert "was made of other layers" in done.stderr
    assert "start anew with" in done.stderr


def test_a_damaged_record(layered: MakeLayered) -> None:
    made = layered()
    made.run("copy", "true")
    (made.bundle / "joey-layers" / "record.json").write_text("{")
    done = made.run("", "true", check=False)
    assert done.returncode == 1
    assert "record.json can't be read" in done.stderr


def test_another_machine_is_planned_by_its_report(layered: MakeLayered) -> None:
    """Its directories can't be looked at: what its kernel has decides, and a copy is what is left."""
    made = layered()
    for report, way in (("vanilla-2.6.32", "copy"), ("linux-6.18", "overlay")):
        done = made.joey("plan", *made.words(""), "--report", str(REPORTS / f"{report}.json"), check=False)
        rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines() if line.startswith("  ")}
        assert rows["layers"] == way
