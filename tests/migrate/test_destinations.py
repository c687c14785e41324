"""Where images go besides layouts: archives that podman and skopeo load, bundles that run; complete or not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from joey.compat.errors import JoeyError
from joey.migrate.image.layout import Layout
from joey.migrate.image.read import open_image

from ..conftest import Joey
from .guests import listing, run
from .test_disks import DROPPED, assert_same, digest
from .test_layers import archive
from .test_unpack import image

pytestmark = pytest.mark.root


def test_a_docker_archive_is_loaded_by_others(ext4: Path, tree: Path, joey: Joey, tmp_path: Path) -> None:
    file = tmp_path / "image.tar"
    joey("migrate", str(ext4), "--to", f"docker-archive:{file}:shop/web:1.0")
    run("skopeo", "copy", "--insecure-policy", f"docker-archive:{file}", f"oci:{tmp_path}/copy:it")
    joey("image", "verify", f"oci:{tmp_path}/copy:it")
    inspected = json.loads(run("skopeo", "inspect", "--config", f"docker-archive:{file}:shop/web:1.0"))
    assert inspected["config"]["Cmd"] == ["/bin/sh"]
    folder = Path(tempfile.mkdtemp(prefix="pod"))  # podman takes no longer path
    store = ["podman", "--root", f"{folder}/store", "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
    try:
        assert "shop/web:1.0" in run(*store, "load", "-q", "-i", file)
        place = run(*store, "image", "mount", "localhost/shop/web:1.0").strip()
        expected, found = listing(tree, DROPPED), listing(Path(place), DROPPED)
        # podman's vfs driver copies a layer for the next without ACLs
        known = ("etc/fstab", "home/user/nasty/sticky", "home/user/nasty/plain", ".")
        assert [path for path, value in expected.items() if found[path] != value and path not in known] == []
        run(*store, "image", "umount", "-a")
        words = ["--rm", "--network", "none", "--ulimit", "nofile=512:512", "--ulimit", "nproc=512:512"]
        name = ["localhost/shop/web:1.0", "/bin/busybox", "cat", "/etc/os-release"]
        assert "A test system" in run(*store, "--cgroup-manager", "cgroupfs", "run", *words, *name)
    finally:
        run(*store, "image", "umount", "-a")
        run(*store, "rmi", "-a", "-f")
        shutil.rmtree(folder)
    assert [path.name for path in tmp_path.glob(".joey*")] == []


def test_a_bundle_at_once(ext4: Path, tree: Path, joey: Joey, tmp_path: Path) -> None:
    joey("migrate", str(ext4), "--to", f"bundle:{tmp_path}/bundle")
    assert_same(tree, tmp_path / "bundle/rootfs")
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    config["process"]["args"] = ["/bin/busybox", "cat", "/etc/os-release"]
    (tmp_path / "bundle/config.json").write_text(json.dumps(config))
    assert "A test system" in joey("run", "--bundle", f"{tmp_path}/bundle", joey.id()).stdout
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("containers", "joey-work")) == [
        "bundle"
    ]


@pytest.mark.parametrize("what", ["docker-archive:{}/there", "bundle:{}/folder", "oci:{}/folder"])
def test_what_is_there_is_not_written_over(what: str, ext4: Path, joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/mine").write_text("mine")
    done = joey("migrate", str(ext4), "--to", what.format(tmp_path), check=False)
    assert done.returncode == 1
    assert "there already" in done.stderr
    assert (tmp_path / "there").read_text() == (tmp_path / "folder/mine").read_text() == "mine"


@pytest.mark.parametrize("word", ["", "oci", "oci:", "nowhere:x", "images", "docker-archive:"])
def test_destinations_that_are_none(word: str, ext4: Path, joey: Joey) -> None:
    done = joey("migrate", str(ext4), "--to", word, check=False)
    assert done.returncode == 2
    assert "oci:DIR" in done.stderr or "docker-archive:FILE" in done.stderr


def test_a_full_disk_leaves_the_images_that_were_there(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=3m", "none", small)
    try:
        recipe = tmp_path / "small.yaml"
        recipe.write_text("joey-recipe: 1\nexclude:\n  - {path: /home, reason: small}\n")
        joey("migrate", str(ext4), "--recipe", str(recipe), "--to", f"oci:{small}/images:first")
        before = {path.name: digest(path) for path in (small / "images/blobs/sha256").iterdir()}
        done = joey("migrate", str(ext4), "--to", f"oci:{small}/images:second", check=False)
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert {path.name: digest(path) for path in (small / "images/blobs/sha256").iterdir()} == before
        joey("image", "verify", f"{small}/images:first")
    finally:
        run("umount", small)


@pytest.mark.slow
def test_a_killed_run_leaves_no_half_image_and_the_next_goes_on(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    """Killed at many moments: no image, no mount, no loop device stays; what was converted serves the next run."""
    disk = tmp_path / "disk.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", ext4, disk)
    work = tmp_path / "work"
    work.mkdir()
    command = joey.command("migrate", str(disk), "--work", str(work), "--to", f"oci:{tmp_path}/images:it")
    kept = False
    for turn in range(12):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.15 + 0.05 * turn)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "images/index.json").exists():  # the last thing that is written: then all is there
            joey("image", "verify", f"{tmp_path}/images:it")
            shutil.rmtree(tmp_path / "images")
        (tmp_path / "images/blobs").mkdir(parents=True, exist_ok=True)
        name = "index.json" if (tmp_path / "images/oci-layout").exists() else "oci-layout"
        (tmp_path / f"images/.{name}.{process.pid}.tmp").write_text("{")  # a kill that a turn seldom meets
        kept = kept or any(path.suffix == ".raw" for path in work.rglob("*"))
        assert str(work) not in Path("/proc/self/mountinfo").read_text()
    assert kept
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifest"]
    assert list(work.iterdir()) == [], "what was made on the way goes when it is done"
    assert sorted(os.listdir(tmp_path / "images")) == ["blobs", "index.json", "oci-layout"]
    assert str(tmp_path) not in run("losetup", "-a")
    joey("image", "verify", f"{tmp_path}/images:it")
    names = [path.name for path in (tmp_path / "images/blobs/sha256").iterdir()]
    assert all(len(name) == 64 for name in names), names


def test_two_runs_of_one_source_do_not_meet(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    done = [
        subprocess.Popen(
            joey.command("migrate", str(ext4), "--to", f"oci:{tmp_path}/{n}"),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for n in range(2)
    ]
    texts = [process.communicate()[1] for process in done]
    for process, text in zip(done, texts, strict=True):
        assert process.returncode == 0 or "another joey migrates this source now" in text
    assert 0 in [process.returncode for process in done]


def test_as_a_plain_user_a_disk_needs_root_and_says_so(ext4: Path, tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "src"
    os.chmod(tmp_path, 0o755)
    code = f"import sys; sys.path.insert(0, {str(source)!r}); from joey.runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    place = Path("/var/tmp") / f"joey-plain-{os.getpid()}"
    place.mkdir()
    try:
        shutil.copy(ext4, place / "disk.raw")
        run("chown", "-R", "65534:65534", place)
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", code, "migrate",
             str(place / "disk.raw"), "--work", str(place), "--to", f"oci:{place}/image"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "mounting a disk takes root" in done.stderr
        assert sorted(path.name for path in place.iterdir()) == ["disk.raw"]
    finally:
        shutil.rmtree(place)


def test_an_image_is_cut_into_layers_anew(ext4: Path, tree: Path, joey: Joey, tmp_path: Path) -> None:
    """From one layer of a docker-archive to joey's layers; its settings stay, and so does every file."""
    recipe = tmp_path / "one.yaml"
    recipe.write_text(
        "joey-recipe: 1\nimage: {entrypoint: [/bin/sh], user: user, ports: [80], labels: {a: b}}\nlayers: {split: no}\n"
    )
    joey("migrate", str(ext4), "--recipe", str(recipe), "--to", f"docker-archive:{tmp_path}/one.tar:it:1")
    report = json.loads(
        joey("migrate", f"docker-archive:{tmp_path}/one.tar", "--to", f"oci:{tmp_path}/images:new", "--json").stdout
    )
    assert len(report["layers"]) > 2
    found = json.loads(joey("image", "inspect", f"{tmp_path}/images:new", "--json").stdout)["config"]["config"]
    assert found == {"Entrypoint": ["/bin/sh"], "User": "user", "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": "b"}}
    joey("image", "unpack", f"{tmp_path}/images:new", f"{tmp_path}/bundle")
    assert_same(tree, tmp_path / "bundle/rootfs")
    joey("migrate", "verify", f"oci:{tmp_path}/images:new", f"oci:{tmp_path}/images:new")
    assert [path.name for path in (tmp_path / "joey-work").iterdir()] == []


