"""A live host over SSH: a real sshd in a root file system of its own, also one that offers what CentOS 6 does."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from joey.compat.errors import UsageError
from joey.migrate.sources import listing
from joey.migrate.sources.ssh import parse
from joey.migrate.trees.spool import SpoolTree

from ..conftest import Joey
from .guests import debian_root, make_tree, run
from .guests import listing as files_of
from .test_layers import archive
from .test_registry import free_port

pytestmark = [pytest.mark.root, pytest.mark.slow]
# what OpenSSH 5.3 has that a new client knows at all
OLD = {
    "HostKeyAlgorithms": "ssh-rsa", "KexAlgorithms": "diffie-hellman-group14-sha1,diffie-hellman-group1-sha1",
    "Ciphers": "aes128-cbc,3des-cbc", "MACs": "hmac-sha1", "PubkeyAcceptedAlgorithms": "ssh-rsa",
}  # fmt: skip


class Server:
    """`root` is its file system; `words` are what joey needs to reach it, `address` its name."""

    def __init__(self, root: Path, port: int, folder: Path) -> None:
        self.root = root
        self.port = port
        self.words = [
            word
            for option in (
                f"IdentityFile={folder}/key",
                f"UserKnownHostsFile={folder}/known",
                "StrictHostKeyChecking=yes",
                "IdentitiesOnly=yes",
            )
            for word in ("--ssh-option", option)
        ]

    def address(self, user: str = "root") -> str:
        return f"ssh://{user}@127.0.0.1:{self.port}"


@contextlib.contextmanager
def serve(root: Path, folder: Path, options: dict[str, str]) -> Iterator[Server]:
    port = free_port()
    words = [f"-o{key}={value}" for key, value in options.items()]
    command = (
        f"mount --bind {root} {root} && mount -t proc proc {root}/proc && mount -t tmpfs none {root}/run && "
        f"mount -t devpts -o newinstance,ptmxmode=666 none {root}/dev/pts && mkdir -p {root}/run/sshd && "
        f"exec chroot {root} /usr/sbin/sshd -D -e -p {port} -oListenAddress=127.0.0.1 -oPermitRootLogin=prohibit-password -oUsePAM=no "
        f"-oHostKey=/etc/ssh/ssh_host_rsa_key -oMaxStartups=100 {' '.join(words)}"
    )
    with (folder / "sshd.log").open("w") as log:
        process = subprocess.Popen(["unshare", "-m", "sh", "-c", command], stdout=log, stderr=log)
        try:
            for _ in range(100):
                time.sleep(0.05)
                if subprocess.run(["ssh-keyscan", "-p", str(port), "127.0.0.1"], capture_output=True, check=False).stdout or "Server listening" in (folder / "sshd.log").read_text():  # fmt: skip
                    break
            key = (root / "etc/ssh/ssh_host_rsa_key.pub").read_text().split()
            (folder / "known").write_text(f"[127.0.0.1]:{port} {key[0]} {key[1]}\n")
            yield Server(root, port, folder)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Debian with sshd and sudo, a user of each kind, and the nasty files of the small guest."""
    folder = tmp_path_factory.mktemp("host")
    root = folder / "root"
    run("cp", "-a", debian_root("openssh-server", "sudo"), root)
    run("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", folder / "key")
    extra = folder / "extra"
    extra.mkdir()
    make_tree(extra)
    run("cp", "-a", extra / "home/user", root / "home/ann")
    (root / "opt/app").mkdir(parents=True)
    os.link(root / "home/ann/nasty/first", root / "opt/app/third")
    for name, uid in (("ann", 1000), ("bob", 1001), ("tim", 1002)):
        run("chroot", root, "useradd", "-u", str(uid), "-m", "-s", "/bin/bash", name) if name != "ann" else run("chroot", root, "useradd", "-u", str(uid), "-M", "-s", "/bin/bash", name)  # fmt: skip
        run("chroot", root, "usermod", "-p", "*", name)
    (root / "etc/sudoers.d/ann").write_text("ann ALL=(ALL) NOPASSWD: ALL\n")
    (root / "etc/sudoers.d/tim").write_text("Defaults:tim requiretty\ntim ALL=(ALL) NOPASSWD: ALL\n")
    for home, owner in (
        ("root", "0:0"),
        ("home/ann", "1000:1000"),
        ("home/bob", "1001:1001"),
        ("home/tim", "1002:1002"),
    ):
        (root / home / ".ssh").mkdir(mode=0o700, exist_ok=True)
        shutil.copy(folder / "key.pub", root / home / ".ssh/authorized_keys")
        run("chown", "-R", owner, root / home / ".ssh")
    return root, folder


@pytest.fixture
def server(guest: tuple[Path, Path]) -> Iterator[Server]:
    with serve(*guest, {}) as found:
        yield found


