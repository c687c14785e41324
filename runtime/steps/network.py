"""Steps of networks: the child hands a netlink socket of its namespace over; the parent sets its links up by it."""

from __future__ import annotations

import _socket
import errno
import ipaddress
import os
from binascii import crc32

from ...compat import terminal
from ...compat.errors import JoeyError, KernelError, UsageError
from ...compat.network import attachments, cni, links, names, nat
from ...compat.network.leases import Leases
from ...compat.network.words import Network
from .. import log
from ..channel import Channel
from ..network import is_foreign, take_down
from ..state import State
from . import Step
from .cloning import NewProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WORD = b"network"


class HandOverNetwork(Step):
    """Open a netlink socket in the container's network namespace, and send it to the parent."""

    __slots__ = ("channel",)

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def describe(self) -> str:
        return "hand a netlink socket of the network namespace over"

    def run(self) -> None:
        # SOCK_DGRAM, which pyroute2 wants; to the kernel it is the same as SOCK_RAW
        sock = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
        try:
            terminal.send_fd(self.channel.socket, sock.fileno(), WORD)
        finally:
            sock.close()


class AttachNetworks(Step):
    """Attach the container to its networks, in order. What was done is in its state before it is done."""

    __slots__ = ("_fd", "clone", "networks", "serves_names", "state", "tool")

    def __init__(self, clone: NewProcess, state: State, networks: list[Network], tool: str, serves_names: bool) -> None:
        self.clone = clone
        self.state = state
        self.networks = networks
        self.tool = tool  # the mechanism of network.nat: a program, "none", or "" where nothing needs it
        self.serves_names = serves_names  # whether a name server can be had
        self._fd = -1
        clone.channel.takes[WORD] = self._take

    def describe(self) -> str:
        return "attach it to " + ", ".join(f"{network.kind} {network.name}" for network in self.networks)

    def _take(self, fd: int) -> None:
        self._fd = os.dup(fd)

    def run(self) -> None:
        self.clone.wait_for(WORD)
        if self._fd < 0:
            raise JoeyError("the process sent no socket")
        fd, self._fd = self._fd, -1
        try:
            with links.Netlink(fd) as inside:
                for place, network in enumerate(self.networks):
                    if network.kind == "cni":
                        self._by_plugins(network)
                    else:
                        self._to_bridge(network, inside, is_first=place == 0)
        except KernelError as error:
            if error.errno == errno.ESRCH:  # the process has ended meanwhile, and said why
                self.clone.wait_for(b"never")
            raise

    def undo(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        take_down(self.state)

    def _record(self, entry: dict[str, Any]) -> None:
        self.state.networks.append(entry)
        self.state.save()

    def _by_plugins(self, network: Network) -> None:
        config = cni.find(network.name)
        unique = crc32(self.state.folder.encode())
        name = f"{self.state.id.lstrip('_-.+').replace('+', '.')}-{unique:08x}"
        path = cni.namespace_path(f"{name}-{network.link}")
        entry: dict[str, Any] = {"kind": "cni", "name": config["name"], "link": network.link, "list": config}
        entry.update({"container": name, "namespace": path})
        with attachments.locked():
            attachments.collect(log.warn)
            self._record(entry)
            attachments.keep(entry, self.state.folder)
        cni.keep_namespace(path, self.clone.pid)
        entry["result"] = cni.Attachment(config, name, path, network.link).add()
        entry["shown"] = ", ".join(cni.addresses(entry["result"]))
        self.state.save()
        attachments.keep(entry, self.state.folder)

    def _to_bridge(self, network: Network, inside: links.Netlink, is_first: bool) -> None:
        port = f"jv{crc32(f'{self.state.folder} {network.link}'.encode()):08x}"
        entry: dict[str, Any] = {"kind": "bridge", "name": network.name, "link": network.link, "port": port}
        with links.Netlink() as outside, Leases(network.name).locked():
            if is_foreign(network.name):
                prefix, gateway = self._on_foreign_bridge(network, entry)
            else:
                prefix, gateway = self._on_own_bridge(network, entry, outside)
            self._join(network, entry, outside)
        index = inside.raise_link(f"{port}p", network.link)
        address = ipaddress.IPv4Address(entry["address"])
        inside.add_address(index, address, prefix)
        if gateway and is_first:
            inside.add_default_route(gateway)

    def _on_foreign_bridge(self, network: Network, entry: dict[str, Any]) -> tuple[int, ipaddress.IPv4Address | None]:
        """Somebody else's bridge gets a port: addresses there are the user's to say."""
        if network.names:
            raise UsageError(f"network {network.name}: names are known on bridges that joey made", "leave names=on out")
        prefix = network.prefix or (network.subnet.prefixlen if network.subnet else 0)
        if network.address is None or not prefix:
            raise UsageError(
                f"network {network.name}: a bridge that joey did not make", "say address=ADDRESS/PREFIX, and gateway="
            )
        shown = f"{network.address}/{prefix}"
        gateway = str(network.gateway or "")
        entry.update({"foreign": True, "address": str(network.address), "shown": shown, "gateway": gateway})
        self._record(entry)
        return prefix, network.gateway

    def _on_own_bridge(
        self, network: Network, entry: dict[str, Any], outside: links.Netlink
    ) -> tuple[int, ipaddress.IPv4Address]:
        """A lease of a bridge of joey's, which is made where it is not there."""
        leases = Leases(network.name)
        record = leases.record()
        if record and not links.is_bridge(network.name) and not leases.taken():
            leases.forget()  # of before a reboot, or removed by hand
            record = None
        if record is None:
            record = _described(network, outside, self.tool)
            leases.keep(record)
        _check_like(network, record)
        subnet, gateway = ipaddress.IPv4Network(record["subnet"]), ipaddress.IPv4Address(record["gateway"])
        if network.address is None:
            address = leases.choose(subnet, gateway, record.get("last", ""), network.prefer)
        else:
            address = str(network.address)
            if network.address not in subnet or network.address in (
                gateway, subnet.network_address, subnet.broadcast_address
            ):  # fmt: skip
                raise UsageError(f"network {network.name}: {address} is no address for a container of {subnet}")
            if address in leases.taken():
                hint = "`joey list` and `joey state` show by whom"
                raise JoeyError(f"network {network.name}: {address} is taken", hint, "network")
        shown = f"{address}/{subnet.prefixlen}"
        entry.update({"foreign": False, "address": address, "shown": shown, "gateway": str(gateway)})
        if network.resolvers:
            entry["resolvers"] = network.resolvers
        self._record(entry)
        leases.take(address, self.state.folder)
        record = {**record, "last": address}
        leases.keep(record)
        if not links.is_bridge(network.name):
            _make_bridge(network.name, record, outside)
        if network.names and self.serves_names:
            leases.keep(names.ensure(leases, record))
            nat.open_names(record["nat"], network.name, record["gateway"])
        return subnet.prefixlen, gateway

    def _join(self, network: Network, entry: dict[str, Any], outside: links.Netlink) -> None:
        port, peer = entry["port"], f"{entry['port']}p"
        outside.remove(port)  # of a start that was killed
        mac = network.mac or _mac(ipaddress.IPv4Address(entry["address"]))
        outside.add_veth(port, peer, mac, network.mtu)
        links.add_port(network.name, outside.index(port))
        outside.move(peer, self.clone.pid)
        outside.raise_link(port)


def _described(network: Network, outside: links.Netlink, tool: str) -> dict[str, Any]:
    """What a new bridge's network is. Raises JoeyError where its subnet is another one's already."""
    if links.exists(network.name):
        raise UsageError(
            f"network {network.name}: there is a link of this name that is no bridge", "take another name="
        )
    subnet = network.its_subnet()
    for address, prefix in outside.routed():
        if subnet.overlaps(ipaddress.IPv4Network(f"{address}/{prefix}", strict=False)):
            hint = "take another one with subnet=, and name= for its bridge"
            raise JoeyError(
                f"network {network.name}: the host has a route to {address}/{prefix}, which overlaps {subnet}",
                hint,
                "network",
            )
    gateway = network.its_gateway()
    if gateway not in subnet:
        raise UsageError(f"network {network.name}: gateway {gateway} is not in {subnet}")
    way = tool if network.nat and tool != "none" else ""
    return {"subnet": str(subnet), "gateway": str(gateway), "nat": way}


def _check_like(network: Network, record: dict[str, Any]) -> None:
    """A network that is there is not changed by a container that asks for another. Raises JoeyError."""
    for what, asked in (("subnet", network.subnet), ("gateway", network.gateway)):
        if asked and str(asked) != str(record[what]):
            raise JoeyError(
                f"network {network.name}: its {what} is {record[what]}, not {asked}",
                "it is as its first container asked; take another name=",
                "network",
            )


def _make_bridge(name: str, record: dict[str, Any], outside: links.Netlink) -> None:
    gateway = ipaddress.IPv4Address(record["gateway"])
    links.add_bridge(name)
    # a MAC of its own: else it changes with every port, and neighbours lose it for a while
    index = outside.raise_link(name, mac=_mac(gateway))
    outside.add_address(index, gateway, ipaddress.IPv4Network(record["subnet"]).prefixlen)
    if record["nat"]:
        if nat.switch_forwarding_on():
            log.warn("net.ipv4.ip_forward is switched on, so that the container's network leads beyond the host")
        nat.open_way(record["nat"], name, record["subnet"])


def _mac(address: ipaddress.IPv4Address) -> str:
    """A locally administered MAC address, by the IP address, as docker makes them."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x42, *address.packed))
