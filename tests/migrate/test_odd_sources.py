"""Sources that say things in odd ways, or not all of what they should: nothing is lost without a word."""

from __future__ import annotations

import fcntl
import gzip
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from joey.migrate.image.digest import ImageError
from joey.migrate.work import Work

from ..conftest import Joey
from .guests import MIB, make_file_system, partitioned, run
from .test_disks import migrate, unpacked
from .test_hostile_disks import refused
from .test_layers import archive, read_all
from .test_unpack import image

pytestmark = pytest.mark.root

BASE = (
    ("etc", "dir", ""), ("etc/os-release", "file", "ID=debian\n"), ("etc/passwd", "file", "root:x:0:0::/:/bin/sh\n"),
    ("usr", "dir", ""), ("usr/lib", "dir", ""), ("usr/lib/a", "file", "A"), ("lib", "link", "usr/lib"),
    ("bin", "dir", ""), ("bin/sh", "file", "#!"),
)  # fmt: skip


def system(folder: Path) -> Path:
    """The smallest tree that is a machine's."""
    for name in ("etc", "usr", "bin", "srv"):
        (folder / name).mkdir(parents=True)
    (folder / "etc/os-release").write_text("ID=debian\nVERSION_ID=12\n")
    return folder


def contents(root: Path) -> dict[str, str]:
    """path -> text of a file, target of a link, "" of a folder."""
    out = {}
    for path in root.rglob("*"):
        text = os.readlink(path) if path.is_symlink() else "" if path.is_dir() else path.read_text()
        out[str(path.relative_to(root))] = text
    return out


# --- images ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upper", "there", "gone"),
    [
        ([("lib/new", "file", "N"), ("lib/sub/deep", "file", "D")], {"usr/lib/new": "N", "usr/lib/sub/deep": "D"}, []),
        ([("bin/hard", "hard", "lib/a")], {"bin/hard": "A"}, []),
        ([("lib/.wh.a", "file", "")], {}, ["usr/lib/a"]),
        ([("lib/b", "file", "B"), ("lib/.wh..wh..opq", "file", "")], {"usr/lib/b": "B"}, ["usr/lib/a"]),
        ([("x", "file", "1"), (".wh.x", "file", "")], {"x": "1"}, []),
        ([("usr/.wh.lib", "file", ""), ("usr/lib/c", "file", "C")], {"usr/lib/c": "C"}, ["usr/lib/a"]),
        ([("lib", "dir", ""), ("lib/own", "file", "O")], {"lib/own": "O", "usr/lib/a": "A"}, []),
        ([("etc", "link", "usr"), ("etc/z", "file", "Z")], {"etc": "usr", "usr/z": "Z"}, ["etc/os-release"]),
    ],
)
def test_layers_that_write_through_links_of_lower_ones(
    upper: list[Any], there: dict[str, str], gone: list[str], joey: Joey, tmp_path: Path
) -> None:
    """An image as a source has what `image unpack` makes of it."""
    layout = image(tmp_path, archive(*BASE), archive(*upper))
    joey("image", "unpack", str(layout), str(tmp_path / "plain"))
    expected = contents(tmp_path / "plain/rootfs")
    assert {path: expected.get(path) for path in there} == there
    assert not set(gone) & expected.keys()
    migrate(joey, f"oci:{layout}", "--to", f"oci:{tmp_path}/new", "--verify")
    found = contents(unpacked(joey, tmp_path / "new"))
    assert found == expected


@pytest.mark.parametrize("upper", [("bin/hard", "hard", "nothere"), ("bin/sh/child", "file", "x")])
def test_layers_that_make_no_sense(upper: Any, joey: Joey, tmp_path: Path) -> None:
    layout = image(tmp_path, archive(*BASE), archive(upper))
    done = migrate(joey, f"oci:{layout}", "--to", f"oci:{tmp_path}/new", check=False)
    assert done.returncode == 1
    assert "is in no layer" in done.stderr or "which is no folder" in done.stderr
    assert not (tmp_path / "new/index.json").exists()