def migrate(joey: Joey, server: Server, *words: str, user: str = "root", check: bool = True) -> Any:
    done = joey("migrate", server.address(user), *server.words, *words, "--json", check=check, timeout=200)
    return json.loads(done.stdout) if check else done


@pytest.mark.parametrize("user", ["root", "ann", "tim"])
def test_nothing_is_lost(user: str, server: Server, joey: Joey, tmp_path: Path) -> None:
    """As root, and as a user with sudo, also where that wants a terminal: the same files, with everything of theirs."""
    migrate(joey, server, "--to", f"oci:{tmp_path}/image", user=user)
    joey("image", "unpack", f"{tmp_path}/image", f"{tmp_path}/bundle")
    without = ("proc", "sys", "dev", "run", "tmp", "etc/fstab", "etc/ssh", "etc/.pwd.lock", "boot", "var/lib/apt", "var/cache", "var/tmp", "etc/machine-id", "home/ann/nasty/block")  # fmt: skip
    expected, found = files_of(server.root, without), files_of(tmp_path / "bundle/rootfs", without)
    missing = {path for path in expected if path not in found}
    assert {path for path in missing if "lock" not in path and not path.startswith(("var/run", "var/lock"))} == set()
    assert found.keys() - expected.keys() == set()
    differences = [path for path in found if found[path] != expected[path] and path != "."]
    assert differences == []
    done = joey(
        "migrate", "verify", server.address(user), *server.words, f"oci:{tmp_path}/image", check=False, timeout=200
    )
    if user == "tim":  # sshd notes who got a terminal, and when
        changed = re.findall(r"^ *(/\S+)", done.stdout, re.MULTILINE)
        assert set(changed) <= {"/var/log/wtmp", "/var/log/lastlog"}, done.stdout
        assert f"{len(changed)} unexplained" in done.stdout
    else:
        assert done.stdout.endswith("the same\n")


def test_an_old_server(guest: tuple[Path, Path], joey: Joey, tmp_path: Path) -> None:
    with serve(*guest, OLD) as server:
        found = json.loads(joey("migrate", "inspect", server.address(), *server.words, "--json").stdout)
    assert found["distribution_id"] == "debian"
    assert any("speaks only old algorithms" in note for note in found["notes"])


def test_an_inventory_fetches_little(server: Server, joey: Joey, tmp_path: Path) -> None:
    done = joey("migrate", "inspect", server.address(), *server.words, "--work", str(tmp_path), "--json")
    found = json.loads(done.stdout)
    assert {row["name"] for row in found["packages"]} >= {"sudo", "openssh-server"}
    assert {row["name"] for row in found["accounts"]} >= {"root", "ann", "bob"}
    assert found["size"] > 10 * sum(path.stat().st_size for path in tmp_path.rglob("*.tar"))


def test_a_second_run_fetches_what_changed(server: Server, joey: Joey, tmp_path: Path) -> None:
    words = ["--work", str(tmp_path), "--to", f"oci:{tmp_path}/image"]
    migrate(joey, server, *words)
    (folder,) = [path for path in tmp_path.iterdir() if path.name.startswith("joey-migrate")]
    before = {path.name for path in folder.glob("*.tar")}
    changed = server.root / "srv/changed"
    changed.write_text("new")
    with contextlib.suppress(FileNotFoundError):
        (server.root / "home/bob/.profile").unlink()
    migrate(joey, server, *words)
    fetched = [path for path in folder.glob("*.tar") if path.name not in before]
    assert sum(path.stat().st_size for path in fetched) < 200_000
    joey("image", "unpack", f"{tmp_path}/image", f"{tmp_path}/bundle")
    assert (tmp_path / "bundle/rootfs/srv/changed").read_text() == "new"
    assert not (tmp_path / "bundle/rootfs/home/bob/.profile").exists()
    changed.unlink()


def test_files_that_come_and_go_meanwhile(server: Server, joey: Joey, tmp_path: Path) -> None:
    busy = server.root / "srv/busy"
    busy.mkdir()
    stop = threading.Event()

    def churn() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            (busy / f"{turn % 50}").write_bytes(os.urandom(5000))
            with contextlib.suppress(FileNotFoundError):
                (busy / f"{(turn + 25) % 50}").unlink()
            with (busy / "log").open("a") as file:
                file.write("line\n")

    for index in range(50):
        (busy / str(index)).write_text("x")
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        report = migrate(joey, server, "--to", f"oci:{tmp_path}/image")
    finally:
        stop.set()
        thread.join()
        shutil.rmtree(busy)
    assert any("were fetched once more" in line for line in report["warnings"])
    joey("image", "verify", f"{tmp_path}/image")
    joey("image", "unpack", f"{tmp_path}/image", f"{tmp_path}/bundle")
    assert (tmp_path / "bundle/rootfs/srv/busy/log").exists()


