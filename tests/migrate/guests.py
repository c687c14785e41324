"""Guests and disks for the tests of migration, made by the tools that make real ones: mkfs, sfdisk, lvm2, qemu-img.

Nothing here uses joey: what it makes is what joey is compared with.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..conftest import TOP

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
# a machine with services, and with a kernel of its own to boot
SERVER = "linux-image-cloud-amd64 nginx-light postgresql systemd-sysv openssh-server cron rsyslog iproute2".split()
# lvm2 without device-mapper and udev, on loop devices only
LVM = 'devices { use_devicesfile=0 filter=["a|^/dev/loop|","r|.*|"] } activation { udev_sync=0 udev_rules=0 }'


def run(*words: str | Path, **options: Any) -> str:
    """A command of the system; its output. What fails shows what it said."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(w) for w in words], capture_output=True, text=True, check=False, close_fds=True, **options
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def debian_root(*packages: str) -> Path:
    """A Debian 12 with packages, made once and kept. Not to be written to."""
    return Path(run(TOP / "tools/debian-root", "bookworm", *packages).strip())


def make_tree(root: Path, special: bool = True) -> None:
    """A small system's root file system with everything in it that copying tools get wrong. `special`: as root."""
    for name in (
        "bin",
        "etc",
        "usr/bin",
        "usr/share",
        "var/lib",
        "var/tmp",
        "home/user",
        "proc",
        "tmp",
        "boot",
        "opt/app",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\nextra:x:1001:user\n")
    (root / "etc/os-release").write_text('PRETTY_NAME="A test system"\nID=test\nVERSION_ID="1"\n')
    (root / "etc/fstab").write_text("proc /proc proc defaults 0 0\n")
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    nasty = root / "home/user/nasty"
    nasty.mkdir()
    names = [
        b"plain",
        b"with space",
        b"new\nline",
        b"tab\t",
        b"\xff\xfe not utf-8",
        "größe".encode(),
        b"a" * 255,
        b"-rf",
        b"*",
        b"\\",
        b"#",
        b" ",
    ]
    for index, word in enumerate(names):
        with open(os.path.join(os.fsencode(nasty), word), "wb") as file:
            file.write(word * (index * 100))
    deep = nasty
    for _ in range(40):
        deep = deep / "0123456789"
        deep.mkdir()
    (deep / "leaf").write_text("deep")
    (deep / "link").symlink_to("/" + "very/" * 40 + "far")
    (nasty / "empty").mkdir()
    (nasty / "dangling").symlink_to("nowhere")
    (nasty / "absolute").symlink_to("/etc/passwd")
    (nasty / "large").write_bytes(os.urandom(3 * MIB + 17))
    (nasty / "zeros").write_bytes(bytes(MIB))
    with (nasty / "sparse").open("wb") as file:
        file.seek(4 * MIB)
        file.write(b"end")
    (nasty / "first").write_text("two names")
    os.link(nasty / "first", nasty / "second")
    os.link(nasty / "first", root / "opt/app/third")
    os.mkfifo(nasty / "pipe", 0o640)
    (nasty / "mode").write_text("x")
    (nasty / "mode").chmod(0o4751)
    (nasty / "sticky").mkdir()
    (nasty / "sticky").chmod(0o3775)
    (root / "usr/bin/tool").write_text("#!/bin/sh\necho tool\n")
    (root / "usr/bin/tool").chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "var/lib/sock"))
    (root / "var/tmp/left").write_text("temporary")
    (root / "boot/vmlinuz-2.6.32").write_bytes(b"kernel" * 1000)
    if special:
        os.setxattr(nasty / "mode", "user.note", b"\0binary\xff=value")
        os.setxattr(nasty / "empty", "user.of.a.folder", b"x" * 300)
        run("setcap", "cap_net_raw,cap_net_admin+ep", root / "usr/bin/tool")
        run("setfacl", "-m", "u:1000:r,g:1001:rw", nasty / "plain")
        run("setfacl", "-d", "-m", "u:1000:rwx", nasty / "sticky")
        os.mknod(nasty / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(nasty / "block", stat.S_IFBLK | 0o600, os.makedev(7, 1000))
        for path in (root / "home/user", nasty, nasty / "plain", nasty / "dangling"):
            os.chown(path, 1000, 1000, follow_symlinks=False)
        os.chown(nasty / "large", 3_000_000, 4_000_000)
    times = {"plain": 1_234_567_890_123_456_789, "zeros": 0, "large": 4_000_000_000_000_000_001, "empty": 1_000_000_000}
    for title, when in times.items():
        os.utime(nasty / title, ns=(when, when))
    os.utime(nasty / "dangling", ns=(5, 1_111_111_111_000_000_007), follow_symlinks=False)


def listing(root: Path, without: tuple[str, ...] = ()) -> dict[str, tuple[Any, ...]]:
    """Everything of a tree that can be compared: kind, mode, owner, times, links, attributes, content."""
    found: dict[str, tuple[Any, ...]] = {}
    inodes: dict[tuple[int, int], str] = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        for name in (*folders, *files, *([b"."] if folder == os.fsencode(root) else [])):
            path = os.path.join(folder, name)
            short = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            if any(short == word or short.startswith(word + "/") for word in without):
                continue
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content: Any = b""
            if kind == stat.S_IFREG:
                content = Path(os.fsdecode(path)).read_bytes()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            attributes = tuple(
                sorted(
                    (n, os.getxattr(path, n, follow_symlinks=False))
                    for n in os.listxattr(path, follow_symlinks=False)
                    if not n.startswith("trusted.SGI_ACL_")
                )
            )
            same = ""
            if status.st_nlink > 1 and kind == stat.S_IFREG:
                same = inodes.setdefault((status.st_dev, status.st_ino), short)
            found[short] = (
                oct(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev, content, attributes, same,
            )  # fmt: skip
    return found


@contextmanager
def loop(path: Path) -> Iterator[str]:
    """A loop device of a file."""
    node = run("losetup", "-f", "--show", path).strip()
    try:
        yield node
    finally:
        run("losetup", "-d", node)


def make_file_system(path: Path, kind: str, size: int, tree: Path | None, *options: str) -> None:
    """A file system in a file of its own, filled from a tree by mounting it."""
    with path.open("wb") as file:
        file.truncate(size)
    run({"btrfs": "mkfs.btrfs", "xfs": "mkfs.xfs"}.get(kind, f"mkfs.{kind}"), "-q", *options, path)
    if tree is not None:
        with mounted(path) as place:
            run("cp", "-a", f"{tree}/.", place)


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    """A file system in a file, mounted beside it."""
    place = path.parent / f"mnt-{uuid.uuid4().hex[:8]}"
    place.mkdir()
    run("mount", "-o", ",".join(("loop", *options)), path, place)
    try:
        yield place
    finally:
        run("umount", place)
        place.rmdir()


def put(disk: Path, offset: int, part: Path) -> None:
    """Put a file's content at a place of a disk; holes stay holes."""
    run(
        "dd",
        f"if={part}",
        f"of={disk}",
        "bs=64k",
        "oflag=seek_bytes",
        f"seek={offset}",
        "conv=notrunc,sparse",
        "status=none",
    )


def partitioned(disk: Path, label: str, parts: list[Path]) -> None:
    """A disk with a partition of label "dos" or "gpt" for each file system; from the fourth on logical ones on "dos"."""
    start = 2048
    lines = [f"label: {label}"]
    places = []
    total = sum(part.stat().st_size for part in parts) // 512 + 8192 * (len(parts) + 2)
    for index, part in enumerate(parts):
        sectors = part.stat().st_size // 512
        if label == "dos" and index == 3 and len(parts) > 3:
            lines.append(f"start={start}, type=5")
            start += 2048
        kind = "83" if label == "dos" else "linux"
        lines.append(
            f"start={start}, size={sectors}, type={kind}" + (f', name="part {index}"' if label == "gpt" else "")
        )
        places.append(start * 512)
        start += (sectors + 4095) // 2048 * 2048 + (2048 if label == "dos" and index >= 3 else 0)
    with disk.open("wb") as file:
        file.truncate(total * 512)
    run("sfdisk", "-q", disk, input="\n".join(lines) + "\n")
    for place, part in zip(places, parts, strict=True):
        put(disk, place, part)


def group(folder: Path, name: str, volumes: dict[str, Path]) -> list[Path]:
    """Two disks that are physical volumes of an LVM group, its volumes in several segments on both, filled with files."""
    disks = [folder / f"{name}-{index}.raw" for index in range(2)]
    size = sum(path.stat().st_size for path in volumes.values())
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(size + 16 * MIB)
    with loop(disks[0]) as one, loop(disks[1]) as two:
        lvm("pvcreate", "-q", one, two)
        lvm("vgcreate", "-q", "-s", "1m", name, one, two)
        for volume in volumes:  # a piece of each in turn, so that no volume is in one piece
            lvm("lvcreate", "-q", "-an", "-Zn", "-Wn", "-y", "-l", "3", "-n", volume, name, one)
        for volume, path in volumes.items():
            half = path.stat().st_size // MIB // 2
            lvm("lvextend", "-q", "-l", str(half), f"{name}/{volume}", two)
            lvm("lvextend", "-q", "-l", str(path.stat().st_size // MIB), f"{name}/{volume}", one)
        table = lvm("lvs", "--noheadings", "--segments", "-o", "lv_name,seg_start_pe,seg_pe_ranges", name)
        start = int(lvm("pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start", one).split()[0])
        for line in table.splitlines():
            volume, first, ranges = line.split()
            device, _, span = ranges.partition(":")
            low, _, high = span.partition("-")
            run("dd", f"if={volumes[volume]}", f"of={disks[0] if device == one else disks[1]}", "bs=1M", "conv=notrunc,sparse",
                f"skip={first}", f"count={int(high) - int(low) + 1}", "oflag=seek_bytes",
                f"seek={start + int(low) * MIB}", "status=none")  # fmt: skip
    return disks


def lvm(*words: str) -> str:
    command, *rest = words
    return run(command, "--config", LVM, "--driverloaded", "n", *rest)