def test_many_whiteouts(joey: Joey, tmp_path: Path) -> None:
    """Each is looked at alone, not with all that is there: thousands of them take no longer than thousands of files."""
    names = [f"d{number}" for number in range(4000)]
    lower = archive(*BASE, *((name, "dir", "") for name in names), *((f"{name}/f", "file", "") for name in names))
    layout = image(tmp_path, lower, archive(*((f".wh.{name}", "file", "") for name in names[1:])))
    migrate(joey, f"oci:{layout}", "--to", f"bundle:{tmp_path}/new")
    joey("image", "unpack", str(layout), str(tmp_path / "plain"))
    for place in ("new", "plain"):
        assert [path.name for path in (tmp_path / place / "rootfs").iterdir() if path.name[1:].isdigit()] == ["d0"]


def test_what_an_image_says_of_itself_stays(joey: Joey, tmp_path: Path) -> None:
    settings = {
        "Cmd": ["x"], "Shell": ["/bin/bash", "-c"], "OnBuild": ["RUN x"], "StopTimeout": 7,
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000, "Retries": 9},
    }  # fmt: skip
    layout = image(tmp_path, archive(*BASE), config=settings)
    migrate(joey, layout, "--to", f"oci:{tmp_path}/new", "--json")
    found = json.loads(joey("image", "inspect", f"{tmp_path}/new", "--json").stdout)["config"]["config"]
    assert {key: found.get(key) for key in settings} == settings


def test_images_that_are_named_by_their_path_alone(joey: Joey, tmp_path: Path) -> None:
    layout = image(tmp_path, archive(*BASE))
    saved = tmp_path / "saved.tar"
    migrate(joey, f"oci:{layout}", "--to", f"docker-archive:{saved}:it:1")
    (tmp_path / "saved.tgz").write_bytes(gzip.compress(saved.read_bytes()))
    for number, word in enumerate((layout, saved, tmp_path / "saved.tgz")):
        migrate(joey, word, "--to", f"oci:{tmp_path}/out{number}")
        assert contents(unpacked(joey, tmp_path / f"out{number}"))["usr/lib/a"] == "A"


@pytest.mark.parametrize("word", ["docker://127.0.0.1:1/x:y", "docker-archive:FILE", "oci:EMPTY:name"])
def test_an_image_that_cannot_be_had(word: str, joey: Joey, tmp_path: Path) -> None:
    """The reason is told, and nothing stays in the way of the next run."""
    (tmp_path / "file").write_bytes(b"none" * 1000)
    (tmp_path / "empty").mkdir()
    word = word.replace("FILE", str(tmp_path / "file")).replace("EMPTY", str(tmp_path / "empty"))
    work = tmp_path / "work"
    work.mkdir()
    done = migrate(joey, word, "--insecure", "--work", work, "--to", f"oci:{tmp_path}/new", check=False)
    assert done.returncode == 1
    assert "not empty" not in done.stderr
    assert any(reason in done.stderr for reason in ("can't be reached", "damaged archive", "no oci-layout")), (
        done.stderr
    )
    assert list(work.iterdir()) == []


