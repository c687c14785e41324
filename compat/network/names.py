"""A name server for the containers of one bridge: at its gateway's address it answers for their names, and asks the
name servers of the host, or those that a container brought along, for all others (RFC 1035, port 53, UDP and TCP).

It is a process of its own, which ends with the bridge. What it answers is read from the leases in that moment. Whoever
does not ask from the bridge's subnet gets no answer.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from .. import daemon, files, jsonio, process
from ..errors import JoeyError
from .leases import FOLDER, Leases
from .words import is_server

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from typing import Any

PORT = 53
_IP_FREEBIND = 15  # ip(7): an address that is not there yet
_LIVES = 5  # seconds that an answer may be kept
_PATIENCE = 3.0  # seconds for one name server of others
_MOST_QUERIES, _MOST_STREAMS = 256, 64  # at once
_QUERIES_OF_ONE, _STREAMS_OF_ONE = 32, 8
_LARGEST_DATAGRAM, _LARGEST_QUERY = 1232, 4096
MOST_SERVERS = 3  # that a C library asks: MAXNS
_ALL_PATIENCE = 8.0  # seconds for a query
_RESOLVERS = "/etc/resolv.conf"


def unfit(gateway: str, record: dict[str, Any] | None) -> str:
    """Why there can't be a name server at an address; "" where there can be, or is."""
    if record and lives(record.get("names") or {}):
        return ""
    try:
        for sock in _bound(gateway):
            sock.close()
    except OSError as error:
        return f"{gateway} port {PORT}: {error.strerror}"
    return ""


def ensure(leases: Leases, record: dict[str, Any]) -> dict[str, Any]:
    """What a network is, with its name server running. The network's lock is held. Raises JoeyError."""
    if lives(record.get("names") or {}):
        return record
    try:
        sockets = _bound(record["gateway"])
    except OSError as error:
        hint = "names=off goes without names; `ss -lnp 'sport = 53'` shows who has it"
        raise JoeyError(f"name server at {record['gateway']}: {error.strerror}", hint, "network") from None
    record = {**record, "names": {}}  # the one before is not the one that is wanted any more
    leases.keep(record)
    told, tell = os.pipe()

    def serve() -> None:
        os.write(tell, str(os.getpid()).encode())
        daemon.settle("joey-names", {sock.fileno() for sock in sockets})
        Server(leases, record["subnet"], record["gateway"]).run(*sockets)

    try:
        daemon.start(serve)
        os.close(tell)
        tell = -1
        pid = int(os.read(told, 32) or b"0")
    finally:
        os.close(told)
        if tell >= 0:
            os.close(tell)
        for sock in sockets:
            sock.close()
    return {**record, "names": {"pid": pid, "born": process.start_time(pid)}}


def stop(record: dict[str, Any]) -> None:
    """End a network's name server."""
    server = record.get("names") or {}
    if lives(server):
        os.kill(server["pid"], 9)


def lives(server: dict[str, Any]) -> bool:
    """Whether the name server of a network's record runs."""
    return bool(server.get("pid")) and process.start_time(server["pid"]) == server.get("born")


