"""Settings that are a few lines of text each: network, name resolution, limits, sysctls, modules, environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..trees.entry import text
from .ports import expand

if TYPE_CHECKING:
    from ..trees.entry import Tree

_MOST_LINES = 200
_FILES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("network", ("etc/network/interfaces", "etc/network/interfaces.d/*", "etc/sysconfig/network-scripts/ifcfg-*",
                 "etc/netplan/*.yaml", "etc/systemd/network/*.network", "etc/sysconfig/network")),
    ("resolver", ("etc/resolv.conf", "etc/hosts", "etc/nsswitch.conf")),
    ("limits", ("etc/security/limits.conf", "etc/security/limits.d/*")),
    ("sysctl", ("etc/sysctl.conf", "etc/sysctl.d/*.conf")),
    ("modules", ("etc/modules", "etc/modules-load.d/*.conf", "etc/sysconfig/modules/*.modules")),
    ("environment", ("etc/environment",)),
    ("rc.local", ("etc/rc.local", "etc/rc.d/rc.local")),
    ("firewall", ("etc/sysconfig/iptables", "etc/iptables/rules.v4", "etc/nftables.conf")),
)  # fmt: skip


def settings(tree: Tree) -> dict[str, list[str]]:
    """The lines that say something, by what they are about."""
    found: dict[str, list[str]] = {}
    for about, patterns in _FILES:
        lines: list[str] = []
        seen = set()
        for pattern in patterns:
            for path in expand(tree, b"", pattern.encode().split(b"/")):
                place = tree.resolve(path)
                if place in seen:
                    continue
                seen.add(place)
                lines += [line.strip() for line in text(tree, path, 1 << 20).splitlines() if _says(line)]
        if lines:
            found[about] = lines[:_MOST_LINES]
    return found


def _says(line: str) -> bool:
    word = line.strip()
    return bool(word) and not word.startswith(("#", ";")) and word != "exit 0"