def test_what_a_killed_run_left_goes_with_the_next(joey: Joey, tmp_path: Path) -> None:
    layout = image(tmp_path, archive(*BASE, ("big", "file", os.urandom(30 * MIB))))
    work = tmp_path / "work"
    work.mkdir()
    words = ("migrate", f"oci:{layout}", "--work", str(work), "--to", f"oci:{tmp_path}/new")
    with subprocess.Popen(joey.command(*words), stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 20
        while not list(work.rglob("layer-0.tar")) and time.monotonic() < until:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert list(work.iterdir())
    joey(*words)
    assert list(work.iterdir()) == []


# --- archives ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_without_its_end(packed: bool, joey: Joey, tmp_path: Path) -> None:
    whole = archive(*((f"app/f{number}", "file", os.urandom(100_000)) for number in range(9)))
    cut = whole[:500_000]
    path = tmp_path / ("app.tgz" if packed else "app.tar")
    path.write_bytes(gzip.compress(cut) if packed else cut)
    assert "cut off" in refused(joey, path)


def test_links_inside_an_archive(joey: Joey, tmp_path: Path) -> None:
    members = (("app/real/x", "file", "X"), ("app/lnk", "link", "real"), ("app/lnk/y", "file", "Y"),
               ("app/hard", "hard", "app/lnk/x"), ("app/lost", "hard", "app/nothere"))  # fmt: skip
    (tmp_path / "app.tar").write_bytes(archive(*members))
    report = migrate(joey, tmp_path / "app.tar", "--to", f"oci:{tmp_path}/new")
    assert [line for line in report["warnings"] if "is a hard link to" in line], "what can't be had is told"
    found = contents(unpacked(joey, tmp_path / "new") / "opt/app")
    assert found == {"real": "", "real/x": "X", "real/y": "Y", "lnk": "real", "hard": "X"}


def test_access_lists_and_attributes_in_every_spelling(joey: Joey, tmp_path: Path) -> None:
    out = io.BytesIO()
    spellings = {
        "words": {"SCHILY.acl.access": "user::rw-,user:joe:r--:33,group::r--,mask::r--,other::---"},
        "numbers": {"SCHILY.acl.access": "user::rw-\nuser:33:r--\ngroup::r--\nmask::r--\nother::---\n"},
        "names": {"SCHILY.acl.access": "user::rw-,user:joe:r--,group::r--,mask::r--,other::---"},
        "bsd": {"LIBARCHIVE.xattr.user.odd%20name": "dmFsdWU"},
    }
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, headers in spellings.items():
            info = tarfile.TarInfo(f"app/{name}")
            info.pax_headers = headers
            made.addfile(info)
    (tmp_path / "app.tar").write_bytes(out.getvalue())
    report = migrate(joey, tmp_path / "app.tar", "--to", f"oci:{tmp_path}/new")
    assert [line for line in report["warnings"] if 'names user "joe" without a number' in line]
    place = unpacked(joey, tmp_path / "new") / "opt/app"
    for name in ("words", "numbers"):
        assert "user:33:r--" in run("getfacl", "-n", "-c", place / name).split()
    assert os.getxattr(place / "bsd", "user.odd name") == b"value"


def test_an_encrypted_zip(joey: Joey, tmp_path: Path) -> None:
    path = tmp_path / "app.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("app/secret", "s")
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    path.write_bytes(data)
    assert "encrypted" in refused(joey, path)


@pytest.mark.parametrize("kind", ["deb", "folder"])
def test_a_base_keeps_its_links_and_folders(kind: str, joey: Joey, tmp_path: Path) -> None:
    lower = io.BytesIO()
    with tarfile.open(fileobj=lower, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, mode, uid in (("srv", 0o755, 0), ("srv/www", 0o2770, 33), ("root", 0o700, 0), ("tmp", 0o1777, 0)):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.mtime = tarfile.DIRTYPE, mode, uid, 1_600_000_000
            made.addfile(info)
    layout = image(tmp_path, archive(*BASE), lower.getvalue())
    tree = tmp_path / "tree"
    (tree / "lib/systemd").mkdir(parents=True)
    (tree / "lib/systemd/it.service").write_text("unit")
    (tree / "srv/www").mkdir(parents=True)
    words: list[str | Path]
    if kind == "deb":
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN/control").write_text(
            "Package: it\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: d\n"
        )
        run("dpkg-deb", "--build", "--root-owner-group", tree, tmp_path / "it.deb")
        words = [tmp_path / "it.deb"]
    else:
        words = [tree, "--prefix", "/srv/www/app"]
    migrate(joey, *words, "--base", f"oci:{layout}", "--to", f"oci:{tmp_path}/new", "--verify")
    root = unpacked(joey, tmp_path / "new")
    place = "usr/lib" if kind == "deb" else "srv/www/app/lib"
    assert (root / place / "systemd/it.service").read_text() == "unit"
    assert (root / "lib").is_symlink()
    status = (root / "srv/www").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o2770, 33, 1_600_000_000)
    verdict = joey("migrate", "verify", *map(str, words), f"{tmp_path}/new").stdout
    assert verdict.endswith("the same\n")


