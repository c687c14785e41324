"""A host that reboots: its own init starts what ran, by the script and the unit that the host kit has. In QEMU, with a
disk that keeps what was written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..e2e.oldkernel import TOP
from .guests import debian_root, run

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64 (tools/test has it)"
    ),
]

# the host's own work at each boot: the power is cut at the end of the first, the second goes down in order
STAGE = """#!/bin/sh
PATH=/opt/joey/bin:$PATH
stty -F /dev/ttyS1 raw -echo
exec >/dev/ttyS1 2>&1
touch /boots; echo >>/boots; boot=$(wc -l </boots)
if [ "$boot" = 1 ]; then
    joey rich run --rootfs /srv/guest --name kept --policy permissive >/dev/null
    joey rich run --rootfs /srv/guest --name stopped --policy permissive >/dev/null
    joey rich run --rootfs /srv/guest --name always --restart always --policy permissive >/dev/null
    joey rich exec kept sh -c 'echo seen >/mark'
    joey rich stop stopped; joey rich stop always
else
    for try in $(seq 60); do joey rich ps | grep -q always && joey rich exec kept cat /mark && break; sleep 1; done
fi
joey rich ps --all | sed "s/^/boot $boot: /"
[ "$boot" != 3 ] || joey rich logs kept | sed "s/^/log: /"
sync
printf '\\nJOEY-VM-STATUS 0\\n'
case $boot in
    1) echo b >/proc/sysrq-trigger; reboot -f ;;
    2) reboot ;;
    3) poweroff ;;
esac
"""
INITTAB = """::sysinit:/etc/init.d/rcS
::wait:/etc/init.d/joey-rich start
::once:/stage
::shutdown:/etc/init.d/joey-rich stop
::shutdown:/bin/umount -a -r
"""
RCS = """#!/bin/sh
export PATH=/sbin:/bin:/usr/sbin:/usr/bin
[ -e /proc/mounts ] || mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null || { mount -t tmpfs dev /dev; mdev -s; }
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 pts /dev/pts
mount -t tmpfs run /run
[ -e /dev/urandom ] || mknod /dev/urandom c 1 9
hostname vm; ip link set lo up
"""
UNIT = """[Unit]
After=joey-rich.service
[Service]
Type=oneshot
ExecStart=/bin/sh /stage
StandardOutput=null
[Install]
WantedBy=multi-user.target
"""


def kit() -> Path:
    return Path(run(TOP / "tools/hostkit", "--cached").strip())


def write(path: Path, text: str, mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def boots(image: Path, kernel: str, memory: int) -> list[str]:
    """Boot a disk three times; what each said."""
    words = ["--kernel", kernel] if kernel else []
    command: list[str | Path] = [TOP / "tools/vm", "--boot", image, "--memory", str(memory), "--timeout", "400", *words]
    out = []
    for _ in range(3):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, errors="replace", check=False)
        out.append(done.stdout)
        assert done.returncode == 0, "\n".join(out)
    return out


def rows(text: str) -> dict[str, str]:
    """The status of each container."""
    lines = [line.split() for line in text.splitlines() if line.startswith("boot ")]
    return {line[2]: line[3] for line in lines if len(line) > 3 and line[2] != "name"}


def check(said: list[str]) -> None:
    assert rows(said[0]) == {"kept": "running", "stopped": "stopped", "always": "stopped"}
    for text in said[1:]:
        assert rows(text) == {"kept": "running", "stopped": "stopped", "always": "running"}, text
        assert "seen" in text, "what it had written is there"
    log = [line for line in said[2].splitlines() if line.startswith("log: ")]
    ends = [line for line in log if "ended with" in line]
    assert len(ends) == 1, "the power was cut once, and once it was shut down with its host"
    assert "signal 9" not in ends[0]


def test_on_the_kernel_that_answers_like_2_6_32(machine: Callable[..., Path], tmp_path: Path) -> None:
    root, tree = tmp_path / "host", kit()
    for name in "bin sbin usr/bin usr/sbin dev proc sys tmp run root var/lib mnt srv opt".split():
        (root / name).mkdir(parents=True)
    busybox = tree / "bin/busybox"
    shutil.copy(busybox, root / "bin/busybox")
    for applet in run(busybox, "--list").split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "sbin/init").symlink_to("/bin/busybox")
    run("cp", "-a", tree, root / "opt/joey")
    run("cp", "-a", machine(), root / "srv/guest")
    write(root / "etc/init.d/rcS", RCS)
    write(root / "etc/init.d/joey-rich", (tree / "share/host/joey-rich").read_text())
    write(root / "etc/inittab", INITTAB)
    write(root / "etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
    write(root / "etc/group", "root:x:0:\n")
    write(root / "stage", STAGE)
    check(boots(disk(root, tmp_path / "host.img", old=True), "", 700))


def test_on_debian_with_systemd(machine: Callable[..., Path], tmp_path: Path) -> None:
    root, tree = tmp_path / "host", kit()
    run("cp", "-a", debian_root("systemd-sysv", "procps"), root)
    run("cp", "-a", tree, root / "opt/joey")
    run("cp", "-a", machine(), root / "srv/guest")
    shutil.copy(tree / "share/host/joey-rich.service", root / "etc/systemd/system/joey-rich.service")
    write(root / "etc/systemd/system/stage.service", UNIT, 0o644)
    write(root / "stage", STAGE)
    for unit in ("joey-rich", "stage"):
        run("chroot", root, "systemctl", "enable", unit)
    kernel = run(TOP / "tools/kernel/debian", "bookworm").strip().splitlines()[-1]
    run("cp", "-a", Path(kernel) / "lib/modules", root / "usr/lib/modules")
    check(boots(disk(root, tmp_path / "host.img"), kernel, 1200))


def disk(root: Path, image: Path, old: bool = False) -> Path:
    with image.open("wb") as file:
        file.truncate(3 << 30)
    words = ["-O", "^64bit,^metadata_csum,^metadata_csum_seed,^orphan_file,^huge_file", "-I", "256"] if old else []
    run("mkfs.ext4", "-q", "-F", *words, "-d", root, image)
    shutil.rmtree(root)
    return image
