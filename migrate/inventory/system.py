"""The system itself: distribution, architecture, init, kernels, host name, time zone, SELinux."""

from __future__ import annotations

import re
from struct import unpack_from
from typing import TYPE_CHECKING

from ..trees.entry import opened, text

if TYPE_CHECKING:
    from ..trees.entry import Tree
    from .model import Inventory

_MACHINES = {62: "amd64", 183: "arm64", 3: "386", 40: "arm", 21: "ppc64le", 22: "s390x", 243: "riscv64"}
_PROGRAMS = (b"bin/sh", b"bin/bash", b"bin/busybox", b"sbin/init", b"usr/bin/env")


def look(tree: Tree, found: Inventory) -> None:
    """Fill in what the system's own files say."""
    release = _assignments(text(tree, b"etc/os-release") or text(tree, b"usr/lib/os-release"))
    found.distribution_id = release.get("ID", "")
    found.release = release.get("VERSION_ID", "")
    found.distribution = release.get("PRETTY_NAME", "")
    if not found.distribution:
        _older(tree, found)
    found.architecture = architecture(tree)
    found.hostname = hostname(tree)
    found.init = init(tree)
    found.runlevel = runlevel(tree, found.init)
    found.time_zone = _time_zone(tree)
    found.selinux = _assignments(text(tree, b"etc/selinux/config")).get("SELINUX", "")
    for folder in (b"lib/modules", b"usr/lib/modules"):
        names = [name.decode("utf-8", "replace") for name in tree.names(folder)]
        found.kernels += [name for name in names if name[:1].isdigit() and name not in found.kernels]


def _assignments(data: str) -> dict[str, str]:
    """The NAME=value lines of a file that a shell could read."""
    found = {}
    for line in data.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and re.fullmatch(r"\w+", name):
            found[name] = value.strip().strip("\"'")
    return found


def _older(tree: Tree, found: Inventory) -> None:
    """Machines from before os-release."""
    word = text(tree, b"etc/redhat-release").strip().partition("\n")[0]
    if word:
        found.distribution = word
        found.distribution_id = (
            "centos" if "CentOS" in word else "rhel" if "Red Hat" in word else word.split()[0].lower()
        )
        match = re.search(r"release (\d+(?:\.\d+)*)", word)
        found.release = match[1] if match else ""
        return
    word = text(tree, b"etc/debian_version").strip()
    if word:
        lsb = _assignments(text(tree, b"etc/lsb-release"))
        found.distribution = lsb.get("DISTRIB_DESCRIPTION", f"Debian {word}")
        found.distribution_id = lsb.get("DISTRIB_ID", "debian").lower()
        found.release = lsb.get("DISTRIB_RELEASE", word)


def architecture(tree: Tree) -> str:
    """GOARCH's word for the machine that the programs are for; "" where none was found. Source: elf(5)."""
    for path in _PROGRAMS:
        entry = tree.status(path)
        if entry is None or entry.open is None or entry.size < 64:
            continue
        head = bytearray(64)
        with opened(entry) as content:
            content.readinto(memoryview(head))
        if head[:4] == b"\x7fELF" and head[5] == 1:
            return _MACHINES.get(unpack_from("<H", head, 18)[0], "")
    return ""


def hostname(tree: Tree) -> str:
    for path in (b"etc/hostname", b"etc/HOSTNAME"):
        for line in text(tree, path).splitlines():
            if line.strip() and not line.startswith("#"):
                return line.strip()
    return _assignments(text(tree, b"etc/sysconfig/network")).get("HOSTNAME", "")


def init(tree: Tree) -> str:
    """ "systemd", "upstart", "sysvinit", "openrc", "busybox", "runit", or ""."""
    place = tree.resolve(b"sbin/init")
    if not place or tree.status(place) is None:
        place = b""
    name = place.rpartition(b"/")[2]
    if name == b"systemd":
        return "systemd"
    if name == b"busybox":
        return "openrc" if tree.status(b"sbin/openrc") else "busybox"
    if name == b"openrc-init" or (place and tree.status(b"sbin/openrc")):
        return "openrc"
    if name == b"runit-init":
        return "runit"
    if not place:
        return ""
    # CentOS 6 and old Ubuntus have jobs, and what reads them
    if tree.status(b"sbin/initctl") and any(job.endswith(b".conf") for job in tree.names(b"etc/init")):
        return "upstart"
    return "sysvinit" if tree.status(b"etc/inittab") or tree.names(b"etc/init.d") else ""


def runlevel(tree: Tree, init: str) -> str:
    """The runlevel or target that the machine starts into."""
    if init == "systemd":
        for path in (b"etc/systemd/system/default.target", b"lib/systemd/system/default.target"):
            place = tree.resolve(path)
            if place != path and place.endswith(b".target"):
                return place.rpartition(b"/")[2].decode("utf-8", "replace")
        return "graphical.target"
    if init == "openrc":
        return "default"
    match = re.search(r"(?m)^\w+:([0-6S]):initdefault:", text(tree, b"etc/inittab"))
    if match:
        return match[1]
    match = re.search(r"(?m)^env DEFAULT_RUNLEVEL=(\d)", text(tree, b"etc/init/rc-sysinit.conf"))
    return match[1] if match else "2" if init in ("sysvinit", "upstart") else ""


def _time_zone(tree: Tree) -> str:
    name = text(tree, b"etc/timezone").strip()
    if name:
        return name
    zone = _assignments(text(tree, b"etc/sysconfig/clock")).get("ZONE", "")
    place = tree.resolve(b"etc/localtime")
    marker = b"zoneinfo/"
    return zone or (place.partition(marker)[2].decode("utf-8", "replace") if marker in place else "")
