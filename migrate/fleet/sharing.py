"""A roll-out whose image goes from host to host: the desk's line carries it once, and every host that has it gives on.

A host that has the image runs `joey image share` for as long as the roll-out lasts; one that wants it is told of one of
them, and what it does not get there the desk sends as ever. They speak TLS with a certificate and a token of this
roll-out, told over SSH, and every blob is checked by its digest (docs/notes/0010-fleets.md).
"""

from __future__ import annotations

import datetime
import json
import secrets
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from . import images

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from .images import Blob, Image
    from .link import Link

_EACH = 2  # hosts that one gives to at a time
_BY_DESK = 1  # hosts that the desk sends to at a time
_LONGEST = 24 * 3600.0  # seconds for a roll-out
_STARTING = 30.0  # seconds for a host to begin to give
_MOST = 32  # hosts that give: each is a connection of the desk's
_ITS_FAILURES = 2  # hosts that get nothing from one, and it is asked no more
_FAILURES = 6  # so often in all, and none is


class _Peer:
    """A host that gives. `link` is a connection of its own, which ends what runs there when it is closed."""

    def __init__(self, link: Link, port: int) -> None:
        self.link = link
        self.address = link.address
        self.port = port
        self.busy = 0
        self.failed: set[str] = set()  # hosts that got nothing from it


class Sharing:
    """To be used as a context, around all of a roll-out to so many hosts. Threads may share it."""

    def __init__(self, hosts: int) -> None:
        self._left = hosts  # whose turn it was not yet
        self._certificate, self._key = make_certificate()
        self._token = secrets.token_urlsafe(32)
        self._peers: list[_Peer] = []
        self._gone: list[_Peer] = []  # that are asked no more
        self._by_desk = 0
        self._offering = 0
        self._failures = 0
        self._changed = threading.Condition()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            peers, self._peers = [*self._peers, *self._gone], []
        for peer in peers:
            peer.link.close()

    def send(self, link: Link, image: Image, name: str) -> images.Sent:
        """Have the image on the host under a name, as `images.send` does, from wherever it is nearest."""
        missing = images.missing(link, image, name)
        if missing is None:
            with self._changed:
                self._left -= 1
            self._offer(link, image, awaited=False)
            return images.Sent(0, 0)
        shared = 0
        with self._turn(link) as peer:
            if peer is not None and missing:
                shared = self._take(link, peer, missing)
                missing = images.missing(link, image, name) or []
            size = images.send_blobs(link, image, name, missing)
        self._offer(link, image, awaited=peer is None)
        return images.Sent(size, shared)

    @contextmanager
    def _turn(self, link: Link) -> Iterator[_Peer | None]:
        """Whom to take it from, None for the desk: waits until one of them is free. Raises LinkError."""
        peer: _Peer | None = None
        with self._changed:
            while True:
                if self._failures >= _FAILURES:
                    self._by_desk += 1
                    break
                free = [each for each in self._peers if each.busy < _EACH]
                if free:
                    peer = min(free, key=lambda each: each.busy)
                    peer.busy += 1
                    break
                if not self._peers and not self._offering and self._by_desk < _BY_DESK:
                    self._by_desk += 1
                    break
                self._changed.wait(min(1.0, link.left()))
                link.extend(link.host.timeout)  # its time begins with its turn; those before it have theirs
            self._left -= 1
        went = 0
        try:
            yield peer
            went = 1
        finally:
            with self._changed:
                if peer is not None:
                    peer.busy -= 1
                else:
                    self._by_desk -= 1
                    self._offering += went  # who waits for the desk may have it from this one
                self._changed.notify_all()

    def _take(self, link: Link, peer: _Peer, missing: list[Blob]) -> int:
        """Have the host fetch blobs from another one; how many bytes came. What does not come is no error."""
        given = {
            "certificate": self._certificate,
            "token": self._token,
            "address": peer.address,
            "port": peer.port,
            "seconds": link.left() / 2,  # then the desk's own line is to be had still
            "blobs": {blob.name: blob.size for blob in missing},
        }
        command = link.joey("image", "take", f"{images.FOLDER}/.pool")
        came = False
        try:
            done = link.run_as_root(command, json.dumps(given).encode() + b"\n", limit=4096)
            came = done.status == 0 and done.out.strip().isdigit()
        finally:
            if not came:
                self._blame(link, peer)
        if came:
            return int(done.out)
        link.notes.append(f"nothing came from {peer.link.host.name}, the desk sends it: {done.reason}")
        return 0

    def _blame(self, link: Link, peer: _Peer) -> None:
        with self._changed:
            self._failures += 1
            peer.failed.add(link.host.name)
            if len(peer.failed) >= _ITS_FAILURES and peer in self._peers:
                self._peers.remove(peer)
                self._gone.append(peer)  # others may be at it still
            self._changed.notify_all()

    def _offer(self, link: Link, image: Image, awaited: bool) -> None:
        """Have the host give to others, where some are left that may want it. What goes wrong is only told.

        `awaited`: others wait until it does, or does not.
        """
        peer: _Peer | None = None
        try:
            with self._changed:
                many = len(self._peers) >= _MOST or self._failures >= _FAILURES
                if self._closed or self._left <= 0 or many:
                    return
            peer = self._started(link, image)
        except Exception as error:
            link.notes.append(f"it gives to no others: {error or type(error).__name__}")
        finally:
            with self._changed:
                self._offering -= awaited
                if peer is not None and not self._closed:
                    self._peers.append(peer)
                    peer = None
                self._changed.notify_all()
            if peer is not None:
                peer.link.close()

    def _started(self, link: Link, image: Image) -> _Peer:
        """Start what gives there, on a connection of its own, within half a minute."""
        given = {
            "certificate": self._certificate,
            "key": self._key,
            "token": self._token,
            "blobs": {blob.name: blob.size for blob in image.blobs},
        }
        other = link.again(_STARTING)
        link.attached.append(other)  # it ends with the host's own time, too
        watch = threading.Timer(_STARTING, other.close)
        watch.daemon = True
        watch.start()
        try:
            other.__enter__()
            other.become_root()
            line = other.serve(other.joey("image", "share", f"{images.FOLDER}/.pool"), json.dumps(given).encode())
            peer = _Peer(other, int(line))
            other.extend(_LONGEST)
        except BaseException:
            other.close()
            raise
        finally:
            watch.cancel()
            link.attached.remove(other)
        return peer


def make_certificate() -> tuple[str, str]:
    """A certificate of its own authority, and its key, both as PEM. Always valid: clocks of old hosts are wrong."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "joey fleet")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2049, 12, 31, tzinfo=datetime.UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return made.public_bytes(pem).decode(), private.decode()
