"""Names of containers: joey's name server on its bridge, asked by busybox and glibc, with a real dnsmasq behind it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dnslib
import pytest

from joey.compat.network import names
from joey.compat.network.leases import Leases

from ..conftest import MakeBundle
from .host import BEYOND, Host

pytestmark = pytest.mark.root

GATEWAY = "10.71.0.1"


@pytest.fixture
def dns(host: Host, tmp_path: Path) -> Iterator[Host]:
    """The host's name server is its neighbour: a dnsmasq that knows names below example.test."""
    command = [*host.beyond, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
               "--user=root", "--pid-file=", f"--listen-address={BEYOND}", "--bind-interfaces",
               "--address=/example.test/203.0.113.5", "--txt-record=large.example.test," + ",".join(["x" * 250] * 8)]  # fmt: skip
    file = tmp_path / "resolv.conf"
    file.write_text(f"nameserver {BEYOND}\n")
    host.call("mount", "--bind", str(file), "/etc/resolv.conf")
    with subprocess.Popen(command) as server:
        yield host
        server.terminate()


def asked(host: Host, name: str, kind: str = "A", tcp: bool = False) -> dnslib.DNSRecord:
    """The answer to a query from the host itself."""
    query = dnslib.DNSRecord.question(name, kind).pack()
    return dnslib.DNSRecord.parse(sent(host, query, tcp))


def sent(host: Host, data: bytes, tcp: bool = False, wait: float = 8.0) -> bytes:
    program = (
        "import socket, sys\n"
        f"s = socket.socket(socket.AF_INET, socket.{'SOCK_STREAM' if tcp else 'SOCK_DGRAM'})\n"
        f"s.settimeout({wait}); s.connect(('{GATEWAY}', 53)); s.sendall(bytes.fromhex(sys.argv[1]))\n"
        "try: data = s.recv(65535)\n"
        "except OSError: data = b''\n"
        "while data and len(data) < 2 + int.from_bytes(data[:2], 'big') and s.type == socket.SOCK_STREAM:\n"
        "    data += s.recv(65535)\n"
        "print(data.hex())"
    )
    framed = len(data).to_bytes(2, "big") + data if tcp else data
    out = bytes.fromhex(host.call(sys.executable, "-c", program, framed.hex()).strip())
    return out[2:] if tcp else out


def served(host: Host, bundle: MakeBundle, name: str = "", *words: str) -> str:
    name = name or host.id()
    host.ids.append(name)
    host("run", "-d", "-b", str(bundle("sleep", "100")), "--network", "bridge,names=on", *words, name)
    return name


def test_containers_are_known_by_name(dns: Host, bundle: MakeBundle) -> None:
    first = served(dns, bundle)
    script = f"ask() {{ busybox nslookup $@; }}; ask {first} {GATEWAY}; ask {first.upper()}.joey {GATEWAY}; ask 10.71.0.2 {GATEWAY}; ask -type=a www.example.test {GATEWAY}"
    out = dns("run", "-b", str(bundle("sh", "-c", script)), "--network", "bridge", dns.id()).stdout
    assert out.count("10.71.0.2") >= 2
    assert f"name = {first}" in out
    assert "203.0.113.5" in out, "other names are asked of the host's name server"
    assert asked(dns, first, "AAAA").header.rcode == dnslib.RCODE.NOERROR
    assert asked(dns, first, "AAAA").rr == []
    assert asked(dns, "77.0.71.10.in-addr.arpa", "PTR").header.rcode == dnslib.RCODE.NXDOMAIN
    dns("delete", "--force", first)
    assert "10.71.0" not in dns.call("ss", "-Hlnut"), "the name server goes with the last container"


def test_glibc_finds_them(dns: Host, bundle: MakeBundle, tmp_path: Path) -> None:
    """The host's own programs, with a resolv.conf as rich containers have it."""
    first = served(dns, bundle)
    (tmp_path / "resolv.conf").write_text(f"nameserver {GATEWAY}\nnameserver {BEYOND}\n")
    assert dns.call("getent", "ahostsv4", first).split()[0] == "10.71.0.2"
    assert dns.call("getent", "hosts", "10.71.0.2").split() == ["10.71.0.2", first]


