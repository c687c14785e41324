"""Images to and from a real registry (docker-registry): TLS, logging in, broken connections, hostile answers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from joey.compat.errors import JoeyError, UsageError
from joey.migrate.image import connection
from joey.migrate.image.credentials import credentials_of

from ..conftest import Joey
from .guests import run
from .test_layers import archive
from .test_unpack import image

PASSWORD = "not-to-be-printed"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def registry(folder: Path, tls: bool = False, login: bool = False) -> Iterator[str]:
    """A docker-registry on a port of loopback; HOST:PORT."""
    assert shutil.which("docker-registry"), "docker-registry is not installed (tools/test installs it)"
    folder.mkdir(exist_ok=True)
    port = free_port()
    lines = [
        "version: 0.1", "log: {level: error}", "storage:", f"  filesystem: {{rootdirectory: {folder}/data}}",
        "http:", f"  addr: 127.0.0.1:{port}",
    ]  # fmt: skip
    if tls:
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")  # fmt: skip
        lines.append(f"  tls: {{certificate: {folder}/cert.pem, key: {folder}/key.pem}}")
    if login:
        done = run(
            "python3",
            "-c",
            f"import crypt; print('ann:' + crypt.crypt('{PASSWORD}', crypt.mksalt(crypt.METHOD_BLOWFISH)))",
        )
        (folder / "users").write_text(done)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {folder}/users}}}}")
    (folder / "config.yml").write_text("\n".join(lines) + "\n")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield f"localhost:{port}"
        finally:
            process.terminate()
            process.wait(10)


@contextlib.contextmanager
def proxy(target: str, cut: Callable[[int], int]) -> Iterator[str]:
    """A way to a registry that ends the n-th connection after `cut(n)` bytes either way; HOST:PORT."""
    listener = socket.create_server(("127.0.0.1", 0))
    count = 0

    def pump(source: socket.socket, sink: socket.socket, left: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                left[0] -= len(data)
                if left[0] < 0:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        nonlocal count
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                left = [cut(count)]
                count += 1
                host, _, port = target.partition(":")
                server = socket.create_connection((host, int(port)))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=(*pair, left), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"localhost:{listener.getsockname()[1]}"
    listener.close()


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    return image(tmp_path / "source", archive(("a", "file", "x")), archive(("big", "file", os.urandom(40 << 20))))


def blobs(path: Path) -> dict[str, int]:
    return {blob.name: blob.stat().st_size for blob in (path / "blobs/sha256").iterdir()}


def test_there_and_back(layout: Path, joey: Joey, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as host:
        pushed = joey("image", "push", f"oci:{layout}", f"docker://{host}/shop/web:1.0", "--insecure").stdout
        pulled = joey("image", "pull", f"docker://{host}/shop/web:1.0", f"{tmp_path}/copy:it", "--insecure").stdout
        assert pushed == pulled
        joey("image", "verify", f"{tmp_path}/copy:it")
        assert blobs(tmp_path / "copy") == blobs(layout)
        run(
            "skopeo",
            "copy",
            "--insecure-policy",
            "--src-tls-verify=false",
            f"docker://{host}/shop/web:1.0",
            f"oci:{tmp_path}/other:it",
        )
        assert blobs(tmp_path / "other") == blobs(layout)
        digest = pushed.strip()
        joey("image", "pull", f"docker://{host}/shop/web@{digest}", f"{tmp_path}/by-digest:it", "--insecure")
        before = run("du", "-sb", tmp_path / "registry/data").split()[0]
        start = time.monotonic()
        joey("image", "push", f"oci:{layout}", f"docker://{host}/shop/web:2.0", "--insecure")
        assert int(run("du", "-sb", tmp_path / "registry/data").split()[0]) - int(before) < 100_000, (
            "nothing is sent twice"
        )
        assert time.monotonic() - start < 20


@pytest.mark.root
def test_a_migration_straight_to_a_registry(ext4: Path, joey: Joey, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as host:
        joey("migrate", str(ext4), "--insecure", "--work", str(tmp_path), "--to", f"docker://{host}/web")
        run(
            "skopeo",
            "copy",
            "--insecure-policy",
            "--src-tls-verify=false",
            f"docker://{host}/web:latest",
            f"oci:{tmp_path}/copy:it",
        )
    joey("migrate", "verify", str(ext4), f"oci:{tmp_path}/copy:it")
    assert not list(tmp_path.glob(".joey*"))


@contextlib.contextmanager
def tinyproxy(folder: Path) -> Iterator[tuple[int, Path]]:
    """A proxy for ann; its port and its log."""
    port, log = free_port(), folder / "proxy.log"
    log.touch()
    (folder / "proxy.conf").write_text(
        f'Port {port}\nListen 127.0.0.1\nLogFile "{log}"\nLogLevel Connect\nBasicAuth ann {PASSWORD}\nAllow 127.0.0.1\n'
    )
    process = subprocess.Popen(["tinyproxy", "-d", "-c", str(folder / "proxy.conf")], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield port, log
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("tls", [True, False])
def test_by_a_proxy(tls: bool, layout: Path, joey: Joey, tmp_path: Path) -> None:
    with registry(tmp_path / "registry", tls=tls) as host, tinyproxy(tmp_path) as (port, log):
        words = ("image", "push", str(layout), f"docker://{host}/a/b:1", *([] if tls else ["--insecure"]))
        trusted = {"SSL_CERT_FILE": str(tmp_path / "registry/cert.pem")}
        plain = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | trusted
        name = "https_proxy" if tls else "http_proxy"
        environment = {**plain, name: f"http://ann:{PASSWORD}@127.0.0.1:{port}"}
        joey(*words, env=environment | {"no_proxy": "localhost"})
        assert host not in log.read_text(), "that host is to be reached without it"
        joey(*words, env=environment)
        assert host in log.read_text()
        for wrong, said in (
            (f"http://ann:x@127.0.0.1:{port}", "401" if tls else "wants a user and password"),
            ("socks5://x", "proxies of http only"),
        ):
            done = joey(*words, env={**plain, name: wrong}, check=False)
            assert (done.returncode, said in done.stderr) == (1, True), done.stderr
            assert PASSWORD not in done.stderr


def test_a_registry_that_is_busy(liar: tuple[str, Any], joey: Joey, tmp_path: Path) -> None:
    """It is asked again when it says, by the way that worked: one without TLS is not asked for that again."""
    host, handler = liar
    times = []

    def busy(self: Any) -> None:
        times.append(time.monotonic())
        self.replies["/v2/a/b/manifests/1"] = (429, {"Retry-After": "2"}, b"{}") if len(times) == 1 else (503, {}, b"")
        Answers.do_GET(self)

    handler.do_GET = busy
    done = joey("image", "pull", f"docker://{host}/a/b:1", f"oci:{tmp_path}/x", "--insecure", check=False)
    assert "status 503 Service Unavailable" in done.stderr
    assert len(times) == 5
    assert times[1] - times[0] >= 2, "not after the half second that it would wait else"


def test_tls_is_checked(layout: Path, joey: Joey, tmp_path: Path) -> None:
    with registry(tmp_path / "registry", tls=True) as host:
        done = joey("image", "push", f"{layout}", f"docker://{host}/web", check=False)
        assert done.returncode == 1
        assert "its certificate can't be trusted" in done.stderr
        joey(
            "image",
            "push",
            f"{layout}",
            f"docker://{host}/web",
            env={**os.environ, "SSL_CERT_FILE": f"{tmp_path}/registry/cert.pem"},
        )
        joey("image", "pull", f"docker://{host}/web", f"{tmp_path}/copy", "--insecure")
    with registry(tmp_path / "plain") as host:
        done = joey("image", "push", f"{layout}", f"docker://{host}/web", check=False)
        assert done.returncode == 1
        assert "does not speak TLS" in done.stderr
        assert "--insecure" in done.stderr


@pytest.mark.slow
def test_logging_in(layout: Path, joey: Joey, tmp_path: Path) -> None:
    config = tmp_path / "docker"
    config.mkdir()
    env = {**os.environ, "DOCKER_CONFIG": str(config), "HOME": str(tmp_path)}
    with registry(tmp_path / "registry", login=True) as host:
        done = joey("image", "push", f"{layout}", f"docker://{host}/web", "--insecure", check=False, env=env)
        assert done.returncode == 1
        assert "docker login" in done.stderr
        for password, works in (("wrong", False), (PASSWORD, True)):
            word = base64.b64encode(f"ann:{password}".encode()).decode()
            (config / "config.json").write_text(json.dumps({"auths": {host: {"auth": word}}}))
            done = joey("image", "push", f"{layout}", f"docker://{host}/web", "--insecure", check=False, env=env)
            assert (done.returncode == 0) == works, done.stderr
            assert password not in done.stderr + done.stdout
            assert word not in done.stderr + done.stdout
        helper = tmp_path / "bin/docker-credential-test"
        helper.parent.mkdir()
        helper.write_text(
            f'#!/bin/sh\nread host\necho "{{\\"Username\\": \\"ann\\", \\"Secret\\": \\"{PASSWORD}\\"}}"\n'
        )
        helper.chmod(0o755)
        (config / "config.json").write_text(json.dumps({"credHelpers": {host: "test"}}))
        joey(
            "image",
            "pull",
            f"docker://{host}/web",
            f"{tmp_path}/copy",
            "--insecure",
            env={**env, "PATH": f"{tmp_path}/bin:{env['PATH']}"},
        )


def test_connections_that_break_are_taken_up_again(layout: Path, joey: Joey, tmp_path: Path) -> None:
    """The way to the registry breaks after 20 MB. This registry forgets an upload that broke amid a piece, so its
    second connection lasts; what was pulled is not sent again.
    """
    with (
        registry(tmp_path / "registry") as host,
        proxy(host, lambda count: (20 << 20) if count < 2 else 1 << 40) as way,
    ):
        joey("image", "push", f"{layout}", f"docker://{way}/web", "--insecure", timeout=120)
    with registry(tmp_path / "registry") as host, proxy(host, lambda count: 20 << 20) as way:
        joey("image", "pull", f"docker://{way}/web", f"{tmp_path}/copy:it", "--insecure", timeout=120)
    joey("image", "verify", f"{tmp_path}/copy:it")


@pytest.mark.slow
def test_a_stopped_pull_goes_on(layout: Path, joey: Joey, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as host:
        joey("image", "push", f"{layout}", f"docker://{host}/web", "--insecure")
        with proxy(host, lambda count: (12 << 20) if count < 2 else 2000) as way:
            done = joey("image", "pull", f"docker://{way}/web", f"{tmp_path}/copy", "--insecure", check=False)
            assert done.returncode == 1
            assert "the same command goes on" in done.stderr
        (partial,) = (tmp_path / "copy/blobs/sha256").glob(".partial-*")
        assert partial.stat().st_size > 8 << 20
        seen = []
        with proxy(host, lambda count: seen.append(count) or 33 << 20) as way:  # type: ignore[func-returns-value]
            joey("image", "pull", f"docker://{way}/web", f"{tmp_path}/copy:it", "--insecure")
        assert len(seen) == 2, "the rest alone fits through one connection, after that which tried TLS"
    joey("image", "verify", f"{tmp_path}/copy:it")
    assert not list((tmp_path / "copy/blobs/sha256").glob(".partial-*"))


class Answers(http.server.BaseHTTPRequestHandler):
    """A registry that lies. What it may say is set by the test."""

    replies: dict[str, tuple[int, dict[str, str], bytes]] = {}
    seen: list[tuple[str, str]] = []
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization", "")))
        path = self.path.partition("?")[0]
        status, headers, body = self.replies.get(path, (404, {}, b"{}"))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def liar() -> Iterator[tuple[str, Any]]:
    handler = type("Handler", (Answers,), {"replies": {}, "seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"localhost:{server.server_port}", handler
    server.shutdown()


def a_manifest(blob: bytes, size: int | None = None) -> bytes:
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    entry = {"digest": digest, "size": len(blob) if size is None else size}
    return json.dumps(
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "config": entry, "layers": []}
    ).encode()


@pytest.mark.parametrize(
    "lie", ["content", "longer", "size", "traversal", "huge manifest", "no json", "lists", "index without end"]
)
def test_what_is_not_what_it_says_is_refused(lie: str, liar: tuple[str, Any], joey: Joey, tmp_path: Path) -> None:
    host, handler = liar
    blob = b"{}" * 50
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    manifest, sent = a_manifest(blob), blob
    if lie == "content":
        sent = b"[]" * 50
    elif lie == "longer":
        sent = blob + b"more"
    elif lie == "size":
        manifest = a_manifest(blob, -1)
    elif lie == "traversal":
        manifest = manifest.replace(digest.encode(), b"sha256:../../../etc/passwd")
    elif lie == "huge manifest":
        manifest = b" " * (9 << 20) + manifest
    elif lie == "no json":
        manifest = b"<html>"
    elif lie == "lists":
        manifest = b'{"config": [], "layers": {}}'
    elif lie == "index without end":
        manifest = (
            b'{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{"digest": "sha256:'
            + b"0" * 64
            + b'"}]}'
        )
    handler.replies.update(
        {"/v2/web/manifests/latest": (200, {}, manifest), f"/v2/web/blobs/{digest}": (200, {}, sent)}
    )
    done = joey("image", "pull", f"docker://{host}/web", f"{tmp_path}/copy", "--insecure", check=False)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "copy/index.json").exists()


def test_credentials_stay_with_the_registry(liar: tuple[str, Any], joey: Joey, tmp_path: Path) -> None:
    """A redirect to another host gets none; and a redirect out of the web is not followed."""
    host, handler = liar
    other: Any = type("Other", (Answers,), {"replies": {}, "seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    blob = b"{}"
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    other.replies["/blob"] = (200, {}, blob)
    handler.replies.update({
        "/v2/web/manifests/latest": (200, {}, a_manifest(blob)),
        f"/v2/web/blobs/{digest}": (307, {"Location": f"http://127.0.0.1:{server.server_port}/blob"}, b""),
    })  # fmt: skip
    word = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": word}}}))
    original = handler.do_GET

    def wants_login(self: Any) -> None:
        if not self.headers.get("Authorization"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            original(self)

    handler.do_GET = wants_login
    env = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
    joey("image", "pull", f"docker://{host}/web", f"{tmp_path}/copy", "--insecure", env=env)
    assert handler.seen
    assert all(authorization == f"Basic {word}" for _, authorization in handler.seen)
    assert other.seen == [("/blob", "")]
    handler.replies[f"/v2/web/blobs/{digest}"] = (307, {"Location": "file:///etc/passwd"}, b"")
    done = joey("image", "pull", f"docker://{host}/web", f"{tmp_path}/again", "--insecure", check=False, env=env)
    assert done.returncode == 1
    assert "leads to file://" in done.stderr
    server.shutdown()


def test_tokens(liar: tuple[str, Any], joey: Joey, tmp_path: Path) -> None:
    host, handler = liar
    blob = b"{}"
    digest = "sha256:" + hashlib.sha256(blob).hexdigest()
    handler.replies["/token"] = (200, {}, b'{"token": "the-token"}')
    handler.replies["/v2/web/manifests/latest"] = (200, {}, a_manifest(blob))
    handler.replies[f"/v2/web/blobs/{digest}"] = (200, {}, blob)
    original = handler.do_GET

    def wants_token(self: Any) -> None:
        if self.path.startswith("/v2/") and self.headers.get("Authorization") != "Bearer the-token":
            self.send_response(401)
            self.send_header("WWW-Authenticate", f'Bearer realm="http://{host}/token",service="reg",scope="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            original(self)

    handler.do_GET = wants_token
    joey(
        "image",
        "pull",
        f"docker://{host}/web",
        f"{tmp_path}/copy",
        "--insecure",
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert any(path.startswith("/token?service=reg&scope=repository%3Aweb%3Apull") for path, _ in handler.seen)


@pytest.mark.parametrize(
    ("word", "host", "repository", "reference"),
    [
        ("//debian", "docker.io", "library/debian", "latest"),
        ("//docker.io/a/b:1", "docker.io", "a/b", "1"),
        ("//a/b", "docker.io", "a/b", "latest"),
        ("//localhost:5000/x/y:z", "localhost:5000", "x/y", "z"),
        ("//r.example.com/x@sha256:" + "a" * 64, "r.example.com", "x", "sha256:" + "a" * 64),
        ("//[::1]:5000/x", "[::1]:5000", "x", "latest"),
    ],
)
def test_names(word: str, host: str, repository: str, reference: str) -> None:
    assert connection.parse(word) == (host, repository, reference)


@pytest.mark.parametrize(
    "word",
    [
        "//",
        "//Upper/case",
        "//h.x/a:b c",
        "//h.x/../a",
        "//h.x/a@sha256:x",
        "//user@h.x/a",
        "//h.x:port/a",
        "//h.x/a?b",
    ],
)
def test_names_that_are_none(word: str) -> None:
    with pytest.raises((UsageError, JoeyError)):
        connection.parse(word)


def test_credentials_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)

    def auth(word: str) -> dict[str, str]:
        return {"auth": base64.b64encode(word.encode()).decode()}

    (tmp_path / "config.json").write_text(json.dumps({"auths": {
        "r.x": auth("short:a"), "r.x/team": auth("team:b:c"), "https://index.docker.io/v1/": auth("hub:d"), "t.x": {"identitytoken": "T"},
        "bad.x": {"auth": "!"},
    }}))  # fmt: skip
    assert credentials_of("r.x", "team/app") == ("team", "b:c", "")
    assert credentials_of("r.x", "other") == ("short", "a", "")
    assert credentials_of("docker.io", "library/x") == ("hub", "d", "")
    assert credentials_of("t.x", "x") == ("", "", "T")
    assert credentials_of("none.x", "x") is None
    with pytest.raises(JoeyError, match="can't be decoded"):
        credentials_of("bad.x", "x")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(JoeyError, match="can't be read"):
        credentials_of("r.x", "x")


def test_an_upload_goes_on_where_the_registry_has_it(joey: Joey, tmp_path: Path) -> None:
    """By a mock: docker-registry forgets an upload that broke amid a piece, while the spec lets others keep it."""
    layout = image(tmp_path / "source", archive(("big", "file", os.urandom(20 << 20))))
    received: dict[str, Any] = {"data": b"", "breaks": 1, "gets": 0}

    class Keeper(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_HEAD(self) -> None:
            self.answer(404)

        def do_POST(self) -> None:
            received["data"] = b""
            self.answer(202, Location="/v2/web/blobs/uploads/1")

        def do_PATCH(self) -> None:
            size = int(self.headers["Content-Length"])
            start = int(self.headers["Content-Range"].partition("-")[0])
            if start != len(received["data"]):
                self.rfile.read(size)
                self.answer(416)
                return
            if size > 5 << 20 and received["breaks"]:
                received["breaks"] -= 1
                received["data"] += self.rfile.read(3 << 20)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            received["data"] += self.rfile.read(size)
            self.answer(202, Location="/v2/web/blobs/uploads/1", Range=f"0-{len(received['data']) - 1}")

        def do_GET(self) -> None:
            received["gets"] += 1
            self.answer(204, Location="/v2/web/blobs/uploads/1", Range=f"0-{len(received['data']) - 1}")

        def do_PUT(self) -> None:
            size = int(self.headers["Content-Length"])
            self.rfile.read(size)
            if "digest=" in self.path:
                found = self.path.rpartition("sha256%3A")[2]
                assert hashlib.sha256(received["data"]).hexdigest() == found
                received[found] = len(received["data"])
            self.answer(201)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keeper)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    joey("image", "push", f"oci:{layout}", f"docker://localhost:{server.server_port}/web", "--insecure")
    server.shutdown()
    assert received["gets"] == 1
    assert any(isinstance(size, int) and size > 19 << 20 for name, size in received.items() if len(name) == 64)
