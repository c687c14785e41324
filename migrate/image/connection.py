"""Requests to a registry: TLS, who joey is, redirects, and another try where it helps.

TLS is checked; plain HTTP or unchecked TLS only when asked for. Credentials go to the registry and to the place it
names for tokens, never to where it redirects. Source: OCI distribution-spec 1.1; docker's token authentication.
"""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlencode, urljoin, urlsplit

from ...compat.errors import JoeyError, UsageError
from . import digest as digests
from .credentials import Credentials, credentials_of
from .layout import LARGEST_JSON

_TIMEOUT = 60
_LONGEST = 600
_LONGEST_WAIT = 60  # seconds, whatever a registry asks for
TRIES = 5
_REDIRECTS = 5
_NAME = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"\w[\w.-]{0,127}")


class RegistryError(JoeyError):
    """A registry refuses, or can't be reached."""

    slug = "registry"


class Again(Exception):
    """The connection broke, or the registry is busy: worth another try, after so many seconds or more."""

    def __init__(self, words: str, seconds: int = 0) -> None:
        super().__init__(words)
        self.seconds = seconds


class Name(NamedTuple):
    """`reference` is a tag or a digest."""

    host: str
    repository: str
    reference: str

    def __str__(self) -> str:
        sign = "@" if ":" in self.reference else ":"
        return f"docker://{self.host}/{self.repository}{sign}{self.reference}"


def parse(word: str) -> Name:
    """`//HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]`; a name without a host is docker.io's. Raises UsageError."""
    rest, at, digest = word.removeprefix("//").partition("@")
    head, slash, tail = rest.partition("/")
    host = head if slash and ("." in head or ":" in head or head == "localhost") else "docker.io"
    path = tail if host != "docker.io" or head == "docker.io" else rest
    repository, colon, tag = path.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = path, "latest"
    if host == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    if at:
        tag = digests.check(digest)
    elif not _TAG.fullmatch(tag):
        raise UsageError(f"{word}: {tag!r} is no tag", "docker://HOST/NAME:TAG")
    if not _NAME.fullmatch(repository) or not re.fullmatch(r"[\w.-]+(:\d+)?|\[[0-9a-fA-F:]+\](:\d+)?", host):
        raise UsageError(f"{word}: no name of an image in a registry", "docker://HOST/NAME:TAG")
    return Name(host, repository, tag)


