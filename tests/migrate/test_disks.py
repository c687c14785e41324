"""Machines' disks become images: every format, every layout, nothing of a file lost. Disks are made by real tools."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from joey.migrate.disks import stream
from joey.migrate.disks.blocks import DiskError

from ..conftest import Joey
from .guests import MIB, group, listing, loop, make_file_system, mounted, partitioned, run

pytestmark = pytest.mark.root
# what the recipe that joey proposes keeps out of an image of the small guest
DROPPED = ("lost+found", "boot/vmlinuz-2.6.32", "var/tmp/left", "var/lib/sock")


def migrate(joey: Joey, *words: str | Path, check: bool = True) -> Any:
    """`joey migrate ... --json`; its report."""
    done = joey("migrate", *map(str, words), "--json", check=check)
    return json.loads(done.stdout) if check else done


def unpacked(joey: Joey, image: Path, name: str = "") -> Path:
    """An image unpacked; its root file system."""
    target = image.parent / f"bundle-{image.name}-{name}"
    joey("image", "unpack", f"oci:{image}" + (f":{name}" if name else ""), str(target))
    return target / "rootfs"


def assert_same(tree: Path, result: Path, without: tuple[str, ...] = DROPPED) -> None:
    """The same files with everything of theirs; fstab's content is emptied, and what was dropped is missing."""
    expected, found = listing(tree, without), listing(result, without)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        if path == "etc/fstab":
            continue
        assert found[path] == value, path
    assert found["etc/fstab"][5] == b""


