"""Applications in archives: where they go, what they need, how they start; real programs on a real base."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from joey.migrate.trees.entry import read
from joey.migrate.trees.layers import LayersTree

from ..conftest import Joey
from .guests import debian_root, run

PROGRAM = r"""
#include <stdio.h>
#include <math.h>
int main(int argc, char **argv) { printf("app says %.0f\n", floor(argc + 41.5)); return 5; }
"""


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application as vendors pack them: one folder with a version in its name, a program, a script, settings."""
    folder = tmp_path_factory.mktemp("app") / "shop-2.5"
    for name in ("bin", "conf", "logs", "lib"):
        (folder / name).mkdir(parents=True)
    (folder / "app.c").write_text(PROGRAM)
    run("gcc", "-o", folder / "bin/shop", folder / "app.c", "-lm")
    (folder / "bin/helper.py").write_text("#!/usr/bin/python3\nprint(1)\n")
    (folder / "bin/helper.py").chmod(0o755)
    (folder / "conf/server.xml").write_text('<Server><Connector port="8080" protocol="HTTP/1.1"/></Server>\n')
    (folder / "conf/app.properties").write_text("server.port=9090\n# server.port=1\n")
    (folder / "readme link").symlink_to("conf/app.properties")
    return folder


def packed(app: Path, folder: Path, ending: str) -> Path:
    path = folder / f"shop-2.5-bin.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(app.rglob("*")):
                name = str(file.relative_to(app.parent))
                if file.is_symlink():
                    info = zipfile.ZipInfo(name)
                    info.external_attr = 0o120777 << 16
                    archive.writestr(info, os.readlink(file))
                elif file.is_file():
                    archive.write(file, name)
    else:
        run("tar", "-C", app.parent, "--owner=1234", "--group=77", "-caf", path, app.name)
    return path


def inspect(joey: Joey, path: Path, *words: str) -> Any:
    return json.loads(joey("migrate", "inspect", str(path), "--json", *words).stdout)


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "zip", "folder"])
def test_every_kind_of_archive(ending: str, app: Path, joey: Joey, tmp_path: Path) -> None:
    source = app if ending == "folder" else packed(app, tmp_path, ending)
    found = inspect(joey, source)
    assert found["entrypoint"] == ["/opt/shop/bin/shop"]
    assert "called shop, like the application" in found["reasons"]["entrypoint"]
    assert found["working_directory"] == "/opt/shop"
    assert set(found["ports"]) == {"8080", "9090"}
    assert list(found["volumes"]) == ["/opt/shop/logs"] or ending == "zip"
    assert found["libraries"].keys() == {"libc.so.6", "libm.so.6"}
    assert set(found["interpreters"]) == {"/lib64/ld-linux-x86-64.so.2", "/usr/bin/python3"}
    assert found["architecture"] == "amd64"
    assert not found["static"]
    assert any("glibc 2." in line for line in found["advice"])
    report = json.loads(joey("migrate", str(source), "--to", f"oci:{tmp_path}/image:it", "--json").stdout)
    assert any("no --base is given" in line for line in report["warnings"])
    joey("image", "unpack", f"{tmp_path}/image:it", f"{tmp_path}/bundle")
    root = tmp_path / "bundle/rootfs"
    assert sorted(path.name for path in root.iterdir()) == ["opt"]
    assert (root / "opt/shop/bin/shop").read_bytes() == (app / "bin/shop").read_bytes()
    assert os.access(root / "opt/shop/bin/shop", os.X_OK)
    assert os.readlink(root / "opt/shop/readme link") == "conf/app.properties"
    if os.geteuid() == 0:
        assert {(path.lstat().st_uid, path.lstat().st_gid) for path in root.rglob("*")} == {(0, 0)}
    joey("migrate", "verify", str(source), f"oci:{tmp_path}/image:it")


