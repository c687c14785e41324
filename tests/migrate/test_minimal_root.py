"""A minimal root below an application: what it wants of a real root file system, and no more."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ..conftest import Joey
from .guests import debian_root, run
from .test_application import PROGRAM

SCRIPT = """#!/bin/bash
# a comment that says tar
echo "$(ls -d /opt/shop | sed s,shop,sold,)"
exec /opt/shop/bin/shop
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "bin").mkdir(parents=True)
    (tmp_path / "app.c").write_text(PROGRAM)
    run("gcc", "-o", folder / "bin/shop", tmp_path / "app.c", "-lm")
    (folder / "start.sh").write_text(SCRIPT)
    (folder / "start.sh").chmod(0o755)
    return folder


def warnings(joey: Joey, source: Path, image: str, *words: str) -> list[str]:
    done = joey("migrate", str(source), *words, "--to", f"oci:{image}", "--json", timeout=100)
    found: list[str] = json.loads(done.stdout)["warnings"]
    return found


def output(joey: Joey, bundle: Path, *command: str) -> str:
    """What a bundle's program, or another one, prints."""
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    if command:
        config["process"]["args"] = list(command)
        path.write_text(json.dumps(config))
    return joey("run", "--bundle", str(bundle), joey.id(), check=False).stdout


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "image"])
def test_it_has_what_the_application_wants(kind: str, shop: Path, joey: Joey, tmp_path: Path) -> None:
    root = str(debian_root())
    if kind == "image":
        joey("migrate", root, "--to", f"oci:{tmp_path}/images:debian", timeout=100)
        root = f"oci:{tmp_path}/images:debian"
    (note,) = warnings(joey, shop, f"{tmp_path}/out:shop", "--root-from", root)
    assert "are below it" in note
    verdict = joey("migrate", "verify", str(shop), f"{tmp_path}/out:shop", "--root-from", root, timeout=100).stdout
    assert verdict.endswith("the same\n")
    joey("image", "unpack", f"{tmp_path}/out:shop", f"{tmp_path}/bundle")
    files = {str(path.relative_to(tmp_path / "bundle/rootfs")) for path in (tmp_path / "bundle/rootfs").rglob("*")}
    assert {"usr/bin/bash", "usr/bin/sed", "usr/bin/ls", "etc/passwd", "tmp"} <= files
    assert not files & {"usr/bin/tar", "usr/bin/apt", "usr/bin/dpkg", "etc/shadow", "var/lib/dpkg"}
    assert len(files) < 150
    assert (tmp_path / "bundle/rootfs/tmp").stat().st_mode & 0o7777 == 0o1777
    assert output(joey, tmp_path / "bundle") == "app says 42\n"
    assert output(joey, tmp_path / "bundle", "/opt/shop/start.sh") == "/opt/sold\napp says 42\n"


@pytest.mark.root
@pytest.mark.slow
def test_interpreters_come_with_their_libraries(joey: Joey, tmp_path: Path) -> None:
    app = tmp_path / "tool"
    (app / "bin").mkdir(parents=True)
    (app / "bin/tool").write_text(
        "#!/usr/bin/env python3\nimport sqlite3, ssl, json, getpass\nprint(getpass.getuser())\n"
    )
    (app / "bin/tell").write_text('#!/usr/bin/perl\nuse POSIX; use File::Temp; print floor(2.5), "\\n";\n')
    for name in ("tool", "tell"):
        (app / "bin" / name).chmod(0o755)
    (note,) = warnings(joey, app, f"{tmp_path}/out:it", "--root-from", str(debian_root("python3", "perl")))
    assert "are below it" in note
    joey("image", "unpack", f"{tmp_path}/out:it", f"{tmp_path}/bundle")
    assert output(joey, tmp_path / "bundle", "/opt/tool/bin/tool") == "root\n"
    assert output(joey, tmp_path / "bundle", "/opt/tool/bin/tell") == "2\n"
    bare = warnings(joey, app, f"{tmp_path}/out:bare", "--root-from", str(debian_root()))
    assert [line.partition(" wants ")[2].partition(",")[0] for line in bare[1:]] == ["python3"]