def test_a_killed_run_goes_on(server: Server, joey: Joey, tmp_path: Path) -> None:
    words = joey.command(
        "migrate", server.address(), *server.words, "--work", str(tmp_path), "--to", f"oci:{tmp_path}/image"
    )
    for pause in (1.2, 1.6, 2.0):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "image/index.json").exists() or pause
    subprocess.run(words, check=True, capture_output=True)
    assert joey(
        "migrate", "verify", server.address(), *server.words, f"oci:{tmp_path}/image", timeout=200
    ).stdout.endswith("the same\n")


@pytest.mark.parametrize("what", ["an unknown key", "another key", "no key", "no sudo", "no server"])
def test_hosts_that_can_not_be_read(what: str, guest: tuple[Path, Path], joey: Joey, tmp_path: Path) -> None:
    root, folder = guest
    with serve(root, folder, {}) as server:
        user, words = "root", list(server.words)
        if what == "an unknown key":
            words[3] = f"UserKnownHostsFile={tmp_path}/none"
        elif what == "another key":
            run("ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", tmp_path / "other")
            kind, key, *_ = (tmp_path / "other.pub").read_text().split()
            (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
            words[3] = f"UserKnownHostsFile={tmp_path}/known"
        elif what == "no key":
            words[1] = f"IdentityFile={tmp_path}/none"
        elif what == "no sudo":
            user = "bob"
        address = server.address(user) if what != "no server" else f"ssh://root@127.0.0.1:{free_port()}"
        done = joey("migrate", address, *words, "--to", f"oci:{tmp_path}/image", check=False)
    assert done.returncode == 1
    word = {
        "an unknown key": "ssh-keyscan", "another key": "ssh-keyscan", "no key": "ssh-copy-id", "no sudo": "takes root", "no server": "is the host up",
    }[what]  # fmt: skip
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "image").exists()


@pytest.mark.parametrize(
    "word", ["ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://u@-h", "ssh://h:0", "ssh://h:99999", "ssh://$(x)"]
)
def test_addresses_that_are_none(word: str) -> None:
    with pytest.raises(UsageError):
        parse(word)


def test_mounts_of_a_host_that_binds_before_it_mounts() -> None:
    table = (
        b"15 20 0:3 / /proc rw - proc proc rw\n20 1 8:2 / / rw - ext4 /dev/sda2 rw\n"
        b"21 20 8:16 /www /srv/www rw shared:1 - xfs /dev/sdb rw\n22 20 8:16 / /with\\040space rw - xfs /dev/sdb rw\n"
        b"23 20 8:2 /etc /mnt/etc rw - ext4 /dev/sda2 rw\n24 20 0:40 / /data rw - nfs4 nas:/x rw\n"
    )
    assert listing.mounts(table) == (
        ["/", "/with space"], ["/data (nfs4) comes from the network: its files are not in the image"]
    )  # fmt: skip


def test_mounts_of_a_host() -> None:
    table = (
        b"rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n/dev/sda2 / ext4 rw 0 0\n/dev/sda1 /boot ext4 rw 0 0\n"
        b"/dev/sda2 /srv/bind ext4 rw 0 0\n/dev/sdb /with\\040space xfs rw 0 0\nnas:/x /data nfs4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n"
        b"//srv/share /share cifs rw 0 0\nann@h:/x /ssh fuse.sshfs rw 0 0\n/dev/sdd1 /win ntfs3 rw 0 0\n"
        b"/dev/sdc /a btrfs rw,subvol=/a 0 0\n/dev/sdc /b btrfs rw,subvol=/b 0 0\n"
    )
    places, notes = listing.mounts(table)
    assert places == ["/", "/boot", "/with space", "/a", "/b"]
    assert notes == [
        "/data (nfs4) comes from the network: its files are not in the image",
        "/share (cifs) comes from the network: its files are not in the image",
        "/ssh (fuse.sshfs) comes from the network: its files are not in the image",
        "/win (ntfs3) is not read: its files are not in the image",
    ]


def test_names_of_one_file_that_runs_fetched_apart(tmp_path: Path) -> None:
    """A run that was killed between them left the one in its archive, and the next fetched the other."""
    for name, members in (
        ("0", [("a/first", "file", "x")]),
        ("1", [("a/second", "file", "x"), ("a/other", "file", "x")]),
    ):
        (tmp_path / name).write_bytes(archive(*members))
    tree = SpoolTree([str(tmp_path / "0"), str(tmp_path / "1")])
    tree.link({b"a/second": b"a/first", b"a/gone": b"a/first"})
    assert [tree.entry(path).first for path in (b"a/first", b"a/second", b"a/other")] == [b"", b"a/first", b""]
    assert tree.entry(b"a/first").open is tree.entry(b"a/second").open