@pytest.mark.root
@pytest.mark.slow
def test_it_runs_on_a_base(app: Path, joey: Joey, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text(
        "joey-recipe: 1\nimage: {name: debian, command: [bash], environment: [PATH=/usr/bin:/bin, A=base], user: '0'}\n"
    )
    joey("migrate", str(debian_root()), "--recipe", str(base), "--to", f"oci:{tmp_path}/images:debian")
    source = packed(app, tmp_path, "tar.gz")
    report = json.loads(
        joey(
            "migrate",
            str(source),
            "--base",
            f"oci:{tmp_path}/images:debian",
            "--to",
            f"oci:{tmp_path}/out:shop",
            "--json",
        ).stdout
    )
    assert [line for line in report["warnings"] if "wants" in line] == [
        "the script /opt/shop/bin/helper.py wants /usr/bin/python3, which the base does not have"
    ]
    found = json.loads(joey("image", "inspect", f"{tmp_path}/out:shop", "--json").stdout)
    assert found["config"]["config"]["Env"] == ["PATH=/usr/bin:/bin", "A=base"]
    assert "Cmd" not in found["config"]["config"], "the base's command is not for this entrypoint"
    joey("image", "verify", f"{tmp_path}/out:shop")
    verdict = joey("migrate", "verify", str(source), f"{tmp_path}/out:shop").stdout
    assert verdict.endswith("the same\n"), "the layers of the base are not the application's"
    joey("image", "unpack", f"{tmp_path}/out:shop", f"{tmp_path}/bundle")
    done = joey("run", "--bundle", f"{tmp_path}/bundle", joey.id(), check=False)
    assert (done.stdout, done.returncode) == ("app says 42\n", 5)


def test_whom_it_runs_as_and_what_tells_that_it_is_well(app: Path, joey: Joey, tmp_path: Path) -> None:
    source = packed(app, tmp_path, "tar.gz")
    found = inspect(joey, source)
    assert (found["user"], found["health"][0]) == ("", "CMD-SHELL")
    assert "127.0.0.1 8080" in found["health"][1]
    recipe = tmp_path / "recipe.yaml"
    joey("migrate", "plan", str(source), "-o", str(recipe))
    text = recipe.read_text()
    assert "health: " in text
    joey("migrate", str(source), "--recipe", str(recipe), "--to", f"oci:{tmp_path}/out:shop")
    config = json.loads(joey("image", "inspect", f"{tmp_path}/out:shop", "--json").stdout)["config"]["config"]
    assert config["Healthcheck"] == {"Test": found["health"]}
    recipe.write_text(text.replace("CMD-SHELL", "SHELL"))
    done = joey("migrate", str(source), "--recipe", str(recipe), "--to", f"oci:{tmp_path}/out:bad", check=False)
    assert (done.returncode, "health: 'SHELL' is none of" in done.stderr) == (1, True)

    own = tmp_path / "own"
    shutil.copytree(app, own / "shop", symlinks=True)
    (own / "shop/bin/healthcheck.sh").write_text("#!/bin/sh\nexit 0\n")
    (own / "shop/bin/healthcheck.sh").chmod(0o755)
    (own / "shop/shop.service").write_text("[Service]\nUser=shop\nExecStart=/opt/shop/bin/shop\n")
    found = inspect(joey, own / "shop")
    assert found["health"] == ["CMD", "/opt/shop/bin/healthcheck.sh"]
    assert "shop.service runs it as shop" in found["reasons"]["user"]
    assert "runs it as shop" in joey("migrate", "inspect", str(own / "shop")).stdout


def test_packages(joey: Joey, tmp_path: Path) -> None:
    """A .deb and a .rpm, made by dpkg-deb and rpmbuild."""
    tree = tmp_path / "deb"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/lib/systemd/system").mkdir(parents=True)
    (tree / "usr/bin/shopd").write_text("#!/bin/sh\necho shop\n")
    (tree / "usr/bin/shopd").chmod(0o755)
    (tree / "usr/lib/systemd/system/shop.service").write_text(
        "[Service]\nUser=shop\nExecStart=/usr/bin/shopd --port '80 80'\n"
    )
    (tree / "DEBIAN/control").write_text(
        "Package: shop\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDepends: nginx (>= 1.2), curl\nDescription: x\n"
    )
    run("dpkg-deb", "--root-owner-group", "-b", tree, tmp_path / "shop.deb")
    spec = tmp_path / "more.spec"
    spec.write_text(
        "Name: more\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\nRequires: bash\n%description\nx\n"
        "%install\nmkdir -p %{buildroot}/opt/more; echo more >%{buildroot}/opt/more/file\n%files\n/opt/more/file\n"
    )
    run("rpmbuild", "-bb", "--define", f"_topdir {tmp_path}/rpm", "--define", f"_rpmdir {tmp_path}", spec)
    packages = [str(tmp_path / "shop.deb"), str(next(tmp_path.glob("noarch/*.rpm")))]
    found = json.loads(joey("migrate", "inspect", *packages, "--json").stdout)
    assert found["entrypoint"] == ["/usr/bin/shopd", "--port", "80 80"]
    assert "starts it so" in found["reasons"]["entrypoint"]
    assert "runs it as shop" in found["reasons"]["user"]
    assert "nginx (>= 1.2)" in found["advice"][-1]
    assert "bash" in found["advice"][-1]
    joey("migrate", *packages, "--to", f"oci:{tmp_path}/out:shop")
    joey("image", "unpack", f"{tmp_path}/out:shop", f"{tmp_path}/bundle")
    root = tmp_path / "bundle/rootfs"
    assert (root / "opt/more/file").read_text() == "more\n"
    assert os.access(root / "usr/bin/shopd", os.X_OK)
    (tmp_path / "bad.deb").write_bytes((tmp_path / "shop.deb").read_bytes()[:-200])
    done = joey("migrate", "inspect", str(tmp_path / "bad.deb"), check=False)
    assert (done.returncode, "bad.deb is a damaged package" in done.stderr) == (1, True)
    done = joey("migrate", "inspect", packages[0], str(tree), check=False)
    assert (done.returncode, "is no package" in done.stderr) == (2, True)


def test_a_static_program_needs_no_base(joey: Joey, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox
    (tmp_path / "tool").mkdir()
    shutil.copy(busybox, tmp_path / "tool/tool")
    found = inspect(joey, tmp_path / "tool")
    assert found["static"]
    assert found["advice"] == ["its programs are static: it needs no base"]


def test_an_archive_of_a_machine_is_one(tree: Path, joey: Joey, tmp_path: Path) -> None:
    run(
        "tar",
        "-C",
        tree,
        "--xattrs",
        "--xattrs-include=*",
        "--format=posix",
        "--exclude=./var/lib/sock",
        "-czf",
        tmp_path / "root.tgz",
        ".",
    )
    found = inspect(joey, tmp_path / "root.tgz")
    assert found["distribution"] == "A test system"
    joey("migrate", f"{tmp_path}/root.tgz", "--to", f"oci:{tmp_path}/image")
    verdict = joey("migrate", "verify", str(tree), f"oci:{tmp_path}/image", "--json", check=False)
    different = [
        row
        for row in json.loads(verdict.stdout)["differences"]
        if "sock" not in row["path"] and row["path"] != "/var/lib"
    ]
    assert different == []
    forced = inspect(joey, tmp_path / "root.tgz", "--as", "application", "--prefix", "/srv/old")
    assert forced["working_directory"] == "/srv/old"


@pytest.mark.parametrize(
    ("files", "runtime"),
    [
        (["app.jar"], "java"),
        (["package.json", "index.js"], "node"),
        (["requirements.txt", "thing.txt"], "python"),
        (["x.runtimeconfig.json"], "dotnet"),
        (["composer.json"], "php"),
    ],
)
def test_runtimes(files: list[str], runtime: str, joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "thing").mkdir()
    for name in files:
        (tmp_path / "thing" / name).write_text("x")
    found = inspect(joey, tmp_path / "thing")
    assert list(found["runtimes"]) == [runtime]
    assert found["entrypoint"] == []
    assert "name it" in found["reasons"]["entrypoint"]
    assert found["advice"]


def test_hostile_archives(joey: Joey, tmp_path: Path) -> None:
    """Names that lead out, broken streams, broken ELF files, links: an error or nothing, and nothing outside."""
    evil = tmp_path / "evil.tar"
    with tarfile.open(evil, "w") as archive:
        info = tarfile.TarInfo("../../escape")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(
        subprocess.run(
            ["gzip", "-c"], input=bytes(257) + b"ustar" + os.urandom(90000), capture_output=True, check=True
        ).stdout[:50000]
    )
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as zipped:
        zipped.writestr("../../escape", "x")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "evil.zip").read_bytes()[:40])
    for name in ("evil.tar", "broken.tar.gz", "evil.zip", "cut.zip"):
        done = joey("migrate", f"{tmp_path}/{name}", "--to", f"oci:{tmp_path}/image", check=False)
        assert done.returncode == 1, name
        assert "Traceback" not in done.stderr
    assert not (tmp_path.parent / "escape").exists()
    folder = tmp_path / "odd"
    folder.mkdir()
    good = (Path("/bin/true")).read_bytes()
    for index in range(40):
        data = bytearray(good)
        for _ in range(20):
            data[int.from_bytes(os.urandom(4), "little") % (len(data) if index % 2 else 1000)] = os.urandom(1)[0]
        data[:4] = b"\x7fELF"
        (folder / f"elf{index}").write_bytes(data)
    (folder / "short").write_bytes(b"\x7fELF")
    inspect(joey, folder)


