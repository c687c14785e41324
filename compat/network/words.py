"""Networks as words of a command line.

none                                   the loopback link alone
bridge                                 joey's own bridge, joey0, with an address of its subnet
bridge,address=10.71.0.9,mac=52:54:00:12:34:56
bridge,prefer=10.71.0.9                that address where nobody has it, else another
bridge,name=shop0,subnet=10.80.0.0/24,nat=off
bridge,name=br0,address=192.168.1.9/24,gateway=192.168.1.1
                                       a bridge that somebody else made
bridge,names=on,resolvers=10.0.0.2+10.0.0.3
                                       a name server that knows containers, and asks these for other names
cni,name=podman                        the plugins of a CNI list
"""

from __future__ import annotations

import ipaddress
import re

from ..errors import UsageError

HINT = (
    "networks: none; bridge[,name=,subnet=,address=,prefer=,gateway=,mac=,mtu=,nat=off,names=on,resolvers=,link=]; "
    "cni,name="
)
BRIDGE, SUBNET = "joey0", "10.71.0.0/24"
_KEYS = {
    "none": (),
    "bridge": ("name", "subnet", "address", "prefer", "gateway", "mac", "mtu", "nat", "names", "resolvers", "link"),
    "cni": ("name", "link"),
}
_LINK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


class Network:
    """What one word asks for. `kind` is "bridge" or "cni"; `link` is its name inside; "" and None: not said.

    `address` has its subnet's prefix where the word gave one.
    """

    __slots__ = ("address", "gateway", "kind", "link", "mac", "mtu", "name", "names", "nat", "prefer", "prefix",
                 "resolvers", "subnet")  # fmt: skip

    def __init__(self, kind: str, name: str, link: str) -> None:
        self.kind = kind
        self.name = name
        self.link = link
        self.subnet: ipaddress.IPv4Network | None = None
        self.address: ipaddress.IPv4Address | None = None
        self.prefer: ipaddress.IPv4Address | None = None
        self.prefix = 0
        self.gateway: ipaddress.IPv4Address | None = None
        self.mac = ""
        self.mtu = 0
        self.nat = True
        self.names = False
        self.resolvers: list[str] = []

    def its_subnet(self) -> ipaddress.IPv4Network:
        """The subnet of a bridge that is made for it."""
        return self.subnet or ipaddress.IPv4Network(SUBNET)

    def its_gateway(self) -> ipaddress.IPv4Address:
        """The gateway of a bridge that is made for it."""
        return self.gateway or self.its_subnet()[1]


def networks(words: list[str]) -> list[Network]:
    """The networks of a container, in order; their links are eth0, eth1 and so on unless named. Raises UsageError."""
    out: list[Network] = []
    for word in words:
        kind, *options = word.split(",")
        if kind not in _KEYS:
            raise UsageError(f'network "{word}": "{kind}" is no kind of network', HINT)
        if kind == "none":
            if options or len(words) > 1:
                raise UsageError(f'network "{word}": "none" stands alone', HINT)
            return []
        out.append(_network(word, kind, options, f"eth{len(out)}"))
    for place, network in enumerate(out):
        if any(network.link == other.link for other in out[:place]):
            raise UsageError(f'network "{words[place]}": there are two links {network.link}', "name one with link=")
    return out


def _network(word: str, kind: str, options: list[str], link: str) -> Network:
    values: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if key not in _KEYS[kind] or not equals or not value:
            raise UsageError(f'network "{word}": "{option}" is no option of {kind}', HINT)
        if key in values:
            raise UsageError(f'network "{word}": {key} is given twice', HINT)
        values[key] = value
    network = Network(kind, values.get("name", BRIDGE), values.get("link", link))
    if not is_link_name(network.link) or network.link == "lo":
        raise UsageError(f'network "{word}": "{network.link}" is no name for a link', HINT)
    if kind == "cni":
        if "name" not in values:
            raise UsageError(f'network "{word}": the CNI list\'s name is missing', HINT)
        return network
    if not is_link_name(network.name):
        raise UsageError(f'network "{word}": "{network.name}" is no name for a bridge', HINT)
    try:
        _read_addresses(network, values)
    except ValueError as error:
        raise UsageError(f'network "{word}": {error}', HINT) from None
    if network.mac and not (_MAC.fullmatch(network.mac) and int(network.mac[:2], 16) & 1 == 0):
        raise UsageError(f'network "{word}": "{network.mac}" is no MAC address of a link', HINT)
    return network


def is_link_name(name: str) -> bool:
    """Whether the kernel takes a name for a link, and so does a file name. Source: dev_valid_name()."""
    return _LINK.fullmatch(name) is not None


def is_server(word: str) -> bool:
    """Whether a word is the address of a name server, and nothing else: it may be an image's."""
    address, percent, zone = word.partition("%")
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    return not percent or (version == 6 and is_link_name(zone))


def _read_addresses(network: Network, values: dict[str, str]) -> None:
    if "subnet" in values:
        network.subnet = ipaddress.IPv4Network(values["subnet"])
        if network.subnet.prefixlen > 30:
            raise ValueError(f"subnet {network.subnet} has no room")
    if "address" in values:
        address, slash, prefix = values["address"].partition("/")
        network.address = ipaddress.IPv4Address(address)
        if slash:
            network.prefix = ipaddress.IPv4Network(f"0.0.0.0/{prefix}").prefixlen
    if "prefer" in values:
        network.prefer = ipaddress.IPv4Address(values["prefer"])
    if "gateway" in values:
        network.gateway = ipaddress.IPv4Address(values["gateway"])
    if "mtu" in values:
        if not values["mtu"].isdigit() or not 68 <= int(values["mtu"]) <= 65535:
            raise ValueError(f'"{values["mtu"]}" is no MTU (68 to 65535)')
        network.mtu = int(values["mtu"])
    for key in ("nat", "names"):
        if values.get(key, "on") not in ("on", "off"):
            raise ValueError(f'{key} is on or off, not "{values[key]}"')
    network.nat = values.get("nat", "on") == "on"
    network.names = values.get("names", "off") == "on"
    network.resolvers = values["resolvers"].split("+") if "resolvers" in values else []
    for resolver in network.resolvers:
        if not is_server(resolver):
            raise ValueError(f'"{resolver}" is no name server')
    network.mac = values.get("mac", "").lower()