def assert_untouched(path: Path, before: str) -> None:
    assert digest(path) == before


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("raw", ""),
        ("qcow2", "compat=0.10"),
        ("qcow2", "compat=1.1"),
        ("qcow2", "compressed"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=twoGbMaxExtentFlat"),
        ("vdi", ""),
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=fixed"),
        ("vhdx", ""),
    ],
)
def test_every_format(format: str, options: str, tree: Path, ext4: Path, joey: Joey, tmp_path: Path) -> None:
    disk = tmp_path / f"disk.{format}"
    words = ["-c"] if options == "compressed" else ["-o", options] if options else []
    run("qemu-img", "convert", "-f", "raw", "-O", format, *words, ext4, disk)
    before = digest(disk)
    report = migrate(joey, disk, "--to", f"oci:{tmp_path}/image:it")
    assert_same(tree, unpacked(joey, tmp_path / "image", "it"))
    assert_untouched(disk, before)
    image = json.loads(joey("image", "inspect", f"{tmp_path}/image:it", "--json").stdout)
    assert image["manifest"]["annotations"]["io.joey.source.digest"] == f"sha256:{before}"
    assert {row["rule"] for row in report["dropped"]} == {
        "kernel", "temporary", "sockets", "fstab", "lost-and-found",
    }  # fmt: skip
    assert joey("migrate", "verify", str(disk), f"oci:{tmp_path}/image:it").stdout.endswith("the same\n")


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4", "xfs", "btrfs"])
def test_every_file_system(kind: str, tree: Path, joey: Joey, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    run("cp", "-a", tree, source)
    if kind in ("ext2", "ext3"):  # their times are of 32 bits, and those of 128-byte inodes of whole seconds
        os.utime(source / "home/user/nasty/large", (1_500_000_000, 1_500_000_000))
    disk = tmp_path / "disk.raw"
    make_file_system(
        disk, kind, (320 if kind == "xfs" else 128) * MIB, source, *(("-I", "256") if kind.startswith("ext") else ())
    )
    before = digest(disk)
    migrate(joey, disk, "--to", f"oci:{tmp_path}/image")
    assert_same(source, unpacked(joey, tmp_path / "image"))
    assert_untouched(disk, before)


@pytest.mark.parametrize("label", ["dos", "gpt"])
@pytest.mark.parametrize("name", ["UUID", "LABEL", "PARTUUID", "device", "by-uuid"])
def test_file_systems_are_joined_as_fstab_says(label: str, name: str, tree: Path, joey: Joey, tmp_path: Path) -> None:
    source, home = tmp_path / "tree", tmp_path / "home"
    run("cp", "-a", tree, source)
    (source / "home").rename(home)
    (source / "home").mkdir()
    make_file_system(tmp_path / "boot", "ext2", 8 * MIB, None)
    make_file_system(tmp_path / "swap", "ext2", 8 * MIB, None)
    run("mkswap", "-q", tmp_path / "swap")
    make_file_system(
        tmp_path / "home.fs",
        "ext4",
        48 * MIB,
        home,
        "-I",
        "256",
        "-L",
        "people",
        "-U",
        "11111111-2222-3333-4444-555555555555",
    )
    make_file_system(tmp_path / "root.fs", "ext4", 48 * MIB, source, "-I", "256")
    parts = [tmp_path / "boot", tmp_path / "swap", tmp_path / "root.fs", tmp_path / "home.fs"]
    disk = tmp_path / "disk.raw"
    partitioned(disk, label, parts)
    table = json.loads(run("sfdisk", "-J", disk))["partitiontable"]["partitions"]
    number = 5 if label == "dos" else 4
    identity = next(part.get("uuid", "") for part in table if part["node"].endswith(f"raw{number}")).lower()
    if label == "dos":
        identity = f"{json.loads(run('sfdisk', '-J', disk))['partitiontable']['id'][2:]}-05"
    device = {
        "UUID": 'UUID="11111111-2222-3333-4444-555555555555"',
        "LABEL": "LABEL=people",
        "PARTUUID": f"PARTUUID={identity}",
        "device": f"/dev/sda{number}",
        "by-uuid": "/dev/disk/by-uuid/11111111-2222-3333-4444-555555555555",
    }[name]
    offset = next(part["start"] for part in table if part["node"].endswith("raw3")) * 512
    with mounted(disk, f"offset={offset}") as place:
        (place / "etc/fstab").write_text(
            f"/dev/sda3 / ext4 defaults 0 1\n{device}\t/home ext4 defaults 0 2\n/dev/sda2 none swap sw 0 0\n"
            "LABEL=NOSUCH /mnt/cd iso9660 ro,noauto 0 0\nserver:/export /nfs nfs defaults 0 0\n"
        )
    report = migrate(joey, disk, "--to", f"oci:{tmp_path}/image")
    result = unpacked(joey, tmp_path / "image")
    assert listing(result / "home", ("lost+found",)) == listing(home, ("lost+found",)) | {
        ".": listing(result / "home")["."]
    }
    assert any("comes from the network" in line for line in report["warnings"])


def test_lvm_of_several_segments_and_disks(tree: Path, joey: Joey, tmp_path: Path) -> None:
    """The root and /home on volumes of a group whose pieces lie on two disks, of other formats."""
    source, home = tmp_path / "tree", tmp_path / "home"
    run("cp", "-a", tree, source)
    (source / "opt/app/third").unlink()  # a hard link does not reach into another file system
    (source / "home").rename(home)
    (source / "home").mkdir()
    (source / "etc/fstab").write_text(
        "/dev/mapper/vg--0-root / ext4 defaults 0 1\n/dev/vg-0/home /home xfs defaults 0 2\n"
    )
    make_file_system(tmp_path / "root.fs", "ext4", 48 * MIB, source, "-I", "256")
    make_file_system(tmp_path / "home.fs", "xfs", 320 * MIB, home)
    one, two = group(tmp_path, "vg-0", {"root": tmp_path / "root.fs", "home": tmp_path / "home.fs"})
    first, second = tmp_path / "one.vmdk", tmp_path / "two.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", one, first)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", two, second)
    migrate(joey, first, second, "--to", f"oci:{tmp_path}/image")
    result = unpacked(joey, tmp_path / "image")
    expected = listing(source, (*DROPPED, "home"))
    found = listing(result, (*DROPPED, "home"))
    assert found.keys() == expected.keys()
    assert [path for path, value in expected.items() if path != "etc/fstab" and found[path] != value] == []
    assert listing(result / "home") == listing(home)
    done = joey("migrate", str(first), "--to", f"oci:{tmp_path}/half", check=False)
    assert done.returncode == 1
    assert "no root file system" in done.stderr
    assert "is on none of the disks given" in done.stderr
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_a_dirty_journal_is_replayed_on_a_copy(kind: str, format: str, tree: Path, joey: Joey, tmp_path: Path) -> None:
    """A snapshot of a disk in use: what only the journal holds is in the image, and the disk is as it was."""
    live, disk = tmp_path / "live.raw", tmp_path / "disk.raw"
    make_file_system(live, kind, (320 if kind == "xfs" else 128) * MIB, tree)
    with mounted(live) as place:
        (place / "late").mkdir()
        for index in range(200):
            (place / "late" / f"file{index}").write_text(f"{index}")
        fd = os.open(place / "late", os.O_RDONLY)
        os.fsync(fd)  # to the journal, not to its place
        os.close(fd)
        for index in range(200):
            with (place / "late" / f"file{index}").open() as file:
                os.fsync(file.fileno())
        shutil.copyfile(live, disk)
    if format == "qcow2":
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, tmp_path / "disk.qcow2")
        disk = tmp_path / "disk.qcow2"
    before = digest(disk)
    migrate(joey, disk, "--to", f"oci:{tmp_path}/image")
    result = unpacked(joey, tmp_path / "image")
    assert {path.name: path.read_text() for path in (result / "late").iterdir()} == {
        f"file{i}": f"{i}" for i in range(200)
    }
    assert_untouched(disk, before)


