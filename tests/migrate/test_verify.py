"""`joey migrate verify` finds every kind of difference, one at a time, and explains those of the recipe's rules."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import Joey
from .guests import run
from .test_layers import archive
from .test_unpack import image

pytestmark = pytest.mark.root
NASTY = "home/user/nasty"


def set_time(path: Path, nanoseconds: int) -> None:
    os.utime(path, ns=(0, nanoseconds))


CHANGES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "content": (lambda r: same_time(r / NASTY / "large", lambda p: patch(p, 2_000_000)), NASTY + "/large", "content"),
    "size": (lambda r: same_time(r / NASTY / "zeros", lambda p: os.truncate(p, 5)), NASTY + "/zeros", "size"),
    "time by a nanosecond": (lambda r: set_time(r / NASTY / "plain", 1_234_567_890_123_456_788), NASTY + "/plain", "time"),
    "mode": (lambda r: (r / NASTY / "mode").chmod(0o751), NASTY + "/mode", "mode"),
    "owner": (lambda r: os.chown(r / "etc/group", 0, 7), "etc/group", "owner"),
    "a missing file": (lambda r: same_time(r / NASTY, lambda p: (p / "#").unlink()), NASTY + "/#", "is not in the image"),
    "one more file": (lambda r: same_time(r / "opt", lambda p: (p / "more").mkdir()), "opt/more", "is in the image only"),
    "a link's target": (lambda r: same_time(r / NASTY, lambda p: relink(p / "dangling")), NASTY + "/dangling", "target"),
    "an attribute": (lambda r: os.removexattr(r / NASTY / "mode", "user.note"), NASTY + "/mode", "attributes user.note"),
    "a capability": (lambda r: run("setcap", "-r", r / "usr/bin/tool"), "usr/bin/tool", "attributes security.capability"),
    "an ACL": (lambda r: run("setfacl", "-b", r / NASTY / "sticky"), NASTY + "/sticky", "attributes system.posix_acl_default"),
    "a hard link": (lambda r: same_time(r / NASTY, lambda p: unlink(p / "second")), NASTY + "/second", "hard link"),
    "a device": (lambda r: same_time(r / NASTY, lambda p: renode(p / "null")), NASTY + "/null", "device"),
    "a kind": (lambda r: same_time(r / NASTY, lambda p: rekind(p / "empty")), NASTY + "/empty", "kind"),
}  # fmt: skip


def same_time(path: Path, change: Callable[[Path], object]) -> None:
    before = os.stat(path)
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def patch(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def relink(path: Path) -> None:
    before = os.lstat(path)
    path.unlink()
    path.symlink_to("elsewhere")
    os.chown(path, before.st_uid, before.st_gid, follow_symlinks=False)
    os.utime(path, ns=(0, before.st_mtime_ns), follow_symlinks=False)


def unlink(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def renode(path: Path) -> None:
    before = os.lstat(path)
    path.unlink()
    os.mknod(path, before.st_mode, os.makedev(1, 5))
    os.utime(path, ns=(0, before.st_mtime_ns))


def rekind(path: Path) -> None:
    path.rmdir()
    path.write_text("")


@pytest.mark.parametrize("change", CHANGES)
def test_every_difference_is_found(change: str, tree: Path, joey: Joey, tmp_path: Path) -> None:
    run("cp", "-a", tree, tmp_path / "changed")
    what, path, word = CHANGES[change]
    what(tmp_path / "changed")
    joey("migrate", str(tmp_path / "changed"), "--to", f"oci:{tmp_path}/image")
    done = joey("migrate", "verify", str(tree), f"oci:{tmp_path}/image", "--json", check=False)
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert any(row["path"] == "/" + path and word in row["what"] for row in found["differences"]), found["differences"]
    assert found["unexplained"] <= 3
    table = joey("migrate", "verify", str(tree), f"oci:{tmp_path}/image", check=False)
    assert "/" + path in table.stdout


def test_what_rules_keep_out_is_explained(tree: Path, joey: Joey, tmp_path: Path) -> None:
    joey("migrate", str(tree), "--to", f"oci:{tmp_path}/image")
    found = json.loads(joey("migrate", "verify", str(tree), f"oci:{tmp_path}/image", "--json").stdout)
    assert {row["rule"] for row in found["explained"]} == {"kernel", "temporary", "fstab", "sockets"}
    assert all(row["reason"] for row in found["explained"])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("joey-recipe: 1\ndrop:\n  kernel: no\n")
    done = joey("migrate", "verify", str(tree), f"oci:{tmp_path}/image", "--recipe", str(recipe), check=False)
    assert done.returncode == 1
    assert "/boot/vmlinuz-2.6.32" in done.stdout


def test_a_damaged_layer_is_no_difference_but_an_error(tree: Path, joey: Joey, tmp_path: Path) -> None:
    joey("migrate", str(tree), "--to", f"oci:{tmp_path}/image")
    largest = max((tmp_path / "image/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    patch(largest, largest.stat().st_size // 2)
    done = joey("migrate", "verify", str(tree), f"oci:{tmp_path}/image", check=False)
    assert done.returncode == 1
    assert "does not have that digest" in done.stderr
    assert joey("image", "verify", f"{tmp_path}/image", check=False).returncode == 1


def test_an_image_of_another_tool_is_refused(tree: Path, joey: Joey, tmp_path: Path) -> None:
    layout = image(tmp_path, archive(("b", "file", "x"), ("a", "file", "x")))
    done = joey("migrate", "verify", str(tree), str(layout), check=False)
    assert done.returncode == 1
    assert "is not in order at /a" in done.stderr


def test_a_source_that_changed_after_the_migration(tree: Path, joey: Joey, tmp_path: Path) -> None:
    shutil.copytree(tree / "etc", tmp_path / "source/etc")
    (tmp_path / "source/usr").mkdir()
    joey("migrate", f"{tmp_path}/source", "--to", f"oci:{tmp_path}/image")
    (tmp_path / "source/etc/new").write_text("x")
    assert "/etc/new" in joey("migrate", "verify", f"{tmp_path}/source", f"oci:{tmp_path}/image", check=False).stdout


def test_a_link_to_what_another_layer_covers(joey: Joey, tmp_path: Path) -> None:
    """g is a link to the lower layer's f, and the upper layer has another f: it only looks the same."""
    layout = image(tmp_path, archive(("f", "file", "EVIL"), ("g", "hard", "f")), archive(("f", "file", "good")))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").write_text("good")
    os.link(tmp_path / "tree/f", tmp_path / "tree/g")
    done = joey("migrate", "verify", f"{tmp_path}/tree", "--as", "machine", str(layout), "--json", check=False)
    assert done.returncode == 1
    assert {"path": "/f", "what": "it is in several layers of the image"} in json.loads(done.stdout)["differences"]