def _bound(gateway: str) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket, bound. Raises OSError."""
    out = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        out.append(sock)
        try:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((gateway, PORT))
            if kind == socket.SOCK_STREAM:
                sock.listen(16)
        except OSError:
            for made in out:
                made.close()
            raise
    return out[0], out[1]


def resolvers_of(text: str) -> list[str]:
    """The addresses of the name servers of a resolv.conf(5); as many as a C library asks."""
    out = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and is_server(words[1]):
            out.append(words[1])
    return out[:MOST_SERVERS]


class Server:
    def __init__(self, leases: Leases, subnet: str, gateway: str) -> None:
        self._leases = leases
        self._subnet = ipaddress.IPv4Network(subnet)
        self._gateway = gateway
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: dict[str, int] = {}  # by client: how many queries others are asked for
        self._streams: dict[str, int] = {}

    def run(self, datagrams: socket.socket, streams: socket.socket) -> None:
        """Serve until the network is there no more."""
        import asyncio

        asyncio.run(self._serve(datagrams, streams))

    async def _serve(self, datagrams: socket.socket, streams: socket.socket) -> None:
        import asyncio
        from typing import cast

        server = self

        class Datagrams(asyncio.DatagramProtocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                self._transport = cast("asyncio.DatagramTransport", transport)  # what 3.11 gives says less of itself

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                server.take(data, addr[0], lambda answer: self._transport.sendto(answer, addr))

        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(Datagrams, sock=datagrams)
        await asyncio.start_server(self._stream, sock=streams)
        while self._is_wanted():
            await asyncio.sleep(1)

    def _is_wanted(self) -> bool:
        try:
            record = self._leases.record()
        except JoeyError:
            return False
        # for a moment after the start it is not in the record yet
        return record is not None and (record.get("names") or {}).get("pid", os.getpid()) == os.getpid()

    def take(self, data: bytes, client: str, send: Callable[[bytes], None]) -> None:
        """Answer a query, some time. No container's questions keep another's from being answered."""
        import asyncio

        if len(data) > _LARGEST_DATAGRAM or not self._may_ask(client):
            return
        reply = self._own(data)
        if reply is not None:
            if reply:
                send(reply)
            return
        if len(self._tasks) >= _MOST_QUERIES or self._asking.get(client, 0) >= _QUERIES_OF_ONE:
            return
        self._asking[client] = self._asking.get(client, 0) + 1

        async def answer() -> None:
            try:
                send(await self._others(data, client, over_tcp=False))
            finally:
                self._done(self._asking, client)

        task = asyncio.ensure_future(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    def _done(counts: dict[str, int], client: str) -> None:
        counts[client] -= 1
        if not counts[client]:
            del counts[client]

    def _may_ask(self, client: str) -> bool:
        return ipaddress.IPv4Address(client) in self._subnet

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        import asyncio

        client = writer.get_extra_info("peername")[0]
        if not self._may_ask(client) or sum(self._streams.values()) >= _MOST_STREAMS \
                or self._streams.get(client, 0) >= _STREAMS_OF_ONE:  # fmt: skip
            writer.close()
            return
        self._streams[client] = self._streams.get(client, 0) + 1
        try:
            while True:
                size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), 10), "big")
                if size > _LARGEST_QUERY:
                    break
                data = await asyncio.wait_for(reader.readexactly(size), 10)
                reply = self._own(data)
                reply = await self._others(data, client, over_tcp=True) if reply is None else reply
                if not reply:
                    break
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await asyncio.wait_for(writer.drain(), 10)
        except (OSError, EOFError, TimeoutError):
            pass  # it has hung up, or does not go on
        finally:
            self._done(self._streams, client)
            writer.close()

    def _own(self, data: bytes) -> bytes | None:
        """The answer to a query for what is known here; b"" for what gets none, None for what others are asked."""
        import dnslib

        counts = [int.from_bytes(data[place : place + 2], "big") for place in (4, 6, 8, 10)]
        # one question and nothing else but what EDNS adds: there is nothing more to be read of it
        if len(data) < 12 or counts[:3] != [1, 0, 0] or counts[3] > 1:
            return b""
        try:
            query = dnslib.DNSRecord.parse(data)
        except Exception:  # whatever a hostile packet makes of it
            return b""
        if query.header.qr or query.header.opcode:
            return b""
        reply = query.reply(aa=1, ra=1)
        name, kind = str(query.q.qname).rstrip(".").lower(), query.q.qtype
        if name.endswith(".in-addr.arpa") and self._is_ours(name):
            found = self._name_of(".".join(reversed(name.removesuffix(".in-addr.arpa").split("."))))
            if not found:
                reply.header.rcode = dnslib.RCODE.NXDOMAIN
            elif kind in (dnslib.QTYPE.PTR, dnslib.QTYPE.ANY):
                reply.add_answer(dnslib.RR(query.q.qname, dnslib.QTYPE.PTR, ttl=_LIVES, rdata=dnslib.PTR(found)))
            return bytes(reply.pack())
        if addresses := self._addresses_of(name):
            if kind in (dnslib.QTYPE.A, dnslib.QTYPE.ANY):
                for address in addresses:
                    reply.add_answer(dnslib.RR(query.q.qname, dnslib.QTYPE.A, ttl=_LIVES, rdata=dnslib.A(address)))
            return bytes(reply.pack())
        return None

    async def _others(self, data: bytes, client: str, over_tcp: bool) -> bytes:
        """What the name servers of others say, or that none does."""
        import asyncio

        import dnslib

        deadline = asyncio.get_running_loop().time() + _ALL_PATIENCE
        for resolver in self._resolvers_for(client):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            try:
                return await asyncio.wait_for(_asked(resolver, data, over_tcp), min(left, 2 * _PATIENCE))
            except OSError:
                continue
        reply = dnslib.DNSRecord.parse(data).reply(ra=1, aa=0)
        reply.header.rcode = dnslib.RCODE.SERVFAIL
        return bytes(reply.pack())

    def _is_ours(self, name: str) -> bool:
        parts = name.removesuffix(".in-addr.arpa").split(".")
        try:
            return ipaddress.IPv4Address(".".join(reversed(parts))) in self._subnet
        except ValueError:
            return False

    def _addresses_of(self, name: str) -> list[str]:
        names = {name, name.removesuffix(".joey")}
        return [address for address, holder in self._leases.holders() if os.path.basename(holder).lower() in names]

    def _name_of(self, address: str) -> str:
        return next((os.path.basename(holder) for held, holder in self._leases.holders() if held == address), "")

    def _resolvers_for(self, client: str) -> list[str]:
        """Those that the asking container brought along; else the host's.

        None is a name server of joey's: two would ask each other, and tell a container the names of other bridges.
        """
        ours = _gateways()
        for address, holder in self._leases.holders():
            if address == client:
                try:
                    networks = jsonio.loads(files.read_text(f"{holder}/state.json"))["networks"]
                except (OSError, ValueError, LookupError):
                    break
                for entry in networks:
                    if entry.get("address") == client and entry.get("resolvers"):
                        return [word for word in entry["resolvers"][:MOST_SERVERS] if _may_be_asked(word, ours)]
        try:
            found = resolvers_of(files.read_text(_RESOLVERS))
        except (OSError, ValueError):
            found = []
        return [word for word in found or ["127.0.0.1"] if word not in ours]


def _gateways() -> set[str]:
    """The gateways of all of joey's networks, where their name servers are."""
    out = set()
    for name in os.listdir(FOLDER) if os.path.isdir(FOLDER) else []:
        try:
            record = Leases(name).record()
        except (JoeyError, OSError):
            continue
        if record:
            out.add(str(record["gateway"]))
    return out


