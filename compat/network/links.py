"""Links, bridges, addresses and routes: pyroute2's netlink, and the bridge's ioctls, which are older than its netlink.

A container's links are set up from outside by a netlink socket that was opened inside: a socket belongs to the network
namespace it was opened in, whoever has it. So no setns is needed, and pyroute2 stays out of the container's process.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from struct import pack
from types import ModuleType

from ..errors import JoeyError, KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Iterator
    from typing import Any, Self

# <linux/sockios.h>: bridges by netlink are Linux 2.6.38's, ports of them 2.6.39's
_SIOCBRADDBR, _SIOCBRDELBR, _SIOCBRADDIF = 0x89A0, 0x89A1, 0x89A2


class Netlink:
    """A netlink socket of rtnetlink(7): joey's own, or one (SOCK_DGRAM) opened in a container. A context manager.

    It closes a descriptor that it is given.
    """

    def __init__(self, fd: int = -1) -> None:
        _load_pyroute2()
        from pyroute2.iproute.linux import IPRoute

        self._route: Any = IPRoute(fileno=fd) if fd >= 0 else IPRoute()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._route.close()

    def index(self, name: str) -> int:
        """A link's number; 0 where there is none."""
        return next((link["index"] for link in self._route.get_links() if link.get("ifname") == name), 0)

    def add_veth(self, name: str, peer: str, mac: str, mtu: int) -> None:
        """A pair of links; `mac` and `mtu` (0: the kernel's) are those of `peer`'s end. Raises KernelError."""
        other: dict[str, Any] = {"ifname": peer}
        if mac:
            other["address"] = mac
        size = {"mtu": mtu} if mtu else {}
        with _named(f"veth {name}"):
            self._route.link("add", ifname=name, kind="veth", peer={**other, **size}, **size)

    def move(self, name: str, pid: int) -> None:
        """Give a link to the network namespace of a process. Raises KernelError."""
        with _named(f"move {name}"):
            self._route.link("set", index=self.index(name), net_ns_pid=pid)

    def raise_link(self, name: str, new_name: str = "", mac: str = "") -> int:
        """Have a link up, under a new name or with another MAC; its number. Raises KernelError."""
        changes = {**({"ifname": new_name} if new_name else {}), **({"address": mac} if mac else {})}
        with _named(new_name or name):
            index = self.index(name)
            if changes:
                self._route.link("set", index=index, **changes)
            self._route.link("set", index=index, state="up")
        return index

    def add_address(self, index: int, address: ipaddress.IPv4Address, prefix: int) -> None:
        """Give a link an address; one that it has already is no error. Raises KernelError."""
        with _named(f"address {address}/{prefix}", errno.EEXIST):
            self._route.addr("add", index=index, address=str(address), prefixlen=prefix)

    def add_default_route(self, gateway: ipaddress.IPv4Address) -> None:
        with _named(f"default route by {gateway}"):
            self._route.route("add", dst="0.0.0.0/0", gateway=str(gateway))

    def routed(self) -> list[tuple[str, int]]:
        """What the host's main table has routes to: address, prefix; without default routes."""
        found = self._route.get_routes(family=socket.AF_INET, table=254)
        return [(item.get("RTA_DST"), item["dst_len"]) for item in found if item["dst_len"]]

    def remove(self, name: str) -> None:
        """Remove a link; one that is gone is no error. Raises KernelError."""
        if index := self.index(name):
            with _named(f"remove {name}", errno.ENODEV):
                self._route.link("del", index=index)


def _load_pyroute2() -> None:
    """Import the package pyroute2 without its own first lines: they import its database, which wants sqlite3. The host
    kit has none, and a start has no time for it.
    """
    if "pyroute2" in sys.modules:
        return
    found = find_spec("pyroute2")
    if found is None or not found.submodule_search_locations:
        raise JoeyError("pyroute2, by which links are set up, is not installed", "pip install pyroute2", "network")
    package = ModuleType("pyroute2")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["pyroute2"] = package
    import logging

    logging.getLogger("pyroute2").setLevel(logging.ERROR)  # it warns of kernels without traffic control


def exists(name: str) -> bool:
    """Whether the host has a link of this name."""
    return name in (link for _, link in socket.if_nameindex())


def is_bridge(name: str) -> bool:
    """Whether a link of the host is a bridge: then it says that no link 0 can be its port. Needs CAP_NET_ADMIN.

    Not by sysfs, which may be another network namespace's, nor by netlink, which tells bridges since Linux 2.6.38.
    """
    try:
        add_port(name, 0)
    except KernelError as error:
        return error.errno == errno.EINVAL
    return False


def add_bridge(name: str) -> None:
    """Raises KernelError."""
    _ioctl(_SIOCBRADDBR, name.encode() + b"\0", name)


def remove_bridge(name: str) -> None:
    """Remove a bridge that is down; one that is gone is no error. Raises KernelError."""
    try:
        _ioctl(_SIOCBRDELBR, name.encode() + b"\0", name)
    except KernelError as error:
        if error.errno not in (errno.ENXIO, errno.ENODEV):
            raise


def add_port(bridge: str, index: int) -> None:
    """Make a link a port of a bridge. Raises KernelError."""
    _ioctl(_SIOCBRADDIF, pack("16si20x", bridge.encode(), index), bridge)


def lower(name: str) -> None:
    """Take a link down. Raises KernelError."""
    _ioctl(0x8914, pack("16sh22x", name.encode(), 0), name)  # SIOCSIFFLAGS


def _ioctl(number: int, value: bytes, name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            fcntl.ioctl(sock.fileno(), number, value)
        except OSError as error:
            raise KernelError("ioctl of a bridge", error.errno or 0, name) from None


@contextmanager
def _named(what: str, *taken: int) -> Iterator[None]:
    """Have netlink's errors as KernelError, but for those that are `taken`."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        if error.code not in taken:
            raise KernelError("netlink", error.code, what) from None
