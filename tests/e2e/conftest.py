"""What several end-to-end tests stand on: the host kit, a btrfs, a host of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .host import BEYOND, NETWORKS, Host
from .oldkernel import TOP


@pytest.fixture(scope="session")
def kit() -> Path:
    """The host kit of the sources as they are."""
    if given := os.environ.get("JOEY_TEST_KIT"):
        return Path(given)
    done = subprocess.run([TOP / "tools" / "hostkit", "--cached"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A btrfs of its own."""
    if not shutil.which("mkfs.btrfs"):
        pytest.skip("needs btrfs-progs (tools/test installs it)")
    image, place = tmp_path / "btrfs.img", tmp_path / "btrfs"
    place.mkdir()
    with image.open("w") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, stdout=subprocess.DEVNULL)
    if subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=False).returncode:
        pytest.skip("this kernel has no btrfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host that forwards nothing yet; 192.0.2.9 is its neighbour, which has no route to networks behind it."""
    words = [
        "unshare",
        "-n",
        "-m",
        "sh",
        "-c",
        f"mkdir -p {NETWORKS}; mount -t tmpfs tmpfs {NETWORKS}; echo; exec sleep 1000",
    ]
    holders = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2)]
    for holder in holders:
        assert holder.stdout
        holder.stdout.readline()
    made = Host(tmp_path, holders[0].pid, holders[1].pid)
    made.call("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")  # a new namespace may have the machine's
    for line in (f"ip link add up0 type veth peer name up0 netns {holders[1].pid}", "ip link set lo up",
                 "ip addr add 192.0.2.1/24 dev up0", "ip link set up0 up"):  # fmt: skip
        made.call(*line.split())
    for line in ("ip link set lo up", f"ip addr add {BEYOND}/24 dev up0", "ip link set up0 up"):
        subprocess.run([*made.beyond, *line.split()], check=True)
    yield made
    for name in made.ids:
        made("delete", "--force", name)
    deadline = time.monotonic() + 5  # the kernel takes a namespace's links away some time after its last process
    while made.links() and time.monotonic() < deadline:
        time.sleep(0.05)
    left = made.links(), made.rules(), made.leases()
    for holder in holders:
        holder.kill()
        holder.wait()
    assert left == (set(), "", set())
