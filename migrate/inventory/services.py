"""What a machine starts, for each kind of init. Source: systemd.unit(5), init(8), init(5) of upstart, openrc(8)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..trees.entry import text
from .model import Service

if TYPE_CHECKING:
    from ..trees.entry import Tree

_UNITS = (b"etc/systemd/system", b"lib/systemd/system", b"usr/lib/systemd/system")
_MOST = 2000
_LARGEST = 1 << 20
# of a machine's hardware and start-up: a container has no use for them
_HARDWARE = re.compile(
    r"(getty|udev|fsck|lvm|mdadm|mdmonitor|multipath|iscsi|blk-availability|smartd|acpid|irqbalance|microcode|kdump|cpuspeed|"
    r"haldaemon|messagebus-hw|netfs|network|NetworkManager|networking|wpa_supplicant|ModemManager|bluetooth|plymouth|"
    r"console-setup|keyboard-setup|kmod|module-init-tools|hwclock|hwdb|tuned|vmtoolsd|open-vm-tools|qemu-guest-agent|"
    r"cloud-init|cloud-config|cloud-final|grub|selinux|restorecond|auditd|mount|umount|swap|bootlog|halt|reboot|single|"
    r"killall|sendsigs|rc\.local-hw|dm-event|e2scrub|fstrim|apparmor|nftables-hw|lvm2|remount-fs|binfmt|machine-id|timesyncd|ntpd|chronyd|ntp)"
)


def services(tree: Tree, init: str, runlevel: str) -> list[Service]:
    """The services that start by themselves."""
    kind = {"systemd": _systemd, "openrc": _openrc}.get(init)
    found = kind(tree) if kind else []
    if init == "upstart":
        found += _upstart(tree)
    if init in ("sysvinit", "upstart"):
        found += _sysvinit(tree, runlevel)
    for service in found:
        service.hardware = bool(_HARDWARE.match(service.name))
    return sorted(found, key=lambda service: service.name)[:_MOST]


def _systemd(tree: Tree) -> list[Service]:
    names = set()
    for folder in (*tree.names(b"etc/systemd/system"),):
        if folder.endswith((b".wants", b".requires")):
            names.update(tree.names(b"etc/systemd/system/" + folder))
    found = []
    for name in names:
        if not name.endswith((b".service", b".socket", b".timer")):
            continue
        command, user = _unit(tree, name)
        found.append(Service(name.decode("utf-8", "replace").removesuffix(".service"), "systemd", command, user))
    return found


def _unit(tree: Tree, name: bytes) -> tuple[str, str]:
    """(ExecStart, User) of a unit; of an instance its template's."""
    template = re.sub(rb"@[^.]+\.", b"@.", name)
    for folder in _UNITS:
        for file in dict.fromkeys((name, template)):
            data = text(tree, folder + b"/" + file, _LARGEST)
            if data:
                joined = re.sub(r"\\\n", " ", data)
                start = re.findall(r"(?m)^ExecStart=[-@:+!]*(.+)$", joined)
                user = re.search(r"(?m)^User=(\S+)", joined)
                return (start[0].strip() if start else ""), (user[1] if user else "")
    return "", ""


def _sysvinit(tree: Tree, runlevel: str) -> list[Service]:
    for folder in (f"etc/rc{runlevel}.d", f"etc/rc.d/rc{runlevel}.d"):
        started = [name for name in tree.names(folder.encode()) if re.match(rb"S\d\d", name)]
        if started:
            titles = {name[3:].decode("utf-8", "replace") for name in started}
            return [Service(title, "sysvinit", f"/etc/init.d/{title} start") for title in titles]
    return []


def _upstart(tree: Tree) -> list[Service]:
    found = []
    for name in tree.names(b"etc/init"):
        if not name.endswith(b".conf"):
            continue
        data = text(tree, b"etc/init/" + name, _LARGEST)
        if (
            not re.search(r"(?m)^start on", data)
            or text(tree, b"etc/init/" + name[:-5] + b".override").strip() == "manual"
        ):
            continue
        command = re.search(r"(?m)^[ \t]*exec[ \t]+(.+)$", data)
        title = name[:-5].decode("utf-8", "replace")
        if not title.startswith(("rc", "plymouth", "start-ttys", "tty", "prefdm", "control-alt-delete", "splash")):
            found.append(Service(title, "upstart", command[1].strip() if command else ""))
    return found


def _openrc(tree: Tree) -> list[Service]:
    return [
        Service(name.decode("utf-8", "replace"), "openrc", f"/etc/init.d/{name.decode('utf-8', 'replace')} start")
        for level in (b"boot", b"default")
        for name in tree.names(b"etc/runlevels/" + level)
    ]
