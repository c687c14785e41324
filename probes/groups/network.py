"""Links, moves between network namespaces, packet filters: all of it inside a network namespace of the probe's own."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from struct import pack

from ...compat import libc
from ...compat.constants import CLONE_NEWNET, SIGCHLD
from ...compat.errors import KernelError
from ..catalog import Answer, Answered, Group
from ..trying import become_namespace_root, private_namespaces

GROUP = Group("network", "network")

RTM_NEWLINK = 16
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL = 1, 4, 0x400, 0x200
IFLA_IFNAME, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_NET_NS_FD = 3, 18, 19, 28


def _attribute(kind: int, data: bytes) -> bytes:
    return pack("=HH", len(data) + 4, kind) + data + bytes(-len(data) % 4)


def _request(protocol: int, kind: int, flags: int, body: bytes) -> None:
    """Send one netlink message and read its acknowledgement. Raises KernelError. Source: netlink(7), rtnetlink(7)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.sendto(pack("=IHHII", len(body) + 16, kind, flags | NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body, (0, 0))
        answer = sock.recv(65536)
    number = int.from_bytes(answer[16:20], "little", signed=True)
    if int.from_bytes(answer[4:6], "little") == 2 and number:
        raise KernelError("netlink", -number)


def _add_link(kind: str, name: str = "probe0", extra: bytes = b"") -> None:
    info = _attribute(1, kind.encode()) + extra
    body = (
        pack("=BxHiII", 0, 0, 0, 0, 0)
        + _attribute(IFLA_IFNAME, name.encode() + b"\0")
        + _attribute(IFLA_LINKINFO, info)
    )
    _request(0, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def _own_network() -> None:
    if os.geteuid() == 0:
        libc.unshare(CLONE_NEWNET)
    else:
        become_namespace_root(CLONE_NEWNET)


def _link(kind: str) -> Callable[[], Answer]:
    def attempt() -> Answer:
        _own_network()
        _add_link(kind)
        return None

    return attempt


for _kind, _cost in (
    ("veth", "no network of its own but lo"),
    ("dummy", "nothing for containers"),
):
    GROUP.probe(f"net.{_kind}", f"RTM_NEWLINK {_kind}", _cost)(_link(_kind))


@GROUP.probe("net.bridge", "ioctl(SIOCBRADDBR)", "no bridge network")
def bridge() -> Answer:
    """By its ioctl, which every kernel has; netlink makes bridges since Linux 2.6.38."""
    _own_network()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock.fileno(), 0x89A0, b"probe0\0")
    return None


def _on_dummy(kind: str) -> Callable[[], Answer]:
    def attempt() -> Answer:
        _own_network()
        _add_link("dummy")
        index = socket.if_nametoindex("probe0")
        body = pack("=BxHiII", 0, 0, 0, 0, 0) + _attribute(IFLA_IFNAME, b"probe1\0") + _attribute(5, pack("=I", index))
        _request(
            0, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + _attribute(IFLA_LINKINFO, _attribute(1, kind.encode()))
        )
        return None

    return attempt


GROUP.probe("net.macvlan", "RTM_NEWLINK macvlan", "no addresses of the host's network")(_on_dummy("macvlan"))
GROUP.probe("net.ipvlan", "RTM_NEWLINK ipvlan", "no addresses of the host's network on one MAC")(_on_dummy("ipvlan"))


def _move(by_fd: bool) -> Callable[[], Answer]:
    def attempt() -> Answer:
        _own_network()
        _add_link("veth")
        read_end, write_end = os.pipe()
        pid = libc.clone(CLONE_NEWNET | SIGCHLD)
        if pid == 0:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)
        try:
            index = socket.if_nametoindex("probe0")
            if by_fd:
                target = _attribute(IFLA_NET_NS_FD, pack("=I", os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)))
            else:
                target = _attribute(IFLA_NET_NS_PID, pack("=I", pid))
            _request(0, RTM_NEWLINK, 0, pack("=BxHiII", 0, 0, index, 0, 0) + target)
            try:
                socket.if_nametoindex("probe0")
            except OSError:
                return None
            raise Answered("broken", "the link is still here")
        finally:
            os.close(write_end)
            os.waitpid(pid, 0)

    return attempt


GROUP.probe("net.move-by-pid", "IFLA_NET_NS_PID", "no links for containers")(_move(by_fd=False))
GROUP.probe("net.move-by-fd", "IFLA_NET_NS_FD (Linux 3.0)", "links are moved by pid")(_move(by_fd=True))


@GROUP.probe("net.tun", "open(/dev/net/tun)", "no VPNs, no user-mode networks", alone=False)
def tun() -> Answer:
    os.close(os.open("/dev/net/tun", os.O_RDWR))
    return None


def _get_info(sock: socket.socket, level: int, name: bytes) -> bool:
    """IPT_SO_GET_INFO takes the table's name in the buffer it answers in, which Python's getsockopt can't pass."""
    import ctypes

    buffer = ctypes.create_string_buffer(name, 84)
    length = ctypes.c_uint32(84)
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library["getsockopt"](sock.fileno(), level, 64, buffer, ctypes.byref(length)) == 0)


@GROUP.probe("net.iptables", "getsockopt(IPT_SO_GET_INFO)", "no NAT by iptables-legacy")
def iptables() -> Answer:
    _own_network()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 255) as sock:
        for table in (b"nat", b"filter"):
            if _get_info(sock, 0, table):
                return f"table {table.decode()}"
    raise Answered("absent", "no nat or filter table (modules may not be loaded)")


@GROUP.probe("net.ip6tables", "getsockopt(IP6T_SO_GET_INFO)", "no IPv6 NAT by ip6tables-legacy")
def ip6tables() -> Answer:
    _own_network()
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, 255) as sock:
        for table in (b"nat", b"filter"):
            if _get_info(sock, 41, table):
                return f"table {table.decode()}"
    raise Answered("absent", "no nat or filter table (modules may not be loaded)")


@GROUP.probe("net.nftables", "netlink NFT_MSG_GETGEN", "no NAT by nft or iptables-nft")
def nftables() -> Answer:
    _own_network()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.sendto(pack("=IHHII", 20, 10 << 8 | 16, NLM_F_REQUEST, 1, 0) + bytes(4), (0, 0))
        answer = sock.recv(65536)
    number = int.from_bytes(answer[16:20], "little", signed=True)
    if int.from_bytes(answer[4:6], "little") == 2 and number:
        raise KernelError("netlink", -number)
    return None


@GROUP.probe("net.ipv6", "socket(AF_INET6)", "no IPv6", alone=False)
def ipv6() -> Answer:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::1", 0))
    return None


@GROUP.probe("net.sysctl", "/proc/sys/net of a network namespace", "net sysctls of the container are refused")
def net_sysctl() -> Answer:
    private_namespaces(CLONE_NEWNET)
    path = "/proc/sys/net/ipv4/ip_forward"
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)
    return None