def test_folders_that_everybody_knows_are_made_up_as_they_are(joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/run").write_text("x")
    for number, (prefix, mode) in enumerate({"root/app": 0o700, "tmp/app": 0o1777, "opt/app": 0o755}.items()):
        migrate(joey, tmp_path / "app", "--prefix", f"/{prefix}", "--to", f"oci:{tmp_path}/o{number}")
        assert stat.S_IMODE((unpacked(joey, tmp_path / f"o{number}") / prefix).parent.stat().st_mode) == mode


def test_an_application_with_a_bin_and_an_etc_is_no_machine(joey: Joey, tmp_path: Path) -> None:
    for name in ("bin/start", "etc/app.conf", "lib/x.so"):
        (tmp_path / "app" / name).parent.mkdir(parents=True)
        (tmp_path / "app" / name).write_text("x")
    migrate(joey, tmp_path / "app", "--to", f"oci:{tmp_path}/new")
    assert (unpacked(joey, tmp_path / "new") / "opt/app/etc/app.conf").read_text() == "x"


def test_times_before_and_after_what_64_bits_of_nanoseconds_hold(joey: Joey, tmp_path: Path) -> None:
    root = system(tmp_path / "tree")
    for name, seconds in (("old", -315_619_200), ("late", 13_569_465_600)):  # 1960 and 2400
        (root / "srv" / name).write_text("x")
        os.utime(root / "srv" / name, (seconds, seconds))
    migrate(joey, root, "--to", f"oci:{tmp_path}/new", "--verify")
    joey("image", "verify", f"{tmp_path}/new")
    place = unpacked(joey, tmp_path / "new") / "srv"
    assert (int((place / "old").stat().st_mtime), int((place / "late").stat().st_mtime)) == (
        -315_619_200,
        13_569_465_600,
    )


# --- disks -------------------------------------------------------------------------------------------------------------


def disk_with_fat(folder: Path, table: str, label: str, fstab: str) -> Path:
    """A disk with a FAT of a name, and a system whose fstab this is."""
    fat, root, disk = folder / "fat", folder / "root", folder / "disk.raw"
    with fat.open("wb") as file:
        file.truncate(34 * MIB)
    run("mkfs.vfat", "-F", "32", "-i", "1234ABCD", "-n", label, fat)
    tree = system(folder / "tree")
    (tree / "etc/fstab").write_text(fstab)
    make_file_system(root, "ext4", 32 * MIB, tree, "-L", "root")
    partitioned(disk, table, [fat, root])
    return disk


@pytest.mark.parametrize("name", ["UUID=1234-ABCD", "LABEL=UEFI", "/dev/sdz1"])
def test_a_machine_of_uefi(name: str, joey: Joey, tmp_path: Path) -> None:
    fstab = f"LABEL=root / ext4 defaults 0 1\n{name} /boot/efi vfat umask=0077 0 1\n"
    disk = disk_with_fat(tmp_path, "gpt", "UEFI", fstab)
    report = migrate(joey, disk, "--to", f"oci:{tmp_path}/new")
    assert [line for line in report["warnings"] if "/boot/efi is for the firmware" in line]


@pytest.mark.parametrize("name", ["UUID=1234-ABCD", "LABEL=DATA"])
def test_a_volume_of_another_kind_is_named(name: str, joey: Joey, tmp_path: Path) -> None:
    assert "holds FAT" in refused(joey, disk_with_fat(tmp_path, "dos", "DATA", f"{name} /srv vfat defaults 0 1\n"))


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_minimal_root_from_a_disk(format: str, joey: Joey, tmp_path: Path) -> None:
    tree = system(tmp_path / "tree")
    (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    disk = tmp_path / "disk.raw"
    make_file_system(disk, "ext4", 32 * MIB, tree)
    if format == "qcow2":
        run("qemu-img", "convert", "-O", "qcow2", disk, tmp_path / "disk.qcow2")
    (tmp_path / "app").mkdir()
    (tmp_path / "app/data").write_text("x")
    work = tmp_path / "work"
    work.mkdir()
    words = (tmp_path / "app", "--root-from", tmp_path / f"disk.{format}", "--work", work)
    migrate(joey, *words, "--to", f"oci:{tmp_path}/new")
    assert (unpacked(joey, tmp_path / "new") / "etc/passwd").read_text() == "root:x:0:0::/:/bin/sh\n"
    assert list(work.iterdir()) == []


def test_dissect_does_not_lose_a_volume_whose_place_is_missing(joey: Joey, tmp_path: Path) -> None:
    tree, data = system(tmp_path / "tree"), tmp_path / "more"
    data.mkdir()
    (data / "precious").write_text("x")
    (tree / "etc/fstab").write_text("LABEL=data /srv/data ext4 defaults 0 2\n")
    make_file_system(tmp_path / "a.raw", "ext4", 32 * MIB, tree)
    make_file_system(tmp_path / "b.raw", "ext4", 32 * MIB, data, "-L", "data")
    for reader in ("mount", "dissect"):
        said = refused(joey, tmp_path / "a.raw", tmp_path / "b.raw", "--reader", reader)
        assert "/srv/data" in said


@pytest.mark.parametrize("order", ["disk first", "folder first", "called .ova"])
def test_an_appliance_whose_ovf_is_not_first(order: str, joey: Joey, tmp_path: Path) -> None:
    make_file_system(tmp_path / "disk.raw", "ext4", 32 * MIB, system(tmp_path / "tree"))
    run(
        "qemu-img",
        "convert",
        "-O",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
        tmp_path / "disk.raw",
        tmp_path / "d.vmdk",
    )
    (tmp_path / "m.ovf").write_text(
        '<Envelope xmlns:ovf="o"><References><File ovf:id="f" ovf:href="d.vmdk"/></References>'
        '<DiskSection><Disk ovf:fileRef="f"/></DiskSection></Envelope>'
    )
    appliance = tmp_path / ("m.ova" if order == "called .ova" else "m.tar")
    with tarfile.open(appliance, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}) as made:
        if order == "folder first":
            made.add(tmp_path / "tree", "notes", recursive=False)
        for name in ("d.vmdk", "m.ovf"):
            made.add(tmp_path / name, name)
    migrate(joey, appliance, "--to", f"oci:{tmp_path}/new")
    assert (unpacked(joey, tmp_path / "new") / "etc/os-release").exists()


def test_one_source_twice_at_once(joey: Joey, tmp_path: Path) -> None:
    """The second waits for the first for a moment, whenever that ends."""
    root = system(tmp_path / "tree")
    words = [joey.command("migrate", str(root), "--to", f"oci:{tmp_path}/o{number}") for number in range(4)]
    for _ in range(3):
        runs = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) for command in words]
        for each in runs:
            _, said = each.communicate(timeout=60)
            assert each.returncode == 0 or b"another joey migrates this source now" in said, said
        assert any(each.returncode == 0 for each in runs)