def _may_be_asked(word: str, ours: set[str]) -> bool:
    """Whether a container's own name server is one: not this host itself."""
    address = ipaddress.ip_address(word.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return not (mapped.is_loopback or mapped.is_unspecified or str(mapped) in ours or str(mapped).startswith("0."))


async def _asked(resolver: str, data: bytes, over_tcp: bool) -> bytes:
    """What a name server of others answers, as it is. Raises OSError, a timeout being one."""
    import asyncio

    if over_tcp:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(resolver, PORT), _PATIENCE)
        try:
            writer.write(len(data).to_bytes(2, "big") + data)
            size = int.from_bytes(await asyncio.wait_for(reader.readexactly(2), _PATIENCE), "big")
            return await asyncio.wait_for(reader.readexactly(size), _PATIENCE)
        except EOFError:
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from None
        finally:
            writer.close()
    loop = asyncio.get_running_loop()
    came: asyncio.Future[bytes] = loop.create_future()

    class Answer(asyncio.DatagramProtocol):
        def datagram_received(self, received: bytes, _addr: tuple[str, int]) -> None:
            if received[:2] == data[:2] and not came.done():
                came.set_result(received)

        def error_received(self, error: Exception) -> None:
            if not came.done():
                came.set_exception(error)

    # a connected socket for each query: its port is another one each time, and only that server's answers count
    transport, _ = await loop.create_datagram_endpoint(Answer, remote_addr=(resolver, PORT))
    try:
        transport.sendto(data)
        return await asyncio.wait_for(came, _PATIENCE)
    finally:
        transport.close()
