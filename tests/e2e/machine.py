"""A machine of Debian's kernel in QEMU: a root file system in memory with busybox, Python and joey, and one job."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from joey.runtime.commands.spec import template

TOP = Path(__file__).parent.parent.parent
PYTHON = Path("/usr/bin/python3.11")
STDLIB_LEFT_OUT = ("test", "idlelib", "lib2to3", "ensurepip", "distutils", "dist-packages", "pydoc_data", "__pycache__")

# `real_root`: CRIU, like pivot_root, does not work on the initial ramfs
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/bin
if [ -e /real_root ] && [ ! -e /moved ]; then
    mkdir /new; mount -t tmpfs -o size=600m root /new
    for entry in /*; do [ "$entry" = /new ] || cp -a "$entry" /new/; done
    touch /new/moved; exec switch_root /new /init
fi
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /dev/pts /dev/shm
mount -t devpts p /dev/pts; mount -t tmpfs t /run; mount -t tmpfs t /tmp; mount -t cgroup2 c /sys/fs/cgroup
joey() { PYTHONPATH=/joey python3 -S -P -m joey "$@"; }
( . /job ) > /output 2>&1
echo; echo BEGIN-OUTPUT; cat /output; echo END-OUTPUT
poweroff -f
"""

needs_machine = [
    pytest.mark.skipif(
        not PYTHON.exists(), reason="needs Debian's Python 3.11 at /usr/bin/python3.11, to put in the machine"
    ),
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64 (tools/test installs it)"
    ),
]


def make_machine(root: Path, job: str, bundle: dict[str, Any] | None = None) -> None:
    """The machine's root file system, with a bundle of busybox in /bundle whose configuration is `bundle`."""
    busybox_tree(root)
    python_tree(root)
    shutil.copytree(TOP / "src" / "joey", root / "joey" / "joey", ignore=shutil.ignore_patterns("__pycache__"))
    busybox_tree(root / "bundle" / "rootfs")
    (root / "bundle" / "config.json").write_text(json.dumps(bundle or template()))
    for name, text in (("init", INIT), ("job", job)):
        (root / name).write_text(text)
        (root / name).chmod(0o755)


def busybox_tree(root: Path) -> None:
    """Static busybox with a link for every applet."""
    for name in ("bin", "dev", "proc", "sys", "tmp", "run", "usr/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    busybox = shutil.which("busybox")
    assert busybox
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")


def python_tree(root: Path) -> None:
    """Debian's Python with the libraries it and its extension modules need."""
    shutil.copytree(
        "/usr/lib/python3.11", root / "usr" / "lib" / "python3.11", symlinks=True,
        ignore=lambda folder, names: [name for name in names if name in STDLIB_LEFT_OUT or name.startswith("config-")],
    )  # fmt: skip
    add_program(root, PYTHON, "python3")
    for path in Path("/usr/lib/python3.11/lib-dynload").glob("_ctypes*.so"):
        add_libraries(root, path)


def add_program(root: Path, program: Path, name: str) -> None:
    """One of this system's programs with its libraries, in the machine's /usr/bin; before busybox's of that name."""
    shutil.copy(program, root / "usr" / "bin" / name)
    add_libraries(root, program)


def add_libraries(root: Path, file: Path) -> None:
    text = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        words = line.split()
        path = words[2] if "=>" in words else words[0]
        if path.startswith("/") and not path.endswith(":"):
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def kernel(folder: Path) -> Path:
    """$JOEY_TEST_DEBIAN_KERNEL, or Debian's cloud kernel from its package."""
    if given := os.environ.get("JOEY_TEST_DEBIAN_KERNEL"):
        return Path(given)
    return debian_kernel(folder)


def debian_kernel(folder: Path) -> Path:
    """Debian's cloud kernel, its package unpacked in `folder`/kernel."""
    depends = subprocess.run(
        ["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=True
    )
    package = next(line.split()[1] for line in depends.stdout.splitlines() if "Depends: linux-image" in line)
    subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, capture_output=True, check=True)
    archive = next(folder.glob("linux-image-*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / "kernel")], check=True)
    return next((folder / "kernel" / "boot").glob("vmlinuz-*"))


def add_modules(root: Path, unpacked: Path, names: str) -> str:
    """Put modules of a kernel package, and what they need, in the machine; the shell command that loads them."""
    version = next((unpacked / "lib" / "modules").iterdir()).name
    subprocess.run(["depmod", "-b", str(unpacked), version], check=True)
    wanted: list[str] = []
    for name in names.split():
        text = subprocess.run(
            ["modprobe", "-d", str(unpacked), "-S", version, "--show-depends", name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        wanted += [line.split()[1] for line in text.splitlines() if line.startswith("insmod")]
    (root / "modules").mkdir()
    for path in dict.fromkeys(wanted):
        shutil.copy(path, root / "modules")
    files = " ".join(Path(path).name for path in dict.fromkeys(wanted))
    return f"for module in {files}; do insmod /modules/$module 2>/dev/null; done\n"


def boot(image: Path, root: Path, archive: Path) -> list[str]:
    """Run the job in `root`/job on a kernel; what it printed. Kernel messages in between are dropped."""
    names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    with archive.open("wb") as output:
        subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names, stdout=output, check=True)
    command = ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-cpu", "qemu64", "-m", "1500", "-nographic",
               "-no-reboot", "-kernel", str(image), "-initrd", str(archive), "-append", "console=ttyS0 panic=-1 quiet"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=400, stdin=subprocess.DEVNULL, check=False)
    lines = done.stdout.decode("utf-8", "replace").replace("\r", "").splitlines()
    assert "END-OUTPUT" in lines, lines[-40:]
    return [
        line for line in lines[lines.index("BEGIN-OUTPUT") + 1 : lines.index("END-OUTPUT")] if not line.startswith("[ ")
    ]