def test_a_work_folder_that_goes_as_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever had it removes it between the next one's opening and locking it: that has to make its own."""
    taken = Work([str(tmp_path)], str(tmp_path))
    os.mkdir(taken.path, 0o700)
    real = fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        os.rmdir(taken.path)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with taken as place:
        assert os.path.isdir(place)


# --- lists -------------------------------------------------------------------------------------------------------------


def test_paths_of_a_list_are_beside_it_and_what_is_gone_is_made_again(joey: Joey, tmp_path: Path) -> None:
    folder = tmp_path / "list"
    folder.mkdir()
    image(folder, archive(*BASE))
    system(folder / "tree")
    (folder / "all.yaml").write_text(
        "- {name: a, source: 'oci:layout', to: 'oci:images:a'}\n- {name: b, source: tree, to: 'oci:images:b'}\n"
        "- {name: c, source: tree, to: 'bundle:c'}\n"
    )
    joey("migrate", "batch", str(folder / "all.yaml"), cwd="/")
    assert sorted(os.listdir(folder)) == ["all.yaml", "all.yaml.done", "c", "images", "layout", "tree"]
    for name in ("images", "c"):
        shutil.rmtree(folder / name)
    joey("migrate", "batch", str(folder / "all.yaml"), cwd="/")
    joey("image", "verify", f"{folder}/images:b")
    assert (folder / "c/config.json").exists()