def _proxy(scheme: str, netloc: str) -> SplitResult | None:
    """The proxy that the environment names for a host ($HTTPS_PROXY, $HTTP_PROXY, $NO_PROXY, as curl has them)."""
    from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

    found = getproxies_environment()
    word = found.get(scheme) or found.get("all", "")
    if not word or proxy_bypass_environment(netloc, found):
        return None
    proxy = urlsplit(word if "://" in word else f"http://{word}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise RegistryError(f"${scheme.upper()}_PROXY: joey knows proxies of http only", "http://HOST:PORT")
    return proxy


def _for_proxy(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    word = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(word.encode()).decode()}


class Connection:
    """One repository of a registry. `insecure` allows unchecked TLS and plain HTTP; `actions` are those asked for."""

    def __init__(self, name: Name, insecure: bool) -> None:
        self.name = name
        self._insecure = insecure
        self.address = "registry-1.docker.io" if name.host == "docker.io" else name.host
        self.scheme = "https"
        self._context = ssl.create_default_context()
        if insecure:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._authorization = ""
        self._credentials: Credentials | None = None
        self._asked = False
        self.actions = "pull"

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    # requests

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.address}/v2/{self.name.repository}/{path}"

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        key = scheme, netloc
        if key not in self._connections:
            proxy = _proxy(scheme, netloc)
            nearest = proxy.netloc.rpartition("@")[2] if proxy else netloc
            made: http.client.HTTPConnection
            if scheme == "https":
                made = http.client.HTTPSConnection(nearest, timeout=_TIMEOUT, context=self._context)
                if proxy:
                    made.set_tunnel(netloc, headers=_for_proxy(proxy))
            else:
                made = http.client.HTTPConnection(nearest, timeout=_TIMEOUT)
            self._connections[key] = made
        return self._connections[key]

    def _send(
        self, method: str, url: str, headers: dict[str, str], body: bytes | memoryview | None, authorization: str
    ) -> http.client.HTTPResponse:
        """One request. Raises Again where the connection broke, RegistryError where it can't be had."""
        parts = split(url, self.name.host)
        if parts.scheme not in ("https", "http") or (parts.scheme == "http" and not self._insecure):
            raise RegistryError(f"{self.name.host} leads to {parts.scheme}://{parts.netloc}", "--insecure allows that")
        sent = {"User-Agent": "joey", **headers}
        if authorization:
            sent["Authorization"] = authorization
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        if parts.scheme == "http" and (proxy := _proxy("http", parts.netloc)):
            path = f"http://{parts.netloc}{path}"
            sent.update(_for_proxy(proxy))
        connection = self._connection(parts.scheme, parts.netloc)
        # a server may answer "100 Continue" for ever: no single answer takes longer than this
        watch = threading.Timer(_LONGEST, lambda: _cut(connection))
        watch.daemon = True
        watch.start()
        try:
            connection.request(method, path, body=body, headers=sent)
            return connection.getresponse()
        except ssl.SSLCertVerificationError as error:
            hint = "--insecure does without that check; SSL_CERT_FILE names further authorities"
            word = error.verify_message
            raise RegistryError(f"{parts.netloc}: its certificate can't be trusted: {word}", hint) from None
        except ssl.SSLError as error:
            self._drop(parts.scheme, parts.netloc)
            if parts.scheme == "https" and parts.netloc == self.address and not self._insecure:
                raise RegistryError(
                    f"{parts.netloc} does not speak TLS: {error.reason}", "--insecure allows HTTP"
                ) from None
            raise Again(str(error.reason)) from None
        except (OSError, http.client.HTTPException) as error:
            self._drop(parts.scheme, parts.netloc)
            raise Again(str(error) or type(error).__name__) from None
        finally:
            watch.cancel()

    def _drop(self, scheme: str, netloc: str) -> None:
        if found := self._connections.pop((scheme, netloc), None):
            found.close()

    def once(
        self, method: str, url: str, headers: dict[str, str], body: bytes | memoryview | None
    ) -> http.client.HTTPResponse:
        """One request with what it takes: authentication, redirects of a reading one. Raises as `_send`."""
        authorization = self._authorization
        answered = False
        if self.scheme == "http" and split(url, self.name.host)[:2] == ("https", self.address):
            url = "http" + url[5:]  # as an earlier request found out
        for _ in range(_REDIRECTS + 3):
            try:
                response = self._send(method, url, headers, body, authorization)
            except Again:
                if (
                    self._insecure
                    and self.scheme == "https"
                    and not self._asked
                    and split(url, self.name.host).netloc == self.address
                ):
                    self.scheme = "http"  # a registry for tests, without TLS
                    url = "http" + url[5:]
                    continue
                raise
            self._asked = True
            if response.status == 401 and not answered and split(url, self.name.host).netloc == self.address:
                challenge = response.headers.get_all("WWW-Authenticate") or []
                drain(response)
                self._authorization = authorization = self._answer(challenge)
                answered = True
                continue
            if response.status in (301, 302, 303, 307, 308) and method in ("GET", "HEAD"):
                target = joined(url, response.headers.get("Location", ""), self.name.host)
                drain(response)
                before, after = split(url, self.name.host), split(target, self.name.host)
                if (before.scheme, before.netloc) != (after.scheme, after.netloc):
                    authorization = ""
                url = target
                continue
            if response.status == 429 or response.status >= 500:
                seconds = response.headers.get("Retry-After", "")
                words = "too many requests" if response.status == 429 else response.reason or ""
                drain(response)
                raise Again(f"status {response.status} {words}".rstrip(), int(seconds) if seconds.isdigit() else 0)
            return response
        raise RegistryError(f"{self.name.host} redirects without an end")

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: bytes | memoryview | None = None,
        allowed: tuple[int, ...] = (),
    ) -> http.client.HTTPResponse:
        """The same, tried again a few times. A status of 400 and more that is not allowed is an error."""
        wait = 0.5
        for turn in range(TRIES):
            try:
                response = self.once(method, url, headers or {}, body)
            except Again as error:
                if turn + 1 == TRIES:
                    raise RegistryError(
                        f"{self.name.host} can't be reached: {error}", "the same command goes on"
                    ) from None
                time.sleep(max(wait, min(error.seconds, _LONGEST_WAIT)))
                wait *= 2
                continue
            if response.status < 400 or response.status in allowed:
                return response
            raise self.refusal(response)
        raise AssertionError

    def refusal(self, response: http.client.HTTPResponse) -> RegistryError:
        words = ""
        try:
            errors = json.loads(drain(response)).get("errors")
            words = "; ".join(f"{item.get('code')}: {item.get('message')}" for item in errors[:3])
        except (ValueError, AttributeError, TypeError, RecursionError):
            words = response.reason or ""
        hint = {401: f"log in first: docker login {self.name.host}", 403: "these credentials may not"}.get(
            response.status, ""
        )
        what = "push to" if "push" in self.actions else "pull from"
        return RegistryError(f"{self.name}: can't {what} it: status {response.status} {words}".rstrip(), hint)

    # who joey is

    def _answer(self, challenges: list[str]) -> str:
        """The value of an Authorization header for what a registry asks. Raises RegistryError."""
        self._credentials = self._credentials or credentials_of(self.name.host, self.name.repository)
        for challenge in challenges:
            scheme, _, rest = challenge.partition(" ")
            fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            if scheme.lower() == "bearer" and fields.get("realm"):
                return "Bearer " + self._token(fields)
            if scheme.lower() == "basic":
                if self._credentials is None or self._credentials.token:
                    raise RegistryError(f"{self.name.host} wants a user and password", f"docker login {self.name.host}")
                return _basic(self._credentials)
        raise RegistryError(f"{self.name.host} asks for a way to log in that joey does not know")

    def _token(self, fields: dict[str, str]) -> str:
        scope = f"repository:{self.name.repository}:{self.actions}"
        service = fields.get("service", "")
        who = self._credentials
        if who and who.token:
            form = {"grant_type": "refresh_token", "service": service, "client_id": "joey", "scope": scope}
            body = urlencode({**form, "refresh_token": who.token}).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self._send_token("POST", fields["realm"], headers, body, "")
        else:
            query = urlencode({"service": service, "scope": scope})
            url = fields["realm"] + ("&" if "?" in fields["realm"] else "?") + query
            response = self._send_token("GET", url, {}, None, _basic(who) if who else "")
        try:
            value = json.loads(response)
            token = value.get("token") or value.get("access_token")
        except (ValueError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryError(f"{self.name.host}: no token was given", f"docker login {self.name.host}")
        return token

    def _send_token(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, authorization: str
    ) -> bytes:
        try:
            response = self._send(method, url, headers, body, authorization)
            data = drain(response)
        except (Again, OSError, http.client.HTTPException) as error:
            where = split(url, self.name.host).netloc
            raise RegistryError(f"{where}, which gives tokens, can't be reached: {error}") from None
        if response.status != 200:
            hint = f"log in again: docker login {self.name.host}"
            raise RegistryError(f"{self.name.host} gives no token: status {response.status}", hint)
        return data


def split(url: str, host: str) -> SplitResult:
    """The parts of an address that a registry sent. Raises RegistryError for one that is none."""
    try:
        url.encode("ascii")
        parts = urlsplit(url)
        sound = parts.port != 0 and (parts.hostname is not None or parts.scheme not in ("http", "https"))
    except ValueError:
        sound = False
    if not sound:
        raise RegistryError(f"{host} sent an address that is none")
    return parts


def joined(url: str, location: str, host: str) -> str:
    """An address that a registry sent, relative to another. Raises RegistryError for one that is none."""
    try:
        return urljoin(url, location)
    except ValueError:
        raise RegistryError(f"{host} sent an address that is none") from None


def drain(response: http.client.HTTPResponse) -> bytes:
    """The body of an answer, as far as joey reads one. Raises Again where the connection broke."""
    try:
        return response.read(LARGEST_JSON)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Again(str(error) or type(error).__name__) from None


def _cut(connection: http.client.HTTPConnection) -> None:
    """End a connection from another thread."""
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _basic(who: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{who.user}:{who.password}".encode()).decode()
