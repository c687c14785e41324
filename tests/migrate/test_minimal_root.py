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
    other = bytearray((root / "usr/lib/libc.so.6").read_bytes())
    other[18:20] = (183).to_bytes(2, "little")  # e_machine: AArch64
    (root / "usr/lib/libm.so.6").write_bytes(other)
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
    (package / "abc").mkdir()  # before the others, and after them where the root has it
    os.link(package / "lib/it/file", package / "abc/it")
    (root / "usr/xyz").mkdir()
    (root / "abc").symlink_to("usr/xyz")
    run("dpkg-deb", "--root-owner-group", "-b", package, tmp_path / "it.deb")
    warnings(joey, tmp_path / "it.deb", f"{tmp_path}/out:it", "--root-from", str(root))
    joey("image", "unpack", f"{tmp_path}/out:it", f"{tmp_path}/bundle")
    top = tmp_path / "bundle/rootfs"
    assert (top / "lib").is_symlink()
    assert (top / "usr/lib/it/file").read_text() == "file"
    assert len({(top / name).stat().st_ino for name in ("usr/lib/it/file", "usr/bin/it", "usr/xyz/it")}) == 1


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--root-from", "ROOT", "--root-path", "/no/such"], "called so"),
        (["--root-from", "ROOT", "--root-path", "../../etc/shadow"], "called so"),
        (["--root-path", "/etc"], "is for --root-from"),
        (["--root-from", "ROOT", "--base", "oci:x:y"], "give one"),
        (["--root-from", "APP"], "is no root file system"),
        (["--root-from", "NONE"], "there is no"),
        (["--root-from", "ssh://root@host"], "a live host is no root"),
        (["--root-from", "ROOT", "--root-path", "/"], "called so"),
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


def test_no_secret_is_taken_along(shop: Path, joey: Joey, tmp_path: Path) -> None:
    """Keys lie beside what is wanted, and folders are called like programs that a script names."""
    root = small_root(tmp_path / "root")
    secrets = {
        "etc/ssl/private/shop.key": 0o600, "etc/ssl/certs/own.key": 0o640, "var/lib/mysql/rows": 0o644,
        "etc/ssh/ssh_host_key": 0o600, "srv/hidden/open": 0o644,
    }  # fmt: skip
    for name, mode in secrets.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("secret")
        (root / name).chmod(mode)
    (root / "etc/ssl/private").chmod(0o710)
    (root / "srv/hidden").chmod(0o700)
    (root / "etc/ssl/certs/hidden").symlink_to("/srv/hidden")
    (root / "usr/lib/ssl").mkdir()
    (root / "usr/lib/ssl/private").symlink_to("/etc/ssl/private")
    for name in ("mysql", "ssh", "sh"):
        run("cp", "/bin/true", root / "usr/bin" / name)
    (shop / "start.sh").write_text("#!/bin/sh\n[ -d /var/lib/mysql ] && ls /etc/ssh; mysql -h /etc\n")
    warnings(joey, shop, f"{tmp_path}/out:shop", "--root-from", str(root))
    joey("image", "unpack", f"{tmp_path}/out:shop", f"{tmp_path}/bundle")
    top = tmp_path / "bundle/rootfs"
    assert [name for name in secrets if os.path.lexists(top / name)] == []
    assert (top / "usr/bin/mysql").exists(), "which the script does call"
    assert not (top / "usr/bin/ssh").exists()
    warnings(joey, shop, f"{tmp_path}/out:named", "--root-from", str(root), "--root-path", "/etc/ssl/private")
    joey("image", "unpack", f"{tmp_path}/out:named", f"{tmp_path}/named")
    assert (tmp_path / "named/rootfs/etc/ssl/private/shop.key").exists(), "who names it gets it"


