"""Blobs from one host to others: a small server of a folder of them, and what takes them from it.

TLS with a certificate and a token that are made for one roll-out and known to its hosts alone. A blob is its SHA-256's,
whoever gives it. Source: RFC 9110; ssl, http.server and http.client of Python.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import os
import re
import shutil
import socket
import socketserver
import ssl
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from typing import IO, Any

from ...compat.errors import JoeyError

_BLOB = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1 << 18
_PATIENCE = 20  # seconds without a byte
_MOST = 16  # connections
_OLDEST = 24 * 3600  # seconds that blobs are given, whatever becomes of who asked for it
_LARGEST_REQUEST = 4 << 20


class SharingError(JoeyError):
    """Blobs can't be given, or taken."""

    slug = "sharing"


def request(stream: IO[bytes]) -> dict[str, Any]:
    """The first line of a stream: an object. Raises SharingError."""
    try:
        found = json.loads(stream.readline(_LARGEST_REQUEST))
        if isinstance(found, dict):
            return found
    except (ValueError, RecursionError):
        pass
    raise SharingError("what is to be shared is told by a line of JSON", "joey fleet run --share does")


def _blobs(given: dict[str, Any]) -> dict[str, int]:
    found = given.get("blobs")
    if not isinstance(found, dict) or not all(
        _BLOB.fullmatch(name) and isinstance(size, int) and 0 <= size < 1 << 62 for name, size in found.items()
    ):
        raise SharingError('"blobs" is an object of SHA-256 sums and sizes')
    return found


def _word(given: dict[str, Any], key: str) -> str:
    word = given.get(key)
    if not isinstance(word, str) or not word.isascii():
        raise SharingError(f'there is no "{key}"')
    return word


# --- giving ---------------------------------------------------------------------------------------------------------


def share(folder: str, stream: IO[bytes]) -> None:
    """Serve blobs of a folder until a stream, which first says which, comes to its end.

    Its first line: {"certificate", "key", "token", "blobs": {SHA-256: size}}. The port is printed. Raises SharingError.
    """
    given = request(stream)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.NamedTemporaryFile("w") as file:  # by a path only
        file.write(_word(given, "certificate") + _word(given, "key"))
        file.flush()
        try:
            context.load_cert_chain(file.name)
        except ssl.SSLError as error:
            raise SharingError(f"the certificate is none: {error}") from None
    with _Server(folder, set(_blobs(given)), _word(given, "token"), context) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        oldest = threading.Timer(_OLDEST, os._exit, (1,))
        oldest.daemon = True
        oldest.start()
        print(server.server_address[1], flush=True)
        while stream.read(4096):
            pass
        server.shutdown()


class _Server(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6  # IPv4 comes there, too
    daemon_threads = True
    block_on_close = False
    request_queue_size = _MOST

    def __init__(self, folder: str, names: set[str], token: str, context: ssl.SSLContext) -> None:
        self.folder = folder
        self.names = names
        self.token = f"Bearer {token}"
        self._context = context
        self._places = threading.BoundedSemaphore(_MOST)
        try:
            super().__init__(("::", 0), _Handler)
        except OSError:  # a kernel without IPv6
            self.address_family = socket.AF_INET
            super().__init__(("", 0), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(_PATIENCE)
        with self._context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asks and goes away, or speaks no TLS: nothing is to be said of it."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE
    server: _Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.server.token.encode()):
            self._refuse(403)
            return
        if name not in self.server.names:
            self._refuse(404)
            return
        try:
            fd = os.open(os.path.join(self.server.folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            self._refuse(404)
            return
        with open(fd, "rb") as file:
            size = os.fstat(fd).st_size
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            while data := file.read(min(size, _CHUNK)):
                self.wfile.write(data)
                size -= len(data)

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


# --- taking ---------------------------------------------------------------------------------------------------------


def take(folder: str, given: dict[str, Any]) -> int:
    """Fetch blobs into a folder from another host; how many bytes. What has come by then stays where one fails.

    {"certificate", "token", "address", "port", "seconds", "blobs": {SHA-256: size}}: within so many seconds, whatever
    the other one does. Raises OSError, SharingError.
    """
    blobs = _blobs(given)
    address, port, seconds = _word(given, "address"), given.get("port"), given.get("seconds", 600)
    if not isinstance(seconds, int | float) or not 0 < seconds < 1e7:
        raise SharingError('"seconds" is no number of them')
    if not isinstance(port, int) or not 0 < port < 65536:
        raise SharingError('there is no "port"')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate is of this roll-out alone
    try:
        context.load_verify_locations(cadata=_word(given, "certificate"))
    except ssl.SSLError as error:
        raise SharingError(f"the certificate is none: {error}") from None
    os.makedirs(folder, 0o700, exist_ok=True)
    free = os.statvfs(folder)
    if sum(blobs.values()) > free.f_bavail * free.f_frsize:
        raise SharingError(f"no room in {folder} for {sum(blobs.values())} bytes")
    total = 0
    # image-send.sh takes away what is called so and has no process of its number
    part = tempfile.mkdtemp(prefix=f".part.{os.getpid()}.", dir=os.path.dirname(os.path.abspath(folder)))
    connection = http.client.HTTPSConnection(address, port, timeout=min(_PATIENCE, seconds), context=context)
    late = threading.Event()
    watch = threading.Timer(seconds, _cut, (connection, late))
    watch.daemon = True
    watch.start()
    try:
        _connect(connection, address)
        for name, size in blobs.items():
            connection.request("GET", f"/{name}", headers={"Authorization": f"Bearer {_word(given, 'token')}"})
            _receive(connection.getresponse(), os.path.join(part, name), name, size)
            os.rename(os.path.join(part, name), os.path.join(folder, name))
            total += size
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError, SharingError) as error:
        if late.is_set():
            raise SharingError(f"{address} is too slow: not done within {seconds:.0f} seconds") from None
        if isinstance(error, SharingError):
            raise
        raise SharingError(f"{address} does not go on: {error or type(error).__name__}") from None
    finally:
        watch.cancel()
        connection.close()
        shutil.rmtree(part, ignore_errors=True)
    return total


def _cut(connection: http.client.HTTPSConnection, late: threading.Event) -> None:
    """Have whoever waits for a connection wait no more."""
    late.set()
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as other:
            other.shutdown(socket.SHUT_RDWR)


def _connect(connection: http.client.HTTPSConnection, address: str) -> None:
    try:
        connection.connect()
    except OSError as error:
        raise SharingError(f"{address} can't be reached from here: {error.strerror or error}", "a firewall?") from None


def _receive(response: http.client.HTTPResponse, path: str, name: str, size: int) -> None:
    if response.status != 200 or response.length != size:
        raise SharingError(f"the blob {name} is not to be had: {response.status}")
    digest, left = hashlib.sha256(), size
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        while data := response.read(_CHUNK):
            digest.update(data)
            file.write(data)
            left -= len(data)
    if left:
        raise SharingError(f"the blob {name} ended early")
    if digest.hexdigest() != name:
        raise SharingError(f"the blob {name} was changed on its way")