@pytest.mark.slow
def test_what_is_too_large_for_a_datagram(dns: Host, bundle: MakeBundle) -> None:
    served(dns, bundle)
    assert asked(dns, "large.example.test", "TXT").header.tc
    assert len(str(asked(dns, "large.example.test", "TXT", tcp=True).rr[0].rdata)) > 2000


@pytest.mark.slow
def test_a_containers_own_name_servers(host: Host, bundle: MakeBundle, tmp_path: Path) -> None:
    """The host has none that answers; this container's does."""
    file = tmp_path / "none"
    file.write_text("nameserver 192.0.2.77\n")
    host.call("mount", "--bind", str(file), "/etc/resolv.conf")
    command = [*host.beyond, "dnsmasq", "-k", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
               "--pid-file=", f"--listen-address={BEYOND}", "--bind-interfaces", "--address=/own.test/203.0.113.6"]  # fmt: skip
    words = f"bridge,names=on,resolvers={BEYOND}"
    folder = bundle("busybox", "nslookup", "-type=a", "www.own.test", GATEWAY)
    with subprocess.Popen(command) as server:
        out = host("run", "-b", str(folder), "--network", words, host.id(), check=False).stdout
        server.terminate()
    assert "203.0.113.6" in out


def test_hostile_packets(dns: Host, bundle: MakeBundle) -> None:
    first = served(dns, bundle)
    head = bytes.fromhex("123401000001000000000000")
    packets = [b"", b"\0", b"\xff" * 512, head, head + b"\xc0\x0c\0\1\0\1", head + b"\x3f" + b"a" * 10,
               bytes.fromhex("123481000001000000000000") + b"\1a\0\0\1\0\1", head + b"\3\xff\xfe\xfd\0\0\1\0\1"]  # fmt: skip
    for packet in packets:
        assert sent(dns, packet, wait=0.2) == b""
        assert sent(dns, packet, tcp=True, wait=0.2) == b""
    pointers = b"".join((0xC000 | max(12, 12 + 2 * n - 2)).to_bytes(2, "big") for n in range(5000))
    assert sent(dns, head + b"\1a" + pointers, tcp=True, wait=0.5) == b""
    assert [str(rr.rdata) for rr in asked(dns, first).rr] == ["10.71.0.2"]


@pytest.mark.slow
def test_nobody_else_is_answered(dns: Host, bundle: MakeBundle) -> None:
    """A host beyond that has a route to the bridge's network."""
    first = served(dns, bundle)
    subprocess.run([*dns.beyond, "ip", "route", "add", "10.71.0.0/24", "via", "192.0.2.1"], check=True)
    program = f"import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(1); s.sendto(bytes.fromhex(sys.argv[1]), ('{GATEWAY}', 53))\nprint(s.recv(512))"
    query = dnslib.DNSRecord.question(first).pack().hex()
    done = subprocess.run([*dns.beyond, sys.executable, "-c", program, query], capture_output=True, text=True, check=False)  # fmt: skip
    assert "timed out" in done.stderr


@pytest.mark.slow
def test_a_firewall_that_drops(dns: Host, bundle: MakeBundle) -> None:
    dns.call("iptables", "-P", "INPUT", "DROP")
    dns.call("iptables", "-A", "INPUT", "-i", "up0", "-j", "ACCEPT")
    first = served(dns, bundle)
    out = dns("run", "-b", str(bundle("busybox", "nslookup", first, GATEWAY)), "--network", "bridge", dns.id()).stdout
    assert "10.71.0.2" in out


