"""How a rich container resolves names: by the name server of joey's bridge, which knows the other containers and asks
the machine's own name servers, or the host's, for the rest.

A machine whose only name server is itself (127.0.0.1) is left to it.
"""

from __future__ import annotations

import re

from ...compat.network import names
from ...compat.network.leases import Leases
from ...compat.network.words import Network, networks
from ...runtime.network import is_foreign
from .guest import Guest
from .model import Rich

_PATH = "/etc/resolv.conf"


def words(guest: Guest, rich: Rich) -> list[str]:
    """The words of its networks, as the runtime gets them."""
    given = [word for word in rich.networks if word not in ("host", "none") and not word.startswith("container:")]
    network = _named(guest, rich)
    if network is None:
        return given
    out = []
    for word, parsed in zip(given, networks(given), strict=True):
        more = ""
        if parsed.link == network.link:
            more += "" if "names=" in word else ",names=on"
            own = [] if "resolvers=" in word else _reachable(guest)
            more += f",resolvers={'+'.join(own)}" if own else ""
        out.append(word + more)
    return out


def resolv_conf(guest: Guest, rich: Rich) -> tuple[str, str]:
    """Its /etc/resolv.conf, and why it is another one than the machine's; ("", "") where it is not."""
    if not rich.networks:
        return "", ""
    own = guest.text(_PATH)
    network = _named(guest, rich)
    if network is None:
        found = "" if own.strip() else _hosts()
        return found, "its image names no name server: the host's" if found else ""
    record = Leases(network.name).record()
    gateway = str(record["gateway"] if record else network.its_gateway())
    source = own if _reachable(guest) else _hosts()
    others = [line for line in source.splitlines() if re.match(r"(search|domain|options)\s", line)]
    servers = [gateway, *(address for address in names.resolvers_of(source) if address != gateway)][
        : names.MOST_SERVERS
    ]
    text = "".join(f"{line}\n" for line in [*others, *(f"nameserver {address}" for address in servers)])
    return text, "joey's name server, which knows other containers, is asked first"


def _named(guest: Guest, rich: Rich) -> Network | None:
    """The first of its networks, where that has a name server of joey's."""
    if rich.networks and rich.networks[0].partition(",")[0] == "bridge":
        network = networks([word for word in rich.networks if word != "host"])[0]
        on = network.names or "names=off" not in rich.networks[0].split(",")
        own = guest.text(_PATH).strip()
        if on and not is_foreign(network.name) and (not own or _reachable(guest) or not names.resolvers_of(own)):
            return network
    return None


def _reachable(guest: Guest) -> list[str]:
    """The machine's name servers that are not the machine itself."""
    return [address for address in names.resolvers_of(guest.text(_PATH)) if not address.startswith(("127.", "::1"))]


def _hosts() -> str:
    """The host's name servers, but for those that only the host itself reaches."""
    try:
        with open(_PATH, encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if re.match(r"(nameserver|search|domain|options)\s", line)]
    except OSError:
        return ""
    kept = [line for line in lines if not re.match(r"nameserver\s+(127\.|::1)", line)]
    return "".join(kept) if any(line.startswith("nameserver") for line in kept) else ""
