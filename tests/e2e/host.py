"""A host of a test's own: network and mount namespaces in which joey is called, and a neighbour of that host."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ..conftest import Joey

NETWORKS = "/run/joey/networks"
BEYOND = "192.0.2.9"


class Host(Joey):
    """joey on a host of its own: `call` runs any program there, and `joey()` runs joey."""

    def __init__(self, folder: Path, pid: int, beyond: int) -> None:
        super().__init__(folder)
        self.enter = ["nsenter", "-t", str(pid), "-n", "-m"]
        self.beyond = ["nsenter", "-t", str(beyond), "-n"]
        self.before: tuple[str, ...] = ()

    def command(self, *words: str) -> list[str]:
        return [*self.enter, *self.before, *super().command(*words)]

    def call(self, *words: str, check: bool = True) -> str:
        return subprocess.run([*self.enter, *words], capture_output=True, text=True, check=check, timeout=30).stdout

    def links(self) -> set[str]:
        """The links of the host, but for what it always has."""
        found = {item["ifname"] for item in json.loads(self.call("ip", "-j", "link"))}
        return {name for name in found if name not in ("lo", "up0") and not name.startswith("ifb")}

    def rules(self) -> str:
        """Every rule of its packet filters that is joey's."""
        text = "".join(
            self.call(*words.split(), check=False)
            for words in (
                "iptables -S",
                "iptables -t nat -S",
                "iptables-legacy -S",
                "iptables-legacy -t nat -S",
                "nft list ruleset",
            )
        )
        return "\n".join(line for line in text.splitlines() if "joey" in line or "10.71." in line)

    def leases(self) -> set[str]:
        return set(self.call("find", NETWORKS, "-type", "f", "-printf", "%f\n").split()) - {".lock", "network.json"}
