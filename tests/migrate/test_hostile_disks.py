"""Damaged and hostile disks: a clear error each, no crash, nothing read outside, nothing left behind."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joey.compat.errors import JoeyError
from joey.migrate.disks import lvm
from joey.migrate.disks.blocks import Blocks, DiskError, Extent
from joey.migrate.disks.filesystems import identify
from joey.migrate.disks.formats import inspect
from joey.migrate.disks.mdraid import member
from joey.migrate.disks.partitions import partitions
from joey.migrate.disks.volumes import volumes

from ..conftest import Joey
from .guests import LVM, MIB, group, loop, make_file_system, partitioned, run

SECRET = "root:secret-that-must-not-move"


def refused(joey: Joey, *words: str | Path) -> str:
    """`joey migrate` fails with an error of joey's, without a traceback, and makes no image; what it said."""
    target = Path(str(words[0])).parent / "refused-image"
    done = joey("migrate", *map(str, words), "--to", f"oci:{target}", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "joey: " in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert not target.exists() or not (target / "index.json").exists()
    return done.stderr


@pytest.mark.root
@pytest.mark.parametrize("format", ["qcow2", "vmdk"])
@pytest.mark.parametrize("where", ["/etc/shadow", "../outside.raw", "link.raw"])
def test_a_backing_file_elsewhere_is_not_opened(format: str, where: str, joey: Joey, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside.raw").write_text(SECRET + "x" * MIB)
    (folder / "link.raw").symlink_to(tmp_path / "outside.raw")
    disk = folder / f"disk.{format}"
    if format == "qcow2":
        run("qemu-img", "create", "-q", "-f", format, "-u", "-b", where, "-F", "raw", disk, "8M")
    else:
        base = folder / "base.vmdk"
        run("qemu-img", "create", "-q", "-f", "vmdk", base, "8M")
        run("qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", disk, cwd=folder)
        data = disk.read_bytes()
        old = data[data.index(b"parentFileNameHint=") :].split(b"\n")[0]
        new = f'parentFileNameHint="{where}"'.encode().ljust(len(old), b"\n")
        disk.write_bytes(data.replace(old, new[: max(len(old), len(new))]))
    assert "is a difference to another image" in refused(joey, disk)
    assert "is not in the folder" in refused(joey, disk, "--backing")


@pytest.mark.root
def test_a_chain_in_the_folder_is_read_when_asked(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", ext4, tmp_path / "base.qcow2")
    for name, below in (("middle", "base"), ("top", "middle")):
        run(
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            f"{below}.qcow2",
            "-F",
            "qcow2",
            f"{name}.qcow2",
            cwd=tmp_path,
        )
    assert "--backing" in refused(joey, tmp_path / "top.qcow2")
    joey("migrate", str(tmp_path / "top.qcow2"), "--backing", "--to", f"oci:{tmp_path}/image")
    joey("migrate", "verify", str(tmp_path / "top.qcow2"), "--backing", f"oci:{tmp_path}/image")


@pytest.mark.root
def test_a_chain_that_goes_round(joey: Joey, tmp_path: Path) -> None:
    for name, below in (("a", "b"), ("b", "a")):
        run(
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-b",
            f"{below}.qcow2",
            "-F",
            "qcow2",
            tmp_path / f"{name}.qcow2",
            "8M",
        )
    assert "goes round" in refused(joey, tmp_path / "a.qcow2", "--backing")


@pytest.mark.root
def test_a_data_file_elsewhere_is_not_opened(joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "data.raw").write_bytes(bytes(8 * MIB))
    disk = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data.raw", disk, "8M")
    assert "keeps its data in another file" in refused(joey, disk)


@pytest.mark.root
@pytest.mark.parametrize("name", ["/etc/shadow", "../shadow", "link", "missing"])
def test_a_part_of_a_vmdk_elsewhere_is_not_opened(name: str, joey: Joey, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/shadow")
    disk = tmp_path / "disk.vmdk"
    disk.write_text(
        f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 16384 FLAT "{name}" 0\n'
    )
    text = refused(joey, disk)
    assert "parts are files in the same folder" in text or "is missing" in text


@pytest.mark.root
@pytest.mark.parametrize(
    "line",
    [' RW 2048 FLAT "{}" 0', 'RW +2048 FLAT "{}" 0', 'RW\t2048 FLAT "{}" 0', 'rw 2048 FLAT "{}" 0', 'RW 2048 FLAT "{}"0 0',
     'RW 2048 VMFSSPARSE "{}"', 'RW 2048 FLAT {} 0'],
)  # fmt: skip
def test_no_line_of_a_descriptor_is_for_qemu_alone(line: str, joey: Joey, tmp_path: Path) -> None:
    """What joey does not take as a part, qemu might: such a descriptor is refused, or qemu never sees it."""
    secret = tmp_path / "elsewhere" / "secret"
    secret.parent.mkdir()
    secret.write_text(SECRET + "x" * 2048 * 512)
    (tmp_path / "ok.img").write_bytes(bytes(2048 * 512))
    disk = tmp_path / "disk.vmdk"
    disk.write_text(
        '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
        'RW 2048 FLAT "ok.img" 0\n' + line.format(secret) + "\n"
    )
    refused(joey, disk)
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*.raw"))


@pytest.mark.root
def test_a_sparse_vmdk_without_a_size_is_no_descriptor(joey: Joey, tmp_path: Path) -> None:
    """qemu takes one for a descriptor file, whose lines may name any file."""
    text = (
        f'# Disk DescriptorFile\ncreateType="monolithicFlat"\nparentCID=ffffffff\nRW 2048 FLAT "{tmp_path}/secret" 0\n'
    )
    (tmp_path / "secret").write_text(SECRET + "x" * 2048 * 512)
    head = struct.pack("<4sIIQQQQIQQQB", b"KDMV", 1, 3, 0, 128, 1, 20, 512, 0, 0, 128, 0)
    disk = tmp_path / "disk.vmdk"
    disk.write_bytes(head.ljust(512, b"\0") + text.encode().ljust(512 * 127, b"\0"))
    assert "has no size" in refused(joey, disk)


@pytest.mark.root
def test_a_subvolume_that_is_a_link_leads_nowhere(joey: Joey, tmp_path: Path) -> None:
    host = tmp_path / "host"
    (host / "etc").mkdir(parents=True)
    (host / "usr").mkdir()
    (host / "etc/fstab").write_text("")
    (host / "id_rsa").write_text(SECRET)
    tree = tmp_path / "tree"
    (tree / str(host)[1:] / "etc").mkdir(parents=True)
    (tree / str(host)[1:] / "usr").mkdir()
    (tree / str(host)[1:] / "etc/fstab").write_text("")
    (tree / "@").symlink_to(host)
    disk = tmp_path / "disk.raw"
    make_file_system(disk, "btrfs", 128 * MIB, tree)
    assert "no root file system" in refused(joey, disk)


@pytest.mark.root
@pytest.mark.parametrize("format", ["qcow2", "vmdk", "vdi", "vpc", "vhdx"])
def test_a_truncated_image(format: str, ext4: Path, joey: Joey, tmp_path: Path) -> None:
    disk = tmp_path / f"disk.{format}"
    run("qemu-img", "convert", "-f", "raw", "-O", format, ext4, disk)
    for size in (700, disk.stat().st_size // 2):
        os.truncate(disk, size)
        refused(joey, disk)


@pytest.mark.root
@pytest.mark.parametrize(
    ("format", "options"),
    [("qcow2", ""), ("vdi", ""), ("vpc", ""), *(("vmdk", f"subformat={kind}") for kind in (
        "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"))],
)  # fmt: skip
def test_an_image_without_its_end(format: str, options: str, ext4: Path, joey: Joey, tmp_path: Path) -> None:
    """Whose metadata is whole: qemu reads zeros where the rest of the data was."""
    disk = tmp_path / "disk.raw"
    shutil.copy(ext4, disk)
    with disk.open("r+b") as file:  # data at the end of the disk, whatever it belongs to
        file.seek(-4 * MIB, 2)
        file.write(os.urandom(4 * MIB))
    image = tmp_path / f"disk.{format}"
    run("qemu-img", "convert", "-f", "raw", "-O", format, *(["-o", options] if options else []), disk, image)
    disk.unlink()
    largest = max(tmp_path.glob("disk*"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size - MIB)
    said = refused(joey, image)
    assert "is cut off" in said or "damaged" in said


@pytest.mark.root
def test_a_truncated_raw_disk(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(ext4.read_bytes()[: 6 * MIB])
    refused(joey, disk)


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b" + b"x" * 600, "compressed by gzip"),
        (b"PK\x03\x04" + b"x" * 600, "a zip archive"),
        (b"QFI\xfb" + struct.pack(">I", 1) + bytes(600), "version 1"),
        (b"QFI\xfb" + struct.pack(">IQI", 3, 0, 0) + bytes(12) + struct.pack(">I", 1) + bytes(600), "encrypted"),
        (b"QFI\xfb" + struct.pack(">IQI", 2, 104, 1 << 30) + bytes(600), "the name of its backing file has"),
        (b"COWD" + bytes(600), "COWD"),
        (b"KDMV" + bytes(8) + struct.pack("<QQQQ", 9, 9, 1, 1 << 40) + bytes(600), "its descriptor has"),
        (b"KDMV" + bytes(600), "has no size"),
        (b"KDMV", "has no size|damaged"),
        (b"QFI\xfb\0\0\0\3", "damaged"),
        (b"conectix", "damaged"),
        (bytes(0x40) + b"\x7f\x10\xda\xbe", "damaged"),
    ],
)
def test_what_joey_does_not_read_is_named(head: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(head)
    with pytest.raises(DiskError, match=word):
        inspect(str(tmp_path / "disk"), take_backing=True)


@pytest.mark.root
@pytest.mark.parametrize(
    ("magic", "offset", "word"),
    [(b"LUKS\xba\xbe", 0, "LUKS"), (b"NTFS    ", 3, "NTFS"), (b"-FVE-FS-", 3, "BitLocker"), (b"hsqs", 0, "squashfs")],
)
def test_unreadable_volumes_are_named(magic: bytes, offset: int, word: str, joey: Joey, tmp_path: Path) -> None:
    part, disk = tmp_path / "part", tmp_path / "disk.raw"
    part.write_bytes(bytes(offset) + magic + bytes(MIB - len(magic) - offset))
    partitioned(disk, "gpt", [part])
    assert word in refused(joey, disk)


@pytest.mark.root
def test_a_real_encrypted_volume(joey: Joey, tmp_path: Path) -> None:
    part, disk = tmp_path / "part", tmp_path / "disk.raw"
    part.write_bytes(bytes(32 * MIB))
    run("cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", part, "-",
        input="password")  # fmt: skip
    partitioned(disk, "dos", [part])
    assert "LUKS (encrypted)" in refused(joey, disk)


@pytest.mark.root
def test_a_mount_of_fstab_that_is_not_there(tree: Path, joey: Joey, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    run("cp", "-a", tree, source)
    (source / "etc/fstab").write_text("UUID=12345678-1234-1234-1234-123456789012 /home ext4 defaults 0 2\n")
    make_file_system(tmp_path / "disk.raw", "ext4", 48 * MIB, source)
    text = refused(joey, tmp_path / "disk.raw")
    assert "none of the disks given has it" in text
    assert "--skip-mount /home" in text
    joey("migrate", str(tmp_path / "disk.raw"), "--skip-mount", "/home", "--to", f"oci:{tmp_path}/image")


@pytest.mark.root
def test_a_mount_point_that_leads_outside_stays_inside(tree: Path, joey: Joey, tmp_path: Path) -> None:
    """/data of the guest is a link to the host's /etc: the volume is mounted below the guest's root all the same."""
    source = tmp_path / "tree"
    run("cp", "-a", tree, source)
    (source / "data").symlink_to("../../../../../../etc")
    (source / "etc/fstab").write_text(
        "LABEL=data /data ext4 defaults 0 2\nLABEL=data ../../../../mnt ext4 defaults 0 0\n"
    )
    data = tmp_path / "data"
    data.mkdir()
    (data / "passwd").write_text("from the volume")
    make_file_system(tmp_path / "root.raw", "ext4", 48 * MIB, source)
    make_file_system(tmp_path / "data.raw", "ext4", 8 * MIB, data, "-L", "data")
    before = Path("/etc/passwd").read_text()
    joey("migrate", f"{tmp_path}/root.raw", f"{tmp_path}/data.raw", "--to", f"oci:{tmp_path}/image")
    joey("image", "unpack", f"{tmp_path}/image", f"{tmp_path}/bundle")
    assert (tmp_path / "bundle/rootfs/etc/passwd").read_text() == "from the volume"
    assert Path("/etc/passwd").read_text() == before


@pytest.mark.root
def test_two_roots_must_be_told_apart(tree: Path, joey: Joey, tmp_path: Path) -> None:
    for index in range(2):
        make_file_system(tmp_path / f"part{index}", "ext4", 48 * MIB, tree)
    partitioned(tmp_path / "disk.raw", "gpt", [tmp_path / "part0", tmp_path / "part1"])
    text = refused(joey, tmp_path / "disk.raw")
    assert "more than one root file system: partition 1, partition 2" in text
    joey("migrate", f"{tmp_path}/disk.raw", "--root-volume", "vda2", "--to", f"oci:{tmp_path}/image")


@pytest.mark.root
@pytest.mark.parametrize("kind", ["stripes", "error"])
def test_volumes_of_other_kinds_are_named(kind: str, joey: Joey, tmp_path: Path) -> None:
    disks = [tmp_path / "a.raw", tmp_path / "b.raw"]
    for disk in disks:
        disk.write_bytes(bytes(64 * MIB))
    with loop(disks[0]) as one, loop(disks[1]) as two:
        base = ["--config", LVM, "--driverloaded", "n"]
        run("pvcreate", *base, "-q", one, two)
        run("vgcreate", *base, "-q", "-s", "1m", "group", one, two)
        words = ["-i", "2"] if kind == "stripes" else ["--type", "error"]
        run("lvcreate", *base, "-q", "-an", "-Zn", "-Wn", "-y", *words, "-l", "8", "-n", "root", "group")
    text = refused(joey, *disks)
    assert ("2 stripes" if kind == "stripes" else 'type "error"') in text


@pytest.mark.root
def test_a_member_of_another_raid_level_is_named(joey: Joey, tmp_path: Path) -> None:
    """The super block is written by hand: this kernel has no md. Source: <linux/raid/md_p.h>."""
    disk = tmp_path / "disk.raw"
    block = bytearray(256)
    struct.pack_into("<II", block, 0, 0xA92B4EFC, 1)
    struct.pack_into("<i", block, 72, 5)
    struct.pack_into("<Q", block, 144, 8)
    disk.write_bytes(bytes(4096) + block + bytes(MIB))
    assert "RAID array of level 5" in refused(joey, disk)


@pytest.mark.root
@pytest.mark.parametrize("version", ["0.90", "1.0", "1.1", "1.2"])
def test_a_raid_1_member(version: str, ext4: Path, joey: Joey, tmp_path: Path) -> None:
    """Two members, the second older: the newer is read. The super blocks are written by hand: this kernel has no md."""
    content = ext4.read_bytes()
    disks = []
    for index, events in enumerate((9, 4)):
        data = content if index == 0 else bytes(len(content))
        disk = tmp_path / f"disk{index}.raw"
        if version == "0.90":
            block = bytearray(4096)
            struct.pack_into("<8I", block, 0, 0xA92B4EFC, 0, 90, 0, 0, 7, 0, 1)
            struct.pack_into("<I", block, 32, len(data) // 1024)
            struct.pack_into("<Q", block, 39 * 4, events)
            disk.write_bytes(data + block + bytes(65536 - 4096))
        else:
            block = bytearray(256)
            struct.pack_into("<II", block, 0, 0xA92B4EFC, 1)
            block[16:32] = b"identity of it!!"
            block[32:36] = b"h:md"
            struct.pack_into("<i", block, 72, 1)
            struct.pack_into("<Q", block, 80, len(data) // 512)
            start = {"1.0": 0, "1.1": 2048, "1.2": 2048}[version]
            struct.pack_into("<Q", block, 128, start)
            total = MIB + len(data) + 65536
            at = {"1.0": (total // 512 - 16) // 8 * 8, "1.1": 0, "1.2": 8}[version]
            struct.pack_into("<Q", block, 144, at)
            struct.pack_into("<Q", block, 200, events)
            with disk.open("wb") as file:
                file.truncate(total)
                file.seek(start * 512)
                file.write(data)
                file.seek(at * 512)
                file.write(block)
        disks.append(disk)
    joey("migrate", *map(str, disks), "--to", f"oci:{tmp_path}/image")
    report = json.loads(joey("migrate", "verify", str(disks[0]), f"oci:{tmp_path}/image", "--json").stdout)
    assert report["unexplained"] == 0
    assert report["compared"] > 50


def blocks_of(data: bytes, folder: Path) -> Blocks:
    path = folder / f"blocks-{random.getrandbits(64):x}"
    path.write_bytes(data)
    return Blocks([Extent(str(path), 0, len(data))])


def test_logical_partitions_that_go_round(tmp_path: Path) -> None:
    disk = bytearray(MIB)
    disk[510:512] = disk[512 * 10 + 510 : 512 * 10 + 512] = b"\x55\xaa"
    struct.pack_into("<BBBBBBBBII", disk, 446, 0, 0, 0, 0, 5, 0, 0, 0, 10, 100)
    struct.pack_into("<BBBBBBBBII", disk, 512 * 10 + 446, 0, 0, 0, 0, 0x83, 0, 0, 0, 1, 1)
    struct.pack_into("<BBBBBBBBII", disk, 512 * 10 + 462, 0, 0, 0, 0, 5, 0, 0, 0, 0, 100)
    with pytest.raises(DiskError, match="in a circle"):
        partitions(blocks_of(bytes(disk), tmp_path))


@pytest.mark.root
def test_the_second_copy_of_a_gpt_serves(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    partitioned(disk, "gpt", [ext4])
    data = bytearray(disk.read_bytes())
    data[512:1024] = bytes(512)
    disk.write_bytes(data)
    joey("migrate", str(disk), "--to", f"oci:{tmp_path}/image")
    data[-512:] = bytes(512)
    disk.write_bytes(data)
    assert "neither copy of it is intact" in refused(joey, disk)


def test_a_gpt_with_huge_counts_is_none(tmp_path: Path) -> None:
    head = bytearray(512)
    head[:8] = b"EFI PART"
    struct.pack_into("<I", head, 12, 92)
    struct.pack_into("<QIII", head, 72, 2, 0xFFFFFFFF, 128, 0)
    struct.pack_into("<I", head, 16, zlib.crc32(head[:16] + bytes(4) + head[20:92]))
    assert partitions(blocks_of(bytes(512) + bytes(head) + bytes(MIB), tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a { b = ", "a value was expected"),
        ("a { b = [1, {", "in an array"),
        ("a {" * 100, "nested too deeply"),
        ("a { } }", "a name was expected"),
        ("a = [" + "1," * 200_000 + "]", "more than"),
        ("\x00", "unexpected"),
    ],
)
def test_lvm_text_that_makes_no_sense(text: str, word: str) -> None:
    with pytest.raises(DiskError, match=word):
        lvm.parse(text)


def test_lvm_text_as_lvm_writes_it() -> None:
    text = 'vg { # a comment\n id = "x-\\"y"\n seqno = 3\n flags = []\n status = ["READ", "WRITE"]\n 0day { size = -1 }\n part=1.5 }'
    expected = {"id": 'x-"y', "seqno": 3, "flags": [], "status": ["READ", "WRITE"], "0day": {"size": -1}, "part": 1.5}
    assert lvm.parse(text) == {"vg": expected}


@pytest.mark.root
@pytest.mark.slow
def test_fuzzed_metadata_raises_nothing_but_errors_of_joeys(tmp_path: Path, ext4: Path) -> None:
    """Random damage to the metadata of real disks: 3000 of them, each read or refused in joey's own words."""
    source = tmp_path / "parts"
    source.mkdir()
    small = source / "small"
    make_file_system(small, "ext4", 12 * MIB, None)
    one, two = group(source, "fuzz", {"root": small})
    dos, gpt = source / "dos.raw", source / "gpt.raw"
    partitioned(dos, "dos", [small, small, small, small, small])
    partitioned(gpt, "gpt", [small, small])
    heads = [(path, path.read_bytes()[: 2 * MIB]) for path in (one, two, dos, gpt)]
    random.seed(20261125)
    refusals = 0
    for turn in range(3000):
        path, head = heads[turn % len(heads)]
        data = bytearray(head)
        end = 6000 if turn % 2 else 140_000
        for _ in range(random.choice((1, 3, 20))):
            at = random.randrange(end)
            data[at : at + random.choice((1, 2, 4, 8))] = random.randbytes(random.choice((1, 4, 8)))
        damaged = tmp_path / "damaged.raw"
        damaged.write_bytes(bytes(data[: 2 * MIB]))
        try:
            for volume in volumes([str(damaged), str(two)] if path == one else [str(damaged)]):
                identify(volume.blocks)
        except JoeyError:
            refusals += 1
    assert 0 < refusals < 3000


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=9000), place=st.sampled_from([0, 512, 1024, 4096]), magic=st.sampled_from(
    [b"LABELONE" + bytes(16) + b"LVM2 001", b"EFI PART", b"\xfc\x4e\x2b\xa9\x01\0\0\0", b"XFSB", b"\x53\xef", b"SWAPSPACE2"]))  # fmt: skip
def test_no_bytes_crash_the_parsers(data: bytes, place: int, magic: bytes, tmp_path: Path) -> None:
    raw = bytearray(20_000)
    raw[place : place + len(magic)] = magic
    raw[place + len(magic) : place + len(magic) + len(data)] = data
    blocks = blocks_of(bytes(raw), tmp_path)
    for parser in (partitions, identify, lambda b: member("x", b), lambda b: lvm.physical_volume("x", b)):
        try:
            parser(blocks)
        except DiskError:
            continue


def test_a_spare_does_not_stand_for_its_array(tmp_path: Path) -> None:
    """Role 0xffff in the table of roles, or a rebuild under way. Source: <linux/raid/md_p.h>."""
    for role, features in ((0xFFFF, 0), (0xFFFE, 0), (1, 2)):
        block = bytearray(512)
        struct.pack_into("<III", block, 0, 0xA92B4EFC, 1, features)
        struct.pack_into("<i", block, 72, 1)
        struct.pack_into("<Q", block, 80, 16)
        struct.pack_into("<Q", block, 128, 16)
        struct.pack_into("<Q", block, 144, 8)
        struct.pack_into("<I", block, 220, 2)
        struct.pack_into("<H", block, 256, role)
        volume = blocks_of(bytes(4096) + bytes(block) + bytes(MIB), tmp_path)
        with pytest.raises(DiskError, match="is a spare"):
            member("it", volume)
        struct.pack_into("<I", block, 8, 0)
        struct.pack_into("<H", block, 256, 1)
        assert member("it", blocks_of(bytes(4096) + bytes(block) + bytes(MIB), tmp_path)) is not None


@pytest.mark.parametrize(("second", "word"), [(1, ""), (2, "leave a gap"), (0, "leave a gap")])
def test_segments_of_a_volume_follow_one_another(second: int, word: str, tmp_path: Path) -> None:
    text = f"""vg {{ seqno = 1 extent_size = 8 physical_volumes {{ pv0 {{ id = "a" pe_start = 8 }} }}
      logical_volumes {{ lv {{ status = ["VISIBLE"]
        segment1 {{ start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 stripes = ["pv0", 0] }}
        segment2 {{ start_extent = {second} extent_count = 1 type = "striped" stripe_count = 1 stripes = ["pv0", 3] }} }} }} }}"""
    disk = lvm.PhysicalVolume("pv", blocks_of(bytes(MIB), tmp_path), "a", text)
    (found,) = lvm.logical_volumes([disk])
    assert word in found.error
    assert (found.blocks is None) == bool(word)


def test_an_extended_partition_with_nothing_in_it(tmp_path: Path) -> None:
    disk = bytearray(MIB)
    disk[510:512] = b"\x55\xaa"
    struct.pack_into("<BBBBBBBBII", disk, 446, 0, 0, 0, 0, 0x83, 0, 0, 0, 1, 8)
    struct.pack_into("<BBBBBBBBII", disk, 462, 0, 0, 0, 0, 5, 0, 0, 0, 100, 100)
    found = partitions(blocks_of(bytes(disk), tmp_path))
    assert found is not None
    assert [part.number for part in found] == [1]
