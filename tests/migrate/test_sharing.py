"""Blobs from host to host: the server and what takes from it, over real TLS; and a roll-out that uses them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from joey.migrate.fleet.sharing import make_certificate

from ..conftest import Joey
from ..e2e.conftest import kit
from .fleets import Desk, debian

__all__ = ["kit"]


class Giver:
    """`joey image share` of a folder with two blobs. `given` is what one who takes is to be told."""

    def __init__(self, joey: Joey, folder: Path) -> None:
        self.pool = folder / "pool"
        self.pool.mkdir()
        blobs = {}
        for data in (b"one" * 100_000, b""):
            name = hashlib.sha256(data).hexdigest()
            (self.pool / name).write_bytes(data)
            blobs[name] = len(data)
        certificate, key = make_certificate()
        shared = {"certificate": certificate, "token": "t" * 20, "blobs": blobs}
        self.process = subprocess.Popen(
            joey.command("image", "share", str(self.pool)), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({**shared, "key": key}).encode() + b"\n")
        self.process.stdin.flush()
        self.given: dict[str, Any] = {**shared, "address": "127.0.0.1", "port": int(self.process.stdout.readline())}

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(10)


@pytest.fixture
def giver(joey: Joey, tmp_path: Path) -> Iterator[Giver]:
    found = Giver(joey, tmp_path)
    yield found
    found.process.kill()
    found.process.wait()


def take(joey: Joey, folder: Path, given: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    command = joey.command("image", "take", str(folder))
    return subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False, timeout=60)


def test_blobs_come_whole(giver: Giver, joey: Joey, tmp_path: Path) -> None:
    done = take(joey, tmp_path / "into/.pool", giver.given)
    assert (done.returncode, done.stdout) == (0, "300000\n"), done.stderr
    assert {path.name: path.stat().st_size for path in (tmp_path / "into/.pool").iterdir()} == giver.given["blobs"]
    assert [path.name for path in (tmp_path / "into").iterdir()] == [".pool"]
    assert (tmp_path / "into/.pool").stat().st_mode & 0o777 == 0o700
    assert giver.end() == 0, "it ends with its input"


def change_blob(giver: Giver) -> None:
    path = next(path for path in giver.pool.iterdir() if path.stat().st_size)
    path.write_bytes(b"two" * 100_000)


def link_blob(giver: Giver) -> None:
    path = next(path for path in giver.pool.iterdir() if path.stat().st_size)
    path.unlink()
    path.symlink_to("/etc/shadow")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda giver: giver.given.update(token="another"), "not to be had: 403"),
        (lambda giver: giver.given["blobs"].update({"0" * 64: 5}), "not to be had: 404"),
        (lambda giver: giver.given["blobs"].update({"../../etc/shadow": 5}), "SHA-256 sums and sizes"),
        (lambda giver: giver.given.update(certificate=make_certificate()[0]), "can't be reached"),
        (lambda giver: giver.given.update(certificate="none"), "the certificate is none"),
        (lambda giver: giver.given["blobs"].update(dict.fromkeys(giver.given["blobs"], 7)), "not to be had: 200"),
        (lambda giver: giver.given["blobs"].update({"0" * 64: 1 << 60}), "no room in"),
        (lambda giver: giver.given.update(port=1), "can't be reached"),
        (lambda giver: giver.given.pop("port"), 'no "port"'),
        (lambda giver: giver.given.update(seconds="x"), '"seconds" is no number'),
        (change_blob, "changed on its way"),
        (link_blob, "not to be had: 404"),
    ],
)
def test_what_is_not_right_is_not_taken(
    change: Callable[[Giver], Any], said: str, giver: Giver, joey: Joey, tmp_path: Path
) -> None:
    change(giver)
    done = take(joey, tmp_path / "into/.pool", giver.given)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "into").glob(".part*"))
    wrong = [path for path in (tmp_path / "into/.pool").glob("*") if hashlib.sha256(path.read_bytes()).hexdigest() != path.name]  # fmt: skip
    assert wrong == []


def test_those_who_say_nothing_hold_nobody_up(giver: Giver, joey: Joey, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(socket.create_connection(("127.0.0.1", giver.given["port"])))
        start = time.monotonic()
        assert take(joey, tmp_path / "into/.pool", giver.given).returncode == 0
        assert time.monotonic() - start < 15, "no handshake of theirs was waited for"
    assert giver.process.poll() is None


def test_one_who_trickles_is_left(giver: Giver, joey: Joey, tmp_path: Path) -> None:
    """A giver that says all the right things, and then sends a byte now and then, is as good as none."""
    certificate, key = make_certificate()
    (tmp_path / "pem").write_text(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def trickle() -> None:
            with contextlib.suppress(OSError):
                stream, _ = server.accept()
                with context.wrap_socket(stream, server_side=True) as wrapped:
                    wrapped.recv(4096)
                    wrapped.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n")
                    while True:
                        wrapped.sendall(b"o")
                        time.sleep(0.3)

        threading.Thread(target=trickle, daemon=True).start()
        given = {**giver.given, "certificate": certificate, "port": server.getsockname()[1], "seconds": 3}
        start = time.monotonic()
        done = take(joey, tmp_path / "into/.pool", given)
        assert done.returncode == 1
        assert "is too slow: not done within 3 seconds" in done.stderr
        assert time.monotonic() - start < 15
    assert not list((tmp_path / "into").glob(".part*"))
    assert take(joey, tmp_path / "into/.pool", giver.given).returncode == 0
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "into/.pool").iterdir()} == {0o600}


def test_a_request_that_is_none(joey: Joey, tmp_path: Path) -> None:
    for verb in ("share", "take"):
        for text in ("", "[]", "{", '{"blobs": {}}'):
            done = subprocess.run(
                joey.command("image", verb, str(tmp_path)), input=text, capture_output=True, text=True, check=False
            )
            assert (done.returncode, "Traceback" in done.stderr) == (1, False), (verb, text, done.stderr)


@pytest.fixture
def image(machine: Callable[..., Path], joey: Joey, tmp_path: Path) -> str:
    """One of some two megabytes that no compression makes less."""
    tree = machine()
    (tree / "large").write_bytes(b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(60_000)))
    joey("migrate", str(tree), "--to", f"oci:{tmp_path}/images:1")
    return f"oci:{tmp_path}/images:1"


def hosts_with_kit(desk: Desk, kit: Path, tag: str, count: int) -> list[str]:
    """Hosts h1, h2, ... by their addresses. `tag`: containers of other tests have other names on this one kernel."""
    root, setup = debian("bookworm", "openssh-server", "sudo"), "mkdir -p /var/lib/joey; mount -t tmpfs t /var/lib/joey"
    found = [
        desk.add(f"h{number}", root, f"SetEnv=JOEY_RICH=/var/lib/joey/{tag}-h{number}", setup=setup)
        for number in range(1, count + 1)
    ]
    desk.wait()
    desk.fleet("deploy", "--kit", str(kit), *found)
    return found


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_image_goes_from_host_to_host(desk: Desk, kit: Path, image: str) -> None:
    """Its bytes leave the desk once; a host that reaches no other one gets them from the desk all the same."""
    names = [f"h{number}" for number in range(1, 6)]
    addresses = hosts_with_kit(desk, kit, "sharing", 5)
    for place in ("10.99.0.1/32", "10.99.0.2/31", "10.99.0.4/32"):
        there = ["nsenter", "-t", str(desk.hosts["h5"].pid), "-n"]
        subprocess.run([*there, "ip", "route", "add", "prohibit", place], check=True)
    words = ("--with", "--network none", "--share", image, "shop")
    try:
        size = desk.json("run", "--dry-run", *words, addresses[0])[0]["size"]
        assert size > 1_900_000
        rows = desk.json("run", *words, *addresses[:4])
        assert sorted(row["shared"] > 1_900_000 for row in rows) == [False, True, True, True], rows
        assert sum(row["size"] for row in rows) < size + 100_000
        for name in names[:4]:
            assert desk.inside(name, "find /var/lib/joey/images/.pool -type f -perm /077") == "", "of root alone"
        # one that has it by now gives to one that can't reach it
        desk.fleet("exec", "joey rich rm --force shop", addresses[0])
        done = desk.fleet("run", "--wave", "1,rest", *words, addresses[0], addresses[4], "--json")
        assert [(row["size"], row["shared"]) for row in json.loads(done.stdout)] == [(0, 0), (size, 0)]
        assert "the desk sends it" in done.stderr
        assert [row["containers"][0]["status"] for row in desk.json("ps", *addresses)] == ["running"] * 5
        for name in names:
            assert "image share" not in desk.inside(name, "ps ax -o args 2>/dev/null || cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), "it ended with the roll-out"  # fmt: skip
        # those who have it end amid the roll-out: it comes from the desk
        end = "for p in /proc/[0-9]*; do grep -qa imag[e].share $p/cmdline && kill -9 ${p##*/}; done; true"
        again = ("--with", "--network none", "--share", "--gate", end, "--wave", "1,rest")
        desk.fleet("exec", "joey rich rm --force shop; rm -r /var/lib/joey/images", *addresses)
        done = desk.fleet("run", *again, image, "shop", *addresses[:4], "--json")
        assert "the desk sends it" in done.stderr
        assert sum(row["size"] > 1_900_000 for row in json.loads(done.stdout)) >= 2
        assert [row["containers"][0]["status"] for row in desk.json("ps", *addresses[:4])] == ["running"] * 4
        # one whose second connection hangs gives to nobody, and holds nobody up; hosts are read once
        desk.fleet("exec", "joey rich rm --force shop; rm -r /var/lib/joey/images", *addresses[:4])
        hung = "[ -e /run/second ] && case \"$SSH_ORIGINAL_COMMAND\" in *'image share'*) sleep 1000;; esac"
        hang = f"mkdir -p /etc/ssh; printf '%s\\n' '#!/bin/sh' {shlex.quote(hung)} 'eval \"$SSH_ORIGINAL_COMMAND\"' >/usr/local/bin/slow; chmod 755 /usr/local/bin/slow; touch /run/second; sed -i 's,^,command=\"/usr/local/bin/slow\" ,' /root/.ssh/authorized_keys"
        desk.inside("h1", hang)
        start = time.monotonic()
        done = desk.fleet("run", "--wave", "1,rest", *words, "--hosts", "-", "--json", stdin="\n".join(addresses[:3]))
        assert time.monotonic() - start < 90
        assert [row["error"] for row in json.loads(done.stdout)] == [""] * 3
        assert "it gives to no others" in done.stderr
    finally:
        desk.inside("h1", "sed -i 's,^command=[^ ]* ,,' /root/.ssh/authorized_keys")
        desk.fleet("exec", "joey rich rm --force shop", *addresses, status=None)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_who_waits_for_its_turn_has_its_time_still(desk: Desk, kit: Path, image: str) -> None:
    """Three hosts that reach no other one, a narrow line: the last two wait longer than they would have left."""
    addresses = hosts_with_kit(desk, kit, "waiting", 3)
    for process in desk.hosts.values():
        there = ["nsenter", "-t", str(process.pid), "-n"]
        subprocess.run([*there, "ip", "route", "add", "prohibit", "10.99.0.0/29"], check=True)
    narrow = ["tc", "qdisc", "add", "dev", "br0", "root", "tbf", "rate", "2mbit", "burst", "64kbit", "latency", "200ms"]
    subprocess.run(["nsenter", "-t", str(desk.holder.pid), "-n", *narrow], check=True)
    words = ("--with", "--network none", "--share", "--timeout", "33", image, "shop", *addresses)
    try:
        rows = desk.json("run", *words)
        assert [row["error"] for row in rows] == [""] * 3
        assert max(row["seconds"] for row in rows) > 33
    finally:
        desk.fleet("exec", "joey rich rm --force shop", *addresses, status=None)
