"""Real hosts for tests of fleets: an sshd each, in network, mount and host-name namespaces, on a bridge of a desk's own.

A host's root is a Debian with a layer over it: what is written there is its own, and goes with it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from ..conftest import Joey
from ..e2e.oldkernel import TOP

# what OpenSSH 5.3 has that a new client knows at all
OLD = ("HostKeyAlgorithms=ssh-rsa", "KexAlgorithms=diffie-hellman-group14-sha1,diffie-hellman-group1-sha1",
       "Ciphers=aes128-cbc,3des-cbc", "MACs=hmac-sha1", "PubkeyAcceptedAlgorithms=ssh-rsa")  # fmt: skip
START = """
set -e
mount -t tmpfs t {place}; cd {place}; mkdir upper work root
mount -t overlay o -o lowerdir={lower},upperdir=upper,workdir=work root
mount -t proc proc root/proc; mount --rbind /sys root/sys; mount --rbind /dev root/dev; mount -t tmpfs run root/run
mkdir -p root/run/sshd root/root/.ssh root/home/ann/.ssh; hostname {name}
cp {keys}/key.pub root/root/.ssh/authorized_keys; cp {keys}/key.pub root/home/ann/.ssh/authorized_keys
cp {keys}/host {keys}/host.pub root/etc/ssh/
cd root; pivot_root . .; umount -l .
grep -q ^ann: /etc/passwd || useradd -u 1000 -M -s /bin/sh ann; usermod -p '*' ann; chown -R 1000:1000 /home/ann
chown -R 0:0 /root/.ssh; chmod 600 /etc/ssh/host; rm -f /run/nologin
{setup}
exec /usr/sbin/sshd -D -e -oPermitRootLogin=prohibit-password -oUsePAM=no -oHostKey=/etc/ssh/host -oMaxStartups=200 \
 -oPidFile=none {options}
"""


def debian(suite: str, *packages: str) -> Path:
    done = subprocess.run([TOP / "tools/debian-root", suite, *packages], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


class Desk:
    """A network namespace where joey runs, and hosts around it: 10.99.0.NUMBER, in the order they were added."""

    def __init__(self, folder: Path, joey: Joey) -> None:
        self.folder = folder
        self.joey = joey
        self.hosts: dict[str, subprocess.Popen[bytes]] = {}
        self.names: list[str] = []
        folder.mkdir()
        for kind, name in (("rsa", "key"), ("rsa", "host")):
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", folder / name], check=True)
        self.known = folder / "known"
        self.known.write_text("")
        self.config = folder / "ssh_config"
        self.config.write_text(f"Host *\n  IdentityFile {folder}/key\n  UserKnownHostsFile {self.known}\n  User root\n")
        self.holder = subprocess.Popen(["unshare", "-n", "sleep", "1000000"])
        while Path(f"/proc/{self.holder.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            time.sleep(0.02)
        self.ip("link", "set", "lo", "up")
        self.ip("link", "add", "br0", "type", "bridge")
        self.ip("addr", "add", "10.99.0.254/24", "dev", "br0")
        self.ip("link", "set", "br0", "up")

    def ip(self, *words: str) -> None:
        subprocess.run(["nsenter", "-t", str(self.holder.pid), "-n", "ip", *words], check=True)

    def add(self, name: str, root: Path, *options: str, setup: str = "", known: bool = True) -> str:
        """Start a host; its address."""
        number = len(self.names) + 1
        address = f"10.99.0.{number}"
        place = self.folder / name
        place.mkdir()
        words = " ".join(f"-o{word}" for word in options)
        script = START.format(place=place, lower=root, name=name, keys=self.folder, setup=setup, options=words)
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(["unshare", "-n", "-m", "-u", "sh", "-c", script], stdout=log, stderr=log, start_new_session=True)  # fmt: skip
        self.hosts[name] = process
        self.names.append(name)
        while Path(f"/proc/{process.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            time.sleep(0.02)
        self.ip("link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
        self.ip("link", "set", f"v{number}", "master", "br0", "up")
        for rest in (
            ["link", "set", "lo", "up"],
            ["addr", "add", f"{address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
        ):
            subprocess.run(["nsenter", "-t", str(process.pid), "-n", "ip", *rest], check=True)
        if known:
            key = (self.folder / "host.pub").read_text().split()
            with self.known.open("a") as file:
                file.write(f"{address} {key[0]} {key[1]}\n")
        return address

    def wait(self) -> None:
        """Until every sshd listens."""
        for name in self.hosts:
            for _ in range(200):
                text = (self.folder / f"{name}.log").read_text()
                if "Server listening" in text:
                    break
                assert self.hosts[name].poll() is None, text
                time.sleep(0.05)

    def cut(self, name: str) -> None:
        """Have a host's packets vanish."""
        self.ip("link", "set", f"v{self.names.index(name) + 1}", "down")

    def inside(self, name: str, script: str) -> str:
        """What a script prints on a host, without SSH."""
        pid = str(self.hosts[name].pid)
        done = subprocess.run(["nsenter", "-t", pid, "-n", "-m", "-u", "sh", "-c", script], capture_output=True, text=True, check=True)  # fmt: skip
        return done.stdout

    def fleet(self, *words: str, status: int | None = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """`joey fleet VERB ...` at the desk."""
        verb, *rest = words
        command = ["nsenter", "-t", str(self.holder.pid), "-n", self.joey.program, "fleet", verb, "--store", str(self.folder / "store")]  # fmt: skip
        if verb not in ("show", "check", "journal"):
            command += ["--ssh-config", str(self.config)]
        done = subprocess.run([*command, *rest], input=stdin, capture_output=True, text=True, timeout=200, check=False)
        assert status is None or done.returncode == status, done.stdout + done.stderr
        return done

    def json(self, *words: str, status: int | None = 0, stdin: str = "") -> Any:
        return json.loads(self.fleet(*words, "--json", status=status, stdin=stdin).stdout)

    def close(self) -> None:
        for process in self.hosts.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        self.holder.kill()
        self.holder.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)