def test_whiteouts_of_an_image_that_is_a_source(joey: Joey, tmp_path: Path) -> None:
    layout = image(
        tmp_path,
        archive(
            ("etc/passwd", "file", "x"),
            ("d/a", "file", "1"),
            ("d/b", "file", "1"),
            ("e/f/g", "file", "1"),
            ("h", "dir", ""),
            ("h/i", "file", ""),
        ),
        archive(
            ("d/.wh.a", "file", ""), ("e/.wh..wh..opq", "file", ""), ("e/new", "file", "2"), ("h", "file", "a file now")
        ),
    )
    joey("migrate", f"oci:{layout}", "--to", f"oci:{tmp_path}/images:new")
    joey("image", "unpack", f"{tmp_path}/images:new", f"{tmp_path}/bundle")
    root = tmp_path / "bundle/rootfs"
    assert sorted(str(p.relative_to(root)) for p in root.rglob("*")) == [
        "d",
        "d/b",
        "e",
        "e/new",
        "etc",
        "etc/passwd",
        "h",
    ]


def test_verify_at_once(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    joey("migrate", str(ext4), "--verify", "--to", f"oci:{tmp_path}/images:it")
    joey("image", "verify", f"{tmp_path}/images:it")


def test_every_layer_has_the_directories_above_what_is_in_it(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    """With their modes and owners, without their times: none depends on another, and like machines share them."""
    joey("migrate", str(ext4), "--to", f"oci:{tmp_path}/images:it")
    found = open_image(Layout(str(tmp_path / "images")))
    names = [layer["annotations"]["io.joey.layer"] for layer in found.layers]
    assert names[-1] == "directories"
    checked = 0
    for index, name in enumerate(names):
        with found.open_layer(index) as layer:
            seen: dict[bytes, tuple[int, int, int]] = {}
            for entry in layer.reader():
                if entry.path:
                    assert entry.path.rpartition(b"/")[0] in seen, (name, entry.path)
                    checked += 1
                if entry.kind == "directory":
                    seen[entry.path] = entry.mode, entry.uid, entry.mtime
        if name == "data":
            assert seen[b"home/user"][1:] == (1000, 0)
        if name == "directories":
            assert seen[b"home/user/nasty/empty"][2] == 1_000_000_000
    assert checked > 60


def test_a_write_that_takes_only_a_part(tmp_path: Path) -> None:
    """On a disk with two pages left write(2) takes two pages: no blob stays that is not what its digest says."""
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=256k", "none", small)
    try:
        layout = Layout(str(small / "images"))
        layout.create()
        room = os.statvfs(small)
        (small / "filler").write_bytes(bytes((room.f_bavail - 2) * room.f_frsize))
        with pytest.raises(OSError, match="No space left"):
            layout.put(b"x" * 20000)
        layout.close()
        assert list((small / "images/blobs/sha256").iterdir()) == []
    finally:
        run("umount", small)


def test_many_make_one_layout_at_once(tmp_path: Path) -> None:
    """As the jobs of a batch do: none finds it half made."""

    def make(path: Path) -> None:
        layout = Layout(str(path))
        layout.create()
        layout.open()
        layout.close()

    with ThreadPoolExecutor(8) as pool:
        for number in range(60):
            for done in [pool.submit(make, tmp_path / str(number)) for _ in range(8)]:
                done.result()
    (tmp_path / "cut/blobs").mkdir(parents=True)
    (tmp_path / "cut/.oci-layout.77.tmp").write_text("{")
    make(tmp_path / "cut")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine").write_text("")
    with pytest.raises(JoeyError, match="no OCI image layout"):
        make(tmp_path / "other")