def small_root(folder: Path) -> Path:
    """A root with its own loader and libraries, /lib being a link, and things that lead nowhere."""
    for name in ("usr/lib", "usr/lib64", "usr/bin", "etc", "srv/data"):
        (folder / name).mkdir(parents=True)
    (folder / "lib").symlink_to("usr/lib")
    (folder / "lib64").symlink_to("usr/lib64")
    (folder / "bin").symlink_to("usr/bin")
    (folder / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (folder / "srv/data/one").write_text("1")
    (folder / "srv/data/loop").symlink_to("loop")
    (folder / "srv/data/out").symlink_to("../../../../../../etc/shadow")
    (folder / "usr/bin/python3").write_bytes(b"\x7fELF damaged")
    run("cp", "-L", "/lib64/ld-linux-x86-64.so.2", folder / "usr/lib64/")
    libc = next(line.split()[2] for line in run("ldd", "/bin/true").splitlines() if "libc.so.6" in line)
    run("cp", "-L", libc, folder / "usr/lib/")
    return folder


def test_what_is_not_there_is_told(shop: Path, joey: Joey, tmp_path: Path) -> None:
    root = small_root(tmp_path / "root")
    (shop / "start.sh").write_text("#!/usr/bin/env ruby\n")
    _, *missing = warnings(joey, shop, f"{tmp_path}/out:shop", "--root-from", str(root))
    assert sorted(line.partition(" wants ")[2].partition(",")[0] for line in missing) == [
        "/usr/bin/env",
        "libm.so.6",
        "ruby",
    ]
    joey("image", "unpack", f"{tmp_path}/out:shop", f"{tmp_path}/bundle")
    top = tmp_path / "bundle/rootfs"
    assert os.readlink(top / "lib64") == "usr/lib64"
    assert (top / "usr/lib/libc.so.6").read_bytes() == (root / "usr/lib/libc.so.6").read_bytes()
    assert not (top / "srv").exists()


def test_paths_that_are_named(shop: Path, joey: Joey, tmp_path: Path) -> None:
    root = small_root(tmp_path / "root")
    (shop / "start.sh").unlink()
    warnings(joey, shop, f"{tmp_path}/out:shop", "--root-from", str(root), "--root-path", "/srv/da*")
    joey("image", "unpack", f"{tmp_path}/out:shop", f"{tmp_path}/bundle")
    data = tmp_path / "bundle/rootfs/srv/data"
    assert {path.name for path in data.iterdir()} == {"one", "loop", "out"}
    assert not (tmp_path / "bundle/rootfs/etc/shadow").exists(), "a link leads nowhere out of the root"


def test_a_package_follows_the_links_of_its_root(joey: Joey, tmp_path: Path) -> None:
    """A package that has a file in /lib does not put a folder over the root's link."""
    root = small_root(tmp_path / "root")
    package = tmp_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: it\nVersion: 1\nArchitecture: all\nMaintainer: a\nDescription: b\n"
    )
    (package / "lib/it").mkdir(parents=True)
    (package / "lib/it/file").write_text("file")
    (package / "bin").mkdir()
    os.link(package / "lib/it/file", package / "bin/it")
    run("dpkg-deb", "--root-owner-group", "-b", package, tmp_path / "it.deb")
    warnings(joey, tmp_path / "it.deb", f"{tmp_path}/out:it", "--root-from", str(root))
    joey("image", "unpack", f"{tmp_path}/out:it", f"{tmp_path}/bundle")
    top = tmp_path / "bundle/rootfs"
    assert (top / "lib").is_symlink()
    assert (top / "usr/lib/it/file").read_text() == "file"
    assert (top / "usr/lib/it/file").stat().st_ino == (top / "usr/bin/it").stat().st_ino


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--root-from", "ROOT", "--root-path", "/no/such"], "called so"),
        (["--root-from", "ROOT", "--root-path", "../../etc/shadow"], "called so"),
        (["--root-path", "/etc"], "is for --root-from"),
        (["--root-from", "ROOT", "--base", "oci:x:y"], "give one"),
        (["--root-from", "APP"], "is no root file system"),
        (["--root-from", "NONE"], "there is no"),
        (["--root-from", "ROOT", "--as", "machine"], "is for applications"),
    ],
)
def test_roots_that_are_none(words: list[str], what: str, shop: Path, joey: Joey, tmp_path: Path) -> None:
    places = {"ROOT": str(small_root(tmp_path / "root")), "APP": str(shop), "NONE": str(tmp_path / "none")}
    given = [places.get(word, word) for word in words]
    done = joey("migrate", str(shop), *given, "--to", f"oci:{tmp_path}/out:it", check=False)
    assert done.returncode != 0
    assert what in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