def test_libraries_that_only_look_like_its_own(shop: Path, joey: Joey, tmp_path: Path) -> None:
    """An empty file of that name is none; the libraries of a library are found where its program says (DT_RPATH)."""
    root = small_root(tmp_path / "root")
    (shop / "start.sh").unlink()
    (shop / "doc").mkdir()
    (shop / "doc/libone.so").write_text("")
    private = root / "usr/lib/private"
    private.mkdir()
    for name, needs in (("two", ()), ("one", ("-L", str(private), "-Wl,--no-as-needed", "-ltwo"))):
        (tmp_path / "empty.c").write_text(f"int {name}(void) {{ return 1; }}\n")
        run("gcc", "-shared", "-fPIC", "-o", private / f"lib{name}.so", tmp_path / "empty.c", *needs)
    (tmp_path / "main.c").write_text("int one(void); int main(void) { return one() - 1; }\n")
    rpath = ("-Wl,--disable-new-dtags", "-Wl,-rpath,/usr/lib/private", f"-Wl,-rpath-link,{private}")
    run("gcc", "-o", shop / "bin/shop", tmp_path / "main.c", "-L", private, "-lone", *rpath)
    note, *missing = warnings(joey, shop, f"{tmp_path}/out:shop", "--root-from", str(root))
    assert missing == [], note
    joey("image", "unpack", f"{tmp_path}/out:shop", f"{tmp_path}/bundle")
    assert {path.name for path in (tmp_path / "bundle/rootfs/usr/lib/private").iterdir()} == {"libone.so", "libtwo.so"}


def test_of_another_architecture(shop: Path, joey: Joey, tmp_path: Path) -> None:
    root = small_root(tmp_path / "root")
    data = bytearray(Path("/bin/true").read_bytes())
    data[18:20] = (183).to_bytes(2, "little")  # e_machine: AArch64
    (root / "usr/bin/sh").write_bytes(data)
    done = joey("migrate", str(shop), "--root-from", str(root), "--to", f"oci:{tmp_path}/out:it", check=False)
    assert "arm64, the application amd64" in done.stderr
    (shop / "bin/shop").unlink()
    (shop / "start.sh").write_text("#!/bin/sh\n")
    warnings(joey, shop, f"{tmp_path}/out:it", "--root-from", str(root))
    assert (
        json.loads(joey("image", "inspect", f"{tmp_path}/out:it", "--json").stdout)["config"]["architecture"] == "arm64"
    )


def test_links_below_the_top_are_followed_too(joey: Joey, tmp_path: Path) -> None:
    root = small_root(tmp_path / "root")
    (root / "usr/sbin").symlink_to("bin")
    (root / "opt").symlink_to(".")
    package = tmp_path / "app"
    (package / "usr/sbin").mkdir(parents=True)
    (package / "usr/sbin/itd").write_text("it")
    (package / "opt/it").mkdir(parents=True)
    (package / "opt/it/file").write_text("file")
    (package / "DEBIAN").mkdir()
    (package / "DEBIAN/control").write_text(
        "Package: it\nVersion: 1\nArchitecture: all\nMaintainer: a\nDescription: b\n"
    )
    run("dpkg-deb", "--root-owner-group", "-b", package, tmp_path / "it.deb")
    warnings(joey, tmp_path / "it.deb", f"{tmp_path}/out:it", "--root-from", str(root))
    joey("image", "unpack", f"{tmp_path}/out:it", f"{tmp_path}/bundle")
    top = tmp_path / "bundle/rootfs"
    assert (top / "usr/sbin").is_symlink()
    assert (top / "usr/bin/itd").read_text() == "it"
    assert (top / "it/file").read_text() == "file"


def test_a_root_that_is_a_maze(shop: Path, joey: Joey, tmp_path: Path) -> None:
    """Folders that each link to the next: neither too deep nor too slow."""
    root = small_root(tmp_path / "root")
    modules = root / "usr/lib/node_modules"
    for number in range(2000):
        (modules / f"m{number}").mkdir(parents=True)
        (modules / f"m{number}/next").symlink_to(f"../m{number + 1}")
    run("cp", "/bin/true", root / "usr/bin/node")
    (shop / "start.sh").write_text("#!/usr/bin/node\n")
    warnings(joey, shop, f"{tmp_path}/out:shop", "--root-from", str(root))
