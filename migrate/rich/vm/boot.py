"""The initial file system of a virtual machine (initramfs): it loads what the kernel has as modules, mounts the
machine's root by 9p, sets its links up, starts the agent, and becomes the machine's own init.

Source: Documentation/driver-api/early-userspace/buffer-format.rst (cpio "newc"; archives may follow each other).
"""

from __future__ import annotations

import os
import shlex
import struct
import sys
from typing import Any

from ....compat.errors import JoeyError
from ....compat.files import find_program
from .agentcode import CODE
from .kernel import Kernel

PORTS = 8  # commands of people's that can run in it at once
OWN_PORT = PORTS  # and one of joey's own
_ALL_PORTS = PORTS + 2  # with the one that a status is told by
_LARGEST_BUSYBOX = 16 << 20
_SCRIPT = """#!/busybox sh
/busybox mount -t proc proc /proc
/busybox mount -t sysfs sys /sys
/busybox mount -t devtmpfs -o mode=0755 dev /dev 2>/dev/null || /busybox mount -t tmpfs -o mode=0755 dev /dev
for node in console:5:1 null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 ttyS0:4:64 ptmx:5:2 kmsg:1:11; do
    [ -e /dev/${node%%:*} ] || /busybox mknod -m 666 /dev/${node%%:*} c $(echo ${node#*:} | /busybox tr : ' ')
done
exec </dev/console >/dev/console 2>&1
for module in $(/busybox cat /modules/order); do
    /busybox insmod /modules/$module.ko || echo "joey: module $module can't be loaded"
done
[ ! -e /dev/hwrng ] || /busybox chmod 600 /dev/hwrng
/busybox hostname "$JOEY_HOSTNAME"
mount_root() { /busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144$1 root /root; }
mount_root ,cache=mmap 2>/dev/null || mount_root || {
    echo "joey: its root can't be mounted by 9p"
    exec /busybox poweroff -f
}
/busybox ip link set lo up
[ ! -e /links ] || . /links
/busybox mkdir -p /root/dev /root/proc /root/sys /root/tmp
/busybox mkdir -p /dev/pts /dev/shm
/busybox mount -t devpts -o mode=620,ptmxmode=666,gid=5 pts /dev/pts
/busybox mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
# no directory is listed here: a busybox with today's glibc can't on a kernel like 2.6.32
ports= tries=0
for number in @NUMBERS@; do
    port=/sys/class/virtio-ports/vport0p$number
    until [ -e $port/name ] || [ $tries -gt 100 ]; do # they are told of one after the other
        tries=$((tries + 1))
        /busybox usleep 50000
    done
    name=$(/busybox cat $port/name)
    /busybox mknod /ports/$name c $(/busybox tr : ' ' <$port/dev)
    case $name in exec*) ports="$ports /ports/$name";; esac
done
/agent serve /root $ports || echo "joey: its agent did not start"
for place in dev proc sys; do /busybox mount --move /$place /root/$place; done
@TMPFS@
@LIMITS@
@INIT@
echo "joey: its init can't be executed"
exec /busybox poweroff -f
"""


def busybox() -> str:
    """A static busybox of the host: the kit's, or one that is installed. Raises JoeyError."""
    beside = os.path.join(os.path.dirname(os.path.realpath(sys.executable)), "busybox")
    for path in (beside, find_program("busybox") or "", "/bin/busybox.static", "/usr/bin/busybox-static"):
        if path and os.path.isfile(path) and not _has_interpreter(path):
            return path
    raise JoeyError(
        "--isolation vm: there is no static busybox", "apt-get install busybox-static, or the host kit", "vm"
    )


def _has_interpreter(path: str) -> bool:
    """Whether an ELF file asks for a loader. Source: elf(5)."""
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            return True
        place, size, count = *struct.unpack_from("<Q", head, 32), *struct.unpack_from("<H", head, 54), 0
        (count,) = struct.unpack_from("<H", head, 56)
        file.seek(place)
        table = file.read(size * count)
    return any(struct.unpack_from("<I", table, number * size)[0] == 3 for number in range(count))


def script(init: list[str], env: dict[str, str], tmpfs: dict[str, str], program: bool, tasks: int) -> str:
    """The first script. `init` is executed as the machine's init; `program`: by the agent, as a program without one."""
    if program:
        last = "exec /agent first /root /program /ports/status"
    else:
        words = " ".join(shlex.quote(word) for word in init)
        given = " ".join(shlex.quote(f"{key}={value}") for key, value in env.items())
        last = f"exec /busybox env -i {given} /busybox switch_root -c /dev/console /root {words}"
    mounts = [
        f"/busybox mkdir -p /root{path}; /busybox mount -t tmpfs -o nosuid,nodev,mode={mode} tmpfs /root{path}"
        for path, mode in tmpfs.items()
    ]
    # the kernel's own threads count, too
    limits = f"read a b c d e </root/proc/loadavg; echo $((${{d#*/}} + {tasks})) >/root/proc/sys/kernel/threads-max"
    numbers = " ".join(map(str, range(1, _ALL_PORTS + 1)))
    text = _SCRIPT.replace("@NUMBERS@", numbers).replace("@TMPFS@", "\n".join(mounts)).replace("@INIT@", last)
    return text.replace("@LIMITS@", limits if tasks else "")


def archive(kernel: Kernel, first: str, hostname: str, program: bytes) -> bytes:
    """The initial file system. `program` is a request for the agent, where that is to be the first process."""
    modules = kernel.modules()
    with open(busybox(), "rb") as file:
        shell = file.read(_LARGEST_BUSYBOX)
    text = first.replace('"$JOEY_HOSTNAME"', shlex.quote(hostname))
    entries: list[tuple[str, int, bytes]] = [
        (name, 0o40755, b"") for name in ("dev", "proc", "sys", "root", "ports", "modules")
    ]
    entries += [
        ("busybox", 0o100755, shell),
        ("agent", 0o100755, CODE),
        ("init", 0o100755, text.encode("utf-8", "surrogateescape")),
    ]
    entries.append(("modules/order", 0o100644, os.fsencode("\n".join(name for name, _ in modules))))
    entries += [(f"modules/{name}.ko", 0o100644, data) for name, data in modules]
    if program:
        entries.append(("program", 0o100600, program))
    return cpio(entries)


def cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """Entries of name, mode and content, as the kernel unpacks them."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields: tuple[Any, ...] = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(os.fsencode(name)) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + os.fsencode(name) + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)