def test_a_killed_list_leaves_nothing_running(joey: Joey, tmp_path: Path) -> None:
    """Not even what waits for a host that never answers."""
    silent = 'ProxyCommand=sh -c "exec 3>&1; cat >/dev/null"'
    words = f"[--ssh-option, '{silent}', --ssh-option, ConnectTimeout=900]"
    (tmp_path / "all.yaml").write_text(
        f"- {{name: a, source: 'ssh://root@192.0.2.1', to: 'oci:a', options: {words}}}\n"
    )

    def migrating() -> bool:
        lines = subprocess.run(["ps", "-e", "-ww", "-o", "args"], capture_output=True, text=True, check=True).stdout
        return f"oci:{tmp_path}/a" in lines

    with subprocess.Popen(
        joey.command("migrate", "batch", str(tmp_path / "all.yaml")), stderr=subprocess.DEVNULL
    ) as batch:
        until = time.monotonic() + 20
        while not (seen := migrating()) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(1)
        batch.send_signal(signal.SIGKILL)
    assert seen
    until = time.monotonic() + 10
    while migrating() and time.monotonic() < until:
        time.sleep(0.02)
    assert not migrating()


# --- what starts an application ----------------------------------------------------------------------------------------


def jar(path: Path, manifest: str) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("META-INF/MANIFEST.MF", manifest)


@pytest.mark.parametrize(
    ("files", "command", "ports"),
    [
        ({"Procfile": "worker: x\nweb: gunicorn -b :$PORT app:app\n"}, ["/bin/sh", "-c", "exec gunicorn -b :$PORT app:app"], []),
        ({"package.json": '{"scripts": {"start": "node ./bin/www.js"}}', "bin/www.js": "app.listen(3000)"}, ["node", "/opt/app/bin/www.js"], [3000]),
        ({"package.json": '{"scripts": {"start": "next start"}}'}, ["npm", "start"], []),
        ({"package.json": '{"main": "index.js"}', "index.js": "listen(process.env.PORT || 8081)"}, ["node", "/opt/app/index.js"], [8081]),
        ({"package.json": '{"main": "../../etc/passwd"}'}, [], []),
        ({"package.json": "[]"}, [], []),
        ({"app.py": "app.run(host='0.0.0.0', port=8080)", "requirements.txt": "flask"}, ["python3", "/opt/app/app.py"], [8080]),
        ({"one.jar": "Manifest-Version: 1.0\nMain-Class: a.B\n", "lib/dep.jar": "Manifest-Version: 1.0\n"}, ["java", "-jar", "/opt/app/one.jar"], []),
        ({"one.jar": "Main-Class: a.B\n", "two.jar": "Main-Class: a.B\n"}, [], []),
    ],
)  # fmt: skip
def test_how_applications_of_languages_start(
    files: dict[str, str], command: list[str], ports: list[int], joey: Joey, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".jar"):
            jar(path, text)
        else:
            path.write_text(text)
    found = json.loads(joey("migrate", "inspect", str(tmp_path / "app"), "--json").stdout)
    assert found["entrypoint"] == command
    assert sorted(map(int, found["ports"])) == ports