def test_a_btrfs_root_in_a_subvolume(tree: Path, joey: Joey, tmp_path: Path) -> None:
    """As Ubuntu lays it out: @ is the root, @home is mounted by fstab's subvol=."""
    disk = tmp_path / "disk.raw"
    make_file_system(disk, "btrfs", 256 * MIB, None, "-L", "all")
    with mounted(disk) as place:
        run("btrfs", "-q", "subvolume", "create", place / "@")
        run("btrfs", "-q", "subvolume", "create", place / "@home")
        run("cp", "-a", f"{tree}/.", place / "@")
        run("sh", "-c", f"mv {place}/@/home/* {place}/@home/")
        (place / "@/etc/fstab").write_text(
            "LABEL=all / btrfs subvol=@ 0 0\nLABEL=all /home btrfs defaults,subvol=@home 0 0\n"
        )
    migrate(joey, disk, "--to", f"oci:{tmp_path}/image")
    result = unpacked(joey, tmp_path / "image")
    assert listing(result / "home/user") == listing(tree / "home/user")


def test_a_btrfs_root_under_a_name_of_its_own(tree: Path, joey: Joey, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    make_file_system(disk, "btrfs", 256 * MIB, None)
    with mounted(disk) as place:
        for name in ("data", "rootvol"):
            run("btrfs", "-q", "subvolume", "create", place / name)
        run("cp", "-a", f"{tree}/.", place / "rootvol")
    migrate(joey, disk, "--to", f"oci:{tmp_path}/image")
    assert_same(tree, unpacked(joey, tmp_path / "image"))
    with mounted(disk) as place:
        run("btrfs", "-q", "subvolume", "snapshot", place / "rootvol", place / "before")
    done = migrate(joey, disk, "--to", f"oci:{tmp_path}/none", check=False)
    assert "more than one root file system in it: 'before', 'rootvol'" in done.stderr


def test_a_btrfs_on_two_disks(tree: Path, joey: Joey, tmp_path: Path) -> None:
    disks = [tmp_path / "a.raw", tmp_path / "b.raw"]
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(256 * MIB)
    with contextlib.ExitStack() as stack:
        loops = [stack.enter_context(loop(disk)) for disk in disks]
        run("mkfs.btrfs", "-q", "-d", "raid0", "-m", "raid1", *loops)
        (tmp_path / "place").mkdir()
        run("mount", "-o", f"device={loops[1]}", loops[0], tmp_path / "place")
        try:
            run("cp", "-a", f"{tree}/.", tmp_path / "place")
        finally:
            run("umount", tmp_path / "place")
            run(
                "btrfs", "device", "scan", "--forget", *loops
            )  # the next file system on these would be taken for theirs
    before = [digest(disk) for disk in disks]
    migrate(joey, *disks, "--to", f"oci:{tmp_path}/image")
    assert_same(tree, unpacked(joey, tmp_path / "image"))
    for disk, was in zip(disks, before, strict=True):
        assert_untouched(disk, was)
    done = migrate(joey, disks[0], "--to", f"oci:{tmp_path}/none", check=False)
    assert (done.returncode, "can't be mounted" in done.stderr) == (1, True)


def test_the_same_recipe_gives_the_same_bytes(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    joey("migrate", "plan", str(ext4), "-o", str(tmp_path / "recipe.yaml"))
    digests = {
        migrate(joey, ext4, "--recipe", tmp_path / "recipe.yaml", "--to", f"oci:{tmp_path}/image{i}:x")["manifest"][
            "digest"
        ]
        for i in range(2)
    }
    digests.add(migrate(joey, ext4, "--to", f"oci:{tmp_path}/image3:x")["manifest"]["digest"])
    assert len(digests) == 1, "a proposed recipe and the same one written down"


def test_several_images_share_a_layout(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    layout = tmp_path / "images"
    for name in ("one", "two", "one"):
        migrate(joey, ext4, "--to", f"oci:{layout}:{name}")
    names = [row["name"] for row in json.loads(joey("image", "ls", str(layout), "--json").stdout)]
    assert sorted(names) == ["one", "two"]
    assert len(list((layout / "blobs/sha256").iterdir())) < 12, "like layers are stored once"
    done = joey("image", "inspect", str(layout), check=False)
    assert done.returncode == 1
    assert "several images" in done.stderr
    joey("image", "verify", f"{layout}:two")


def test_umoci_and_skopeo_take_the_image(ext4: Path, tree: Path, joey: Joey, tmp_path: Path) -> None:
    migrate(joey, ext4, "--to", f"oci:{tmp_path}/image:it")
    run("umoci", "unpack", "--image", f"{tmp_path}/image:it", tmp_path / "umoci")
    expected, found = listing(tree, DROPPED), listing(tmp_path / "umoci/rootfs", DROPPED)
    assert found.keys() == expected.keys()
    # umoci 0.4.7 keeps no ACLs of folders; everything else is compared
    assert [p for p, v in expected.items() if found[p] != v and p not in ("etc/fstab", "home/user/nasty/sticky")] == []
    run("skopeo", "copy", "--insecure-policy", f"oci:{tmp_path}/image:it", f"oci:{tmp_path}/copy:it")
    joey("image", "verify", f"{tmp_path}/copy:it")


def test_the_image_runs(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    joey("migrate", "plan", str(ext4), "-o", str(tmp_path / "recipe.yaml"))
    text = (tmp_path / "recipe.yaml").read_text()
    text = text.replace(
        '  command: ["/bin/sh"]',
        '  command: ["/bin/busybox", "sh", "-c", "cat /etc/os-release; id; exit 7"]\n  user: "user"',
    )
    (tmp_path / "recipe.yaml").write_text(text)
    migrate(joey, ext4, "--recipe", tmp_path / "recipe.yaml", "--to", f"oci:{tmp_path}/image")
    bundle = unpacked(joey, tmp_path / "image").parent
    done = joey("run", "--bundle", str(bundle), joey.id(), check=False)
    assert done.returncode == 7, done.stderr
    assert "A test system" in done.stdout
    assert "uid=1000(user) gid=1000(user)" in done.stdout
    assert "1001(extra)" in done.stdout


OVF = """<?xml version="1.0"?><Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:href="{name}" ovf:id="file1"/></References>
<DiskSection><Disk ovf:capacity="1" ovf:diskId="d1" ovf:fileRef="file1" ovf:format="x"/></DiskSection></Envelope>"""


@pytest.mark.parametrize("form", ["ova", "ovf"])
def test_virtual_appliances(form: str, ext4: Path, tree: Path, joey: Joey, tmp_path: Path) -> None:
    run(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
        ext4,
        tmp_path / "box-disk1.vmdk",
    )
    (tmp_path / "box.ovf").write_text(OVF.format(name="box-disk1.vmdk"))
    if form == "ova":
        run("tar", "-C", tmp_path, "--format=ustar", "-cf", tmp_path / "box.ova", "box.ovf", "box-disk1.vmdk")
        (tmp_path / "box-disk1.vmdk").unlink()
    before = digest(tmp_path / f"box.{form}")
    migrate(joey, tmp_path / f"box.{form}", "--to", f"oci:{tmp_path}/image")
    assert_same(tree, unpacked(joey, tmp_path / "image"))
    assert_untouched(tmp_path / f"box.{form}", before)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (OVF.format(name="../../etc/shadow"), "disks are files in the same folder"),
        (OVF.format(name="link.vmdk"), "disks are files in the same folder"),
        (OVF.format(name="gone.vmdk"), "is missing"),
        (OVF.replace("File ovf:href", 'File ovf:compression="gzip" ovf:href').format(name="x"), "compressed by gzip"),
        ("<Envelope/>", "names no disk"),
        ("<Envelope", "is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><Envelope>&d;</Envelope>', "no entities of its own"),
        ("<a>" * 100, "nested too deeply"),
    ],
)
def test_an_ovf_that_names_other_things(text: str, word: str, joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "link.vmdk").symlink_to("/etc/shadow")
    (tmp_path / "box.ovf").write_text(text)
    done = migrate(joey, tmp_path / "box.ovf", "--to", f"oci:{tmp_path}/image", check=False)
    assert done.returncode == 1
    assert word in done.stderr
    assert "Traceback" not in done.stderr


def test_streams_are_read_as_qemu_reads_them(tmp_path: Path) -> None:
    """joey's own reader of streamOptimized VMDKs, on a disk of odd size with holes, zeros and what does not compress."""
    raw = tmp_path / "disk.raw"
    with raw.open("wb") as file:
        file.write(os.urandom(3 * MIB) + bytes(MIB) + b"text " * 200_000)
        file.seek(90 * MIB)
        file.write(os.urandom(100_000))
        file.truncate(97 * MIB + 512 * 7)
    disk = tmp_path / "disk.vmdk"
    run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, disk)
    found = stream.open_stream(str(disk))
    assert found is not None
    stream.convert(found, str(tmp_path / "ours"), lambda share: None)
    run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", disk, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert (tmp_path / "ours").stat().st_blocks * 512 < 8 * MIB
    data = bytearray(disk.read_bytes())
    damaged = tmp_path / "damaged.vmdk"
    for place in (len(data) // 2, len(data) // 3):
        broken = bytearray(data)
        broken[place : place + 4000] = os.urandom(4000)
        damaged.write_bytes(broken)
        found = stream.open_stream(str(damaged))
        assert found is not None
        with pytest.raises(DiskError, match="damaged VMDK"):
            stream.convert(found, str(tmp_path / "broken"), lambda share: None)
        assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("how", ["subvolid", "a label with a colon", "no line"])
def test_volumes_that_are_easily_missed(how: str, tree: Path, joey: Joey, tmp_path: Path) -> None:
    """Mounted by subvolid, named like a network's, or named by no line of fstab: read, or told."""
    source = tmp_path / "tree"
    run("cp", "-a", tree, source)
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows").write_text("precious")
    line = {
        "subvolid": "LABEL=more /data btrfs subvolid={} 0 0",
        "a label with a colon": "LABEL=data:1 /data ext4 defaults 0 2",
        "no line": "",
    }[how]
    (source / "data").mkdir()
    disk = tmp_path / "data.raw"
    if how == "subvolid":
        make_file_system(disk, "btrfs", 128 * MIB, None, "-L", "more")
        with mounted(disk) as place:
            run("btrfs", "-q", "subvolume", "create", place / "deep")
            run("cp", data / "rows", place / "deep")
            line = line.format(run("btrfs", "inspect-internal", "rootid", place / "deep").strip())
    else:
        make_file_system(disk, "ext4", 8 * MIB, data, "-L", "data:1")
    (source / "etc/fstab").write_text(line + "\n")
    make_file_system(tmp_path / "root.raw", "ext4", 48 * MIB, source, "-I", "256")
    report = migrate(joey, tmp_path / "root.raw", disk, "--to", f"oci:{tmp_path}/image")
    if how == "no line":
        assert any("is not read: no line of the machine's fstab mounts it" in line for line in report["warnings"])
    else:
        assert (unpacked(joey, tmp_path / "image") / "data/rows").read_text() == "precious"


def test_a_block_device(ext4: Path, tree: Path, joey: Joey, tmp_path: Path) -> None:
    with loop(ext4) as node:
        migrate(joey, node, "--to", f"oci:{tmp_path}/image")
    assert_same(tree, unpacked(joey, tmp_path / "image"))


def test_a_flat_disk_that_changed_is_converted_again(ext4: Path, tree: Path, joey: Joey, tmp_path: Path) -> None:
    """What a failed run converted serves the next only while every file of the disk is as it was."""
    source = tmp_path / "tree"
    run("cp", "-a", tree, source)
    (source / "etc/fstab").write_text("LABEL=gone /data ext4 defaults 0 2\n")
    for name in ("old", "new"):
        (source / "etc/marker").write_text(name)
        make_file_system(tmp_path / "disk.raw", "ext4", 48 * MIB, source, "-I", "256")
        run(
            "qemu-img",
            "convert",
            "-f",
            "raw",
            "-O",
            "vmdk",
            "-o",
            "subformat=monolithicFlat",
            tmp_path / "disk.raw",
            tmp_path / f"{name}.vmdk",
        )
    words = ["--skip-mount", "/data", "--to", f"oci:{tmp_path}/image"]
    assert joey("migrate", f"{tmp_path}/old.vmdk", "--to", f"oci:{tmp_path}/image", check=False).returncode == 1
    (tmp_path / "new-flat.vmdk").rename(tmp_path / "old-flat.vmdk")
    migrate(joey, tmp_path / "old.vmdk", *words)
    assert (unpacked(joey, tmp_path / "image") / "etc/marker").read_text() == "new"