def test_words_that_are_none(app: Path, joey: Joey, tmp_path: Path) -> None:
    for words in (["--as", "thing"], ["--prefix", "/"], ["--prefix", "/a/../.."], ["--base", "nowhere"]):
        done = joey("migrate", str(app), *words, "--to", f"oci:{tmp_path}/image", check=False)
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr
    done = joey("migrate", str(app), str(app), "--to", f"oci:{tmp_path}/image", check=False)
    assert done.returncode == 2


def test_hard_links_in_any_order(joey: Joey, tmp_path: Path) -> None:
    """tar takes names as a directory has them: the first of a file's names need not be the first of an image's walk."""
    with tarfile.open(tmp_path / "app.tar", "w") as archive:
        for name, data, target in (("app/z", b"both", ""), ("app/b/c", b"", "app/z"), ("app/a", b"", "app/z")):
            member = tarfile.TarInfo(name)
            member.size, member.linkname = len(data), target
            member.type = tarfile.LNKTYPE if target else tarfile.REGTYPE
            archive.addfile(member, io.BytesIO(data))
    joey("migrate", str(tmp_path / "app.tar"), "--to", f"oci:{tmp_path}/out:app")
    joey("migrate", "verify", str(tmp_path / "app.tar"), f"oci:{tmp_path}/out:app")
    joey("image", "unpack", f"{tmp_path}/out:app", f"{tmp_path}/bundle")
    found = [tmp_path / "bundle/rootfs/opt/app" / name for name in ("a", "b/c", "z")]
    assert [path.read_text() for path in found] == ["both"] * 3
    assert len({path.stat().st_ino for path in found}) == 1


def test_a_name_that_a_later_layer_took_is_another_file(tmp_path: Path) -> None:
    def layer(name: str, *members: tuple[str, bytes, str]) -> str:
        with tarfile.open(tmp_path / name, "w") as archive:
            for path, data, target in members:
                member = tarfile.TarInfo(path)
                member.size, member.linkname = len(data), target
                member.type = tarfile.LNKTYPE if target else tarfile.REGTYPE
                archive.addfile(member, io.BytesIO(data))
        return str(tmp_path / name)

    lower = layer("1.tar", ("a", b"old", ""), ("b", b"", "a"), ("c", b"", "a"))
    tree = LayersTree([lower, layer("2.tar", ("a", b"newer", ""))])
    found = {entry.path: (entry.first, read(tree, entry.path)) for entry in tree.entries() if entry.path}
    assert found == {b"a": (b"", b"newer"), b"b": (b"", b"old"), b"c": (b"b", b"old")}