def test_a_file_that_is_an_application(joey: Joey, tmp_path: Path) -> None:
    jar(tmp_path / "shop-1.2.jar", "Main-Class: a.B\n")
    shutil.copy("/bin/busybox", tmp_path / "tool")
    (tmp_path / "job").write_text("#!/bin/sh\necho done\n")
    (tmp_path / "job").chmod(0o755)
    commands = {
        "shop-1.2.jar": ["java", "-jar", "/opt/shop/shop-1.2.jar"],
        "tool": ["/opt/tool/tool"],
        "job": ["/opt/job/job"],
    }
    for name, command in commands.items():
        migrate(joey, tmp_path / name, "--to", f"oci:{tmp_path}/o-{name}", "--verify")
        found = json.loads(joey("image", "inspect", f"{tmp_path}/o-{name}", "--json").stdout)["config"]["config"]
        assert found["Entrypoint"] == command
    root = unpacked(joey, tmp_path / "o-tool")
    assert os.access(root / "opt/tool/tool", os.X_OK)
    assert (root / "opt/tool/tool").read_bytes() == Path("/bin/busybox").read_bytes()


@pytest.mark.parametrize(
    "form", [["--format=gnu"], ["--format=posix", "--sparse-version=1.0"], ["--format=posix", "--sparse-version=0.1"]]
)
def test_sparse_files_of_gnu_tar(form: list[str], joey: Joey, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    for name, pieces, size in (("many", range(0, 600, 7), 4 * MIB), ("hole", (), MIB), ("end", (255,), MIB)):
        with (folder / name).open("wb") as file:
            for number in pieces:
                file.seek(number * 4096)
                file.write(os.urandom(4096))
            file.truncate(size)
    (folder / "plain").write_text("after them\n")
    run("tar", "-C", tmp_path, "-c", "-S", *form, "-f", tmp_path / "app.tar", "app")
    assert (tmp_path / "app.tar").stat().st_size < 2 * MIB
    migrate(joey, tmp_path / "app.tar", "--to", f"oci:{tmp_path}/new", "--verify")
    place = unpacked(joey, tmp_path / "new") / "opt/app"
    for path in folder.iterdir():
        assert (place / path.name).read_bytes() == path.read_bytes(), path.name
    # as a layer of an image, which docker would unpack, too
    layout = image(tmp_path, (tmp_path / "app.tar").read_bytes())
    joey("image", "unpack", str(layout), str(tmp_path / "bundle"))
    for path in folder.iterdir():
        assert (tmp_path / "bundle/rootfs/app" / path.name).read_bytes() == path.read_bytes(), path.name


def test_sparse_files_that_make_no_sense() -> None:
    def stored(headers: dict[str, str], data: bytes) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
            info = tarfile.TarInfo("f")
            info.size, info.pax_headers = len(data), headers
            made.addfile(info, io.BytesIO(data))
        return out.getvalue()

    one = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1000"}
    two = {"GNU.sparse.size": "1000"}
    for headers, data in (
        (one, b"2\n0\n1\n0\n1\n".ljust(512, b"\0") + b"ab"), (one, b"1\n999\n2\n".ljust(512, b"\0") + b"ab"),
        (one, b"9999999\n".ljust(512, b"\0")), (one, b"x\n".ljust(512, b"\0")), (one, b""),
        (two | {"GNU.sparse.map": "0,1,5"}, b"a"), (two | {"GNU.sparse.map": "0,5"}, b"a"), (two | {"GNU.sparse.map": "-1,1"}, b"a"),
        (two | {"GNU.sparse.offset": "1"}, b"a"), ({"GNU.sparse.size": "1" + "0" * 17, "GNU.sparse.map": "0,1"}, b"a"),
    ):  # fmt: skip
        with pytest.raises(ImageError):
            read_all(stored(headers, data), most=1 << 40)
