"""How well a machine fits into a container, 0 to 10: a rule a line, each with what it takes away and why.

A blocker makes the score 0: what it names can't work in a container as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from .model import Inventory


class Judgement(NamedTuple):
    """`weight` is what it takes from ten; `blocker` whether it takes all."""

    name: str
    weight: int
    blocker: bool
    judge: Callable[[Inventory], str]


def _has_package(found: Inventory, *names: str) -> str:
    known = {package["name"] for package in found.packages}
    return next((name for name in names if name in known), "")


def _architecture(found: Inventory) -> str:
    return "" if found.architecture else "no program was found that tells the architecture"


def _init(found: Inventory) -> str:
    return "" if found.init else "no init was found: only single programs of it can be started"


_VIRTUALIZATION = "libvirt-daemon libvirt qemu-kvm xen virtualbox docker-ce docker.io vzctl".split()
_STORAGE = (
    "nfs-kernel-server drbd-utils drbd glusterfs-server ceph-osd ocfs2-tools gfs2-utils scsi-target-utils".split()
)
_ROUTING = "strongswan libreswan openswan keepalived openvswitch-switch quagga frr".split()


def _virtualization(found: Inventory) -> str:
    name = _has_package(found, *_VIRTUALIZATION)
    return f"it runs virtual machines or containers of its own ({name})" if name else ""


def _storage(found: Inventory) -> str:
    name = _has_package(found, *_STORAGE)
    return f"it serves storage from its kernel ({name})" if name else ""


def _network(found: Inventory) -> str:
    name = _has_package(found, *_ROUTING)
    return f"it changes routes or the kernel's network ({name})" if name else ""


def _vpn(found: Inventory) -> str:
    name = _has_package(found, "openvpn", "wireguard", "wireguard-tools", "pptpd")
    return f"it needs a tunnel device ({name})" if name else ""


def _modules(found: Inventory) -> str:
    lines = found.settings.get("modules", [])
    return f"it loads kernel modules: {', '.join(lines[:5])}" if lines else ""


def _firewall(found: Inventory) -> str:
    return "it has firewall rules, which need CAP_NET_ADMIN inside" if found.settings.get("firewall") else ""


def _sysctl(found: Inventory) -> str:
    lines = [line for line in found.settings.get("sysctl", []) if not line.startswith("net.")]
    return f"it sets kernel parameters of the whole host: {', '.join(lines[:3])}" if lines else ""


def _network_mounts(found: Inventory) -> str:
    places = [m["target"] for m in found.mounts if m.get("kind") == "network"]
    return f"it mounts from the network: {', '.join(places[:5])}" if places else ""


def _selinux(found: Inventory) -> str:
    return "SELinux enforces there; its labels do not move" if found.selinux == "enforcing" else ""


def _graphical(found: Inventory) -> str:
    name = _has_package(found, "xserver-xorg", "xorg-x11-server-Xorg", "gdm", "gdm3", "lightdm")
    return f"it has a desktop ({name})" if name else ""


def _time(found: Inventory) -> str:
    name = _has_package(found, "ntp", "chrony", "ntpd", "openntpd")
    return f"it sets the clock ({name}), which the host does" if name else ""


def _size(found: Inventory) -> str:
    return f"it holds {found.size >> 30} GiB: keep data in volumes" if found.size > 50 << 30 else ""


def _packages(found: Inventory) -> str:
    return "" if found.packages else "no package database was read: its layers are shared with no other machine"


JUDGEMENTS = (
    Judgement("architecture", 10, True, _architecture),
    Judgement("virtualization", 10, True, _virtualization),
    Judgement("kernel-storage", 10, True, _storage),
    Judgement("kernel-network", 4, False, _network),
    Judgement("init", 2, False, _init),
    Judgement("vpn", 3, False, _vpn),
    Judgement("desktop", 3, False, _graphical),
    Judgement("modules", 2, False, _modules),
    Judgement("network-mounts", 1, False, _network_mounts),
    Judgement("firewall", 1, False, _firewall),
    Judgement("sysctl", 1, False, _sysctl),
    Judgement("selinux", 1, False, _selinux),
    Judgement("clock", 0, False, _time),
    Judgement("size", 1, False, _size),
    Judgement("packages", 1, False, _packages),
)


def judge(found: Inventory) -> None:
    """Give an inventory its score, with the rules that made it."""
    score = 10
    for each in JUDGEMENTS:
        why = each.judge(found)
        if why:
            score -= each.weight
            kind = "blocker" if each.blocker else "warning" if each.weight else "note"
            found.rules.append({"rule": each.name, "kind": kind, "takes": each.weight, "why": why})
    found.score = max(0, score)
