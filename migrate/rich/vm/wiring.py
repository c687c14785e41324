"""The links of the container around a virtual machine, handed on to the machine: each is bridged to a tap, and its
addresses, routes and MAC become the machine's.

All by ioctl, in the container's network namespace. Sources: netdevice(7), <linux/if_tun.h>, <linux/sockios.h>.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress

from ....compat import libc
from ....compat.constants import CLONE_NEWNET
from ....compat.errors import JoeyError, KernelError

_GET_FLAGS, _SET_FLAGS, _GET_ADDRESS, _SET_ADDRESS, _GET_NETMASK = 0x8913, 0x8914, 0x8915, 0x8916, 0x891B
_GET_MTU, _SET_MTU, _SET_MAC, _GET_MAC = 0x8921, 0x8922, 0x8924, 0x8927
_ADD_BRIDGE, _ADD_PORT = 0x89A0, 0x89A2
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_TAP, _NO_INFO, _VNET_HEADER, _UP = 0x0002, 0x1000, 0x4000, 1


class Wired:
    """A link of the machine's: its number, and what it has."""

    def __init__(self, number: int, name: str, mac: str, mtu: int, address: str, prefix: int, gateway: str) -> None:
        self.number = number
        self.name = name
        self.mac = mac
        self.mtu = mtu
        self.address = address
        self.prefix = prefix
        self.gateway = gateway

    @property
    def tap(self) -> str:
        return f"tap{self.number}"


def mac_of(number: int, name: str) -> str:
    """The address that the container's own end of a link gets, in the place of the one it hands on."""
    import hashlib

    digest = hashlib.sha256(f"{name} {number}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x4A, *digest[:4]))


def wire(pid: int, name: str) -> list[Wired]:
    """Wire the links of a process's network namespace. Raises JoeyError, OSError."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            libc.setns(namespace, CLONE_NEWNET)
            rows = [_wire(number, link, name) for number, link in enumerate(_links())]
            text = "\n".join(" ".join(map(str, vars(row).values())) for row in rows)
            os.write(writing, text.encode())
            status = 0
        except (OSError, KernelError) as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise JoeyError(f"its network can't be handed on to the machine: {text}", slug="network")
    out = []
    for line in text.splitlines():
        number, link, mac, mtu, address, prefix, gateway = line.split(" ")
        out.append(Wired(int(number), link, mac, int(mtu), address, int(prefix), gateway))
    return out


def commands(links: list[Wired]) -> str:
    """What the machine does to have them: lines for busybox's shell."""
    # whatever the kernel calls them: first out of the way, so that no name is taken
    every = " ".join(f"eth{number}" for number in range(16))
    lines = [f"for nic in {every}; do [ ! -e /sys/class/net/$nic ] || /busybox ip link set $nic name was-$nic; done"]
    for link in links:
        lines.append(f"for nic in {' '.join(f'was-{name}' for name in every.split())}; do")
        lines.append(
            f"[ ! -e /sys/class/net/$nic ] || [ $(/busybox cat /sys/class/net/$nic/address) != {link.mac} ] || break"
        )
        lines.append("done")
        lines.append(f"/busybox ip link set $nic name {link.name}")
        lines.append(f"/busybox ip link set {link.name} mtu {link.mtu} up")
        if link.address:
            lines.append(f"/busybox ip addr add {link.address}/{link.prefix} dev {link.name}")
        if link.gateway:
            lines.append(f"/busybox ip route add default via {link.gateway} dev {link.name}")
    return "\n".join(lines) + "\n"


def _links() -> list[str]:
    """Those that lead out: the kernel's own, without a MAC, are left out."""
    out = []
    for _, name in socket.if_nameindex():
        if name != "lo" and _asked(_GET_MAC, name)[16:18] == b"\x01\x00":  # ARPHRD_ETHER
            out.append(name)
    return out


def _asked(number: int, name: str, value: bytes = b"") -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, number, struct.pack("16s", name.encode()) + value + bytes(24 - len(value)))


def _address(number: int, name: str) -> str:
    try:
        return socket.inet_ntoa(_asked(number, name)[20:24])
    except OSError:
        return ""  # it has none


def _wire(number: int, name: str, machine: str) -> Wired:
    mac = _asked(_GET_MAC, name)[18:24]
    address, mask = _address(_GET_ADDRESS, name), _address(_GET_NETMASK, name)
    (mtu,) = struct.unpack_from("i", _asked(_GET_MTU, name), 16)
    prefix = sum(bin(byte).count("1") for byte in socket.inet_aton(mask)) if mask else 0
    made = Wired(number, name, mac.hex(":"), mtu, address, prefix, _gateway(name))
    _flags(name, up=False)
    if address:
        _asked(_SET_ADDRESS, name, struct.pack("=HH4s", socket.AF_INET, 0, bytes(4)))
    own = bytes.fromhex(mac_of(number, machine).replace(":", ""))
    _asked(_SET_MAC, name, struct.pack("=H", 1) + own)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = struct.pack("16sH22x", made.tap.encode(), _TAP | _NO_INFO | _VNET_HEADER)
        fcntl.ioctl(tun, _TUNSETIFF, flags)
        fcntl.ioctl(tun, _TUNSETPERSIST, 1)
    finally:
        os.close(tun)
    with suppress(OSError):
        _asked(_SET_MTU, made.tap, struct.pack("i", mtu))
    bridge = f"vm{number}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, _ADD_BRIDGE, bridge.encode() + b"\0")
        for port in (name, made.tap):
            fcntl.ioctl(sock, _ADD_PORT, struct.pack("16si20x", bridge.encode(), socket.if_nametoindex(port)))
    for link in (name, made.tap, bridge):
        _flags(link, up=True)
    return made


def _flags(name: str, up: bool) -> None:
    (flags,) = struct.unpack_from("H", _asked(_GET_FLAGS, name), 16)
    _asked(_SET_FLAGS, name, struct.pack("H", flags | _UP if up else flags & ~_UP))


def _gateway(name: str) -> str:
    """The default route by a link. Source: /proc/net/route, proc(5)."""
    with open("/proc/thread-self/net/route" if os.path.exists("/proc/thread-self") else "/proc/self/net/route") as file:
        for line in file.readlines()[1:]:
            fields = line.split()
            if fields[0] == name and fields[1] == "00000000" and int(fields[3], 16) & 2:
                return socket.inet_ntoa(struct.pack("=I", int(fields[2], 16)))
    return ""
