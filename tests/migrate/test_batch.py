"""Many machines by one list: what fails stops nothing, what is done is not done again, on this machine and on a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey
from .guests import MIB, make_file_system, run
from .test_layers import archive
from .test_unpack import image

pytestmark = pytest.mark.root


@pytest.fixture
def machines(tree: Path, tmp_path: Path) -> Path:
    """Three machines that differ by a file, one damaged disk, and their list."""
    lines = []
    for name in ("one", "two", "three"):
        source = tmp_path / f"tree-{name}"
        run("cp", "-a", tree, source)
        (source / "etc/hostname").write_text(name)
        make_file_system(tmp_path / f"{name}.raw", "ext4", 48 * MIB, source, "-I", "256")
        lines.append(f"- {{name: {name}, source: {name}.raw, to: 'oci:{tmp_path}/images:{name}'}}")
    (tmp_path / "broken.qcow2").write_bytes(b"QFI\xfb" + os.urandom(5000))
    lines.insert(1, f"- {{name: broken, source: [broken.qcow2], to: 'oci:{tmp_path}/images:broken'}}")
    (tmp_path / "list.yaml").write_text("\n".join(lines) + "\n")
    return tmp_path / "list.yaml"


def batch(joey: Joey, path: Path, *words: str, status: int) -> Any:
    done = joey("migrate", "batch", str(path), "--json", *words, check=False)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def test_a_list(machines: Path, joey: Joey, tmp_path: Path) -> None:
    first = batch(joey, machines, status=1)
    outcomes = {row["name"]: row["error"] for row in first["machines"]}
    assert "qcow2" in outcomes.pop("broken")
    assert outcomes == {"one": "", "two": "", "three": ""}
    assert first["different"] < 0.7 * first["layers"], "like machines share their layers"
    joey("image", "verify", f"{tmp_path}/images:three")

    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "images/blobs/sha256").iterdir()}
    make_file_system(tmp_path / "mended.raw", "ext4", 48 * MIB, tmp_path / "tree-one")
    machines.write_text(machines.read_text().replace("broken.qcow2", "mended.raw"))
    second = batch(joey, machines, status=0)
    assert all(row["report"] for row in second["machines"])
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "images/blobs/sha256").iterdir()}
    assert {name for name in before if after[name] != before[name]} == set(), "what was done is not done again"
    text = joey("migrate", "batch", str(machines))
    assert "% are shared" in text.stdout
    os.utime(tmp_path / "two.raw", (1, 1))
    assert "two is done" in joey("migrate", "batch", str(machines)).stderr


@pytest.mark.slow
def test_on_a_cluster(machines: Path, joey: Joey) -> None:
    code = (
        "import sys; from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "  with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster:\n"
        "    print(cluster.scheduler_address, flush=True); sys.stdin.read()\n"
    )
    script = machines.parent / "cluster.py"
    script.write_text(code)
    cluster = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert cluster.stdout
        address = cluster.stdout.readline().strip()
        found = batch(joey, machines, "--scheduler", address, status=1)
        assert [row["name"] for row in found["machines"] if row["error"]] == ["broken"]
    finally:
        cluster.communicate("", timeout=60)
    done = joey("migrate", "batch", str(machines), "--scheduler", address, "--again", check=False, timeout=100)
    assert done.returncode == 1
    assert "can't be reached" in done.stderr


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "a list of machines"),
        ("a: b", "a list of machines"),
        ("- {name: x, source: a}", "list.yaml:1: a machine has"),
        ("- {name: x, source: a, to: b, too: c}", "list.yaml:1: a machine has no key 'too'"),
        ("- {name: x, source: a, to: b}\n- {name: x, source: a, to: b}", "two machines are called 'x'"),
        ("- {name: x, source: [1], to: b}", "source is a text"),
        ("- {name: [x, source: a", "list.yaml"),
        ("- &a {name: x, source: a, to: b}\n- *a", "a list of machines"),
    ],
)
def test_lists_that_are_none(text: str, word: str, joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text(text)
    done = joey("migrate", "batch", f"{tmp_path}/list.yaml", check=False)
    assert done.returncode == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_what_differs_between_images(tree: Path, joey: Joey, tmp_path: Path) -> None:
    run("cp", "-a", tree, tmp_path / "changed")
    nasty = tmp_path / "changed/home/user/nasty"
    (nasty / "#").unlink()
    (nasty / "added").write_text("x")
    (nasty / "mode").chmod(0o700)
    os.utime(nasty / "plain", (1, 1))
    joey("migrate", str(tree), "--to", f"oci:{tmp_path}/images:old")
    joey("migrate", f"{tmp_path}/changed", "--to", f"oci:{tmp_path}/images:new")
    done = joey("image", "diff", f"{tmp_path}/images:old", f"{tmp_path}/images:new", check=False)
    assert done.returncode == 1
    assert sorted(done.stdout.splitlines()) == [
        "* /home/user/nasty/mode (mode, xattrs)", "+ /home/user/nasty/added (file)", "- /home/user/nasty/# (file)",
    ] or sorted(done.stdout.splitlines()) == [
        "* /home/user/nasty/mode (mode)", "+ /home/user/nasty/added (file)", "- /home/user/nasty/# (file)",
    ]  # fmt: skip
    assert (
        "plain (mtime)"
        in joey("image", "diff", "--times", f"{tmp_path}/images:old", f"{tmp_path}/images:new", check=False).stdout
    )
    same = joey("image", "diff", f"{tmp_path}/images:old", f"oci:{tmp_path}/images:old", "--json")
    assert json.loads(same.stdout) == {"config": [], "files": []}


def test_a_folder_that_went(joey: Joey, tmp_path: Path) -> None:
    old = image(tmp_path / "old", archive(("d/f", "file", "1"), ("a", "file", "x")))
    new = image(tmp_path / "new", archive(("d/f", "file", "1"), ("a", "file", "x")), archive((".wh.d", "file", "")))
    done = joey("image", "diff", str(old), str(new), check=False)
    assert done.stdout.splitlines() == ["- /d/f (file)"]