def test_a_port_that_is_taken_is_a_loss(dns: Host, bundle: MakeBundle) -> None:
    program = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 53)); print(flush=True); time.sleep(60)"
    with subprocess.Popen([*dns.enter, sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        done = dns("run", "-b", str(bundle("true")), "--network", "bridge,names=on", dns.id())
        other.kill()
    assert "names of other containers are not known inside" in done.stderr


@pytest.mark.slow
def test_a_killed_name_server_comes_back(dns: Host, bundle: MakeBundle) -> None:
    first = served(dns, bundle)
    record = json.loads(dns.call("cat", "/run/joey/networks/joey0/network.json"))
    subprocess.run(["kill", "-9", str(record["names"]["pid"])], check=True)
    deadline = time.monotonic() + 5
    while "10.71.0" in dns.call("ss", "-Hlnu") and time.monotonic() < deadline:
        time.sleep(0.02)
    served(dns, bundle)
    assert [str(rr.rdata) for rr in asked(dns, first).rr] == ["10.71.0.2"]


@pytest.mark.slow
def test_names_of_another_bridge_are_not_told(dns: Host, bundle: MakeBundle) -> None:
    """Though a container names that bridge's name server as its own."""
    name = dns.id()
    words = "bridge,name=other0,subnet=10.99.0.0/24,names=on"
    dns("run", "-d", "-b", str(bundle("sleep", "100")), "--network", words, name)
    asks = f"busybox nslookup -type=a {name} {GATEWAY}"
    for resolvers, is_known in ((BEYOND, False), ("10.99.0.1", False), (f"10.99.0.1+{BEYOND}", False)):
        words = f"bridge,names=on,resolvers={resolvers}"
        out = dns("run", "-b", str(bundle("sh", "-c", asks)), "--network", words, dns.id(), check=False).stdout
        assert ("10.99.0.2" in out) is is_known
    asks = f"busybox nslookup -type=a {name} 10.99.0.1"
    words = "bridge,name=other0,names=on"
    assert "10.99.0.2" in dns("run", "-b", str(bundle("sh", "-c", asks)), "--network", words, dns.id()).stdout


@pytest.mark.parametrize("word", ["fe80::1%x;bridge", "fe80::1%x,link=eth7", "10.0.0.1%eth0", "x", "fe80::1%"])
def test_what_is_no_name_server(word: str) -> None:
    """An image's file says it; it becomes a word of a network."""
    assert names.resolvers_of(f"nameserver {word}\nnameserver 10.0.0.1\n") == ["10.0.0.1"]
    assert names.resolvers_of("".join(f"nameserver 10.0.0.{number}\n" for number in range(9))) == [
        "10.0.0.0", "10.0.0.1", "10.0.0.2"
    ]  # fmt: skip


@pytest.mark.slow
def test_many_at_once(dns: Host, bundle: MakeBundle, tmp_path: Path) -> None:
    """More than are taken at once, of a name server that does not answer: the others go on to be answered."""
    first = served(dns, bundle)
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.77\n")
    program = f"import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nfor n in range(2000): s.sendto(n.to_bytes(2, 'big') + bytes.fromhex(sys.argv[1])[2:], ('{GATEWAY}', 53))"
    dns.call(sys.executable, "-c", program, dnslib.DNSRecord.question("www.example.test").pack().hex())
    deadline = time.monotonic() + 10
    while not (answer := sent(dns, dnslib.DNSRecord.question(first).pack(), wait=0.5)):
        assert time.monotonic() < deadline
    assert str(dnslib.DNSRecord.parse(answer).rr[0].rdata) == "10.71.0.2"


def test_a_server_that_is_started_again_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the moment of its start, be it quicker than whoever starts it: what is recorded is not the one before."""
    leases = Leases("none")
    leases.folder = str(tmp_path / "leases")
    record = {"subnet": "127.53.53.0/24", "gateway": "127.53.53.1", "nat": "", "names": {"pid": 1, "born": -1}}
    leases.keep(record)
    seen = []

    def start(_body: object) -> None:
        seen.append(names.Server(leases, "127.53.53.0/24", "127.53.53.1")._is_wanted())

    monkeypatch.setattr("joey.compat.daemon.start", start)
    names.ensure(leases, record)
    assert seen == [True]
