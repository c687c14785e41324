"""One Debian 12 bundle with everything at once: memory and process limits, a disk quota, a user namespace, a seccomp
profile, masked paths, a network, exec. It runs on this kernel, as if on older ones, and on the test kernel, and prints
the same on each; `joey plan` says what differs.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from joey.runtime.commands.spec import template

from .host import Host
from .oldkernel import STATIC, TOP, boot, debian, needs_vm

pytestmark = [*needs_vm, pytest.mark.timeout(900)]

BASE = 100000
SCRIPT = r"""
echo "user $(id -u), owner $(stat -c %u /etc/passwd)"
echo "masked $(wc -c < /proc/cmdline), $( (echo x > /proc/sys/kernel/panic) 2>/dev/null || echo read-only)"
echo "profile $(busybox hostname x 2>&1 | grep -o 'not supported')"
echo "processes $( (i=0; while [ $i -lt 60 ]; do sleep 100 >/dev/null 2>&1 & i=$((i+1)); done) 2>&1 | grep -c -i fork)"; busybox killall sleep; sleep 1
echo "quota $(dd if=/dev/zero of=/big bs=1M count=200 2>&1 | grep -c -i -E 'quota exceeded|no space')"; rm /big
dd if=/dev/zero of=/dev/null bs=300M count=1 2>/dev/null; echo "memory $?"
echo "network $(busybox ip -o -4 addr show eth0 | grep -o 'inet [0-9./]*'), $(perl -MIO::Socket::INET -e '
    $s = IO::Socket::INET->new("10.71.0.1:8000"); print $s "GET / HTTP/1.0\r\n\r\n"; @all = <$s>; print $all[-1]')"
"""
EXPECTED = [
    "user 0, owner 0",
    "masked 0, read-only",
    "profile not supported",
    "processes 1",
    "quota 1",
    "memory 137",
    "network inet 10.71.0.2/24, hello",
]
# feature -> mechanism, where it is not the first of its ladder
HERE: dict[str, str] = {"userns": "native", "enter": "setns", "seccomp": "filter", "disk-quota": "btrfs-qgroup"}
AS_IF = {
    "3.10": {"userns": "native", "enter": "setns", "interpreter-hiding": "unlinked-file", "path-resolution": "walk"},
    "2.6.32-el6": {"userns": "emulated-unfiltered", "seccomp": "ptrace", "glibc": "rewritten-libc"},
    "2.6.32": {"userns": "emulated-unfiltered", "seccomp": "ptrace", "glibc": "rewritten-libc", "enter": "agent"},
}
TEST_KERNEL = {
    **AS_IF["2.6.32"],
    "disk-quota": "project-quota",
    "cgroup.memory": "v1-own-mount",
    "network.bridge": "veth",
}


def configuration(root: str) -> dict[str, Any]:
    """The bundle: what `joey spec` writes, and what is asked for beside. Its quota leaves 40 MB over a root of 200."""
    config = template()
    config["process"].update(terminal=False, args=["sh", "-c", SCRIPT])
    config["root"] = {"path": root, "readonly": False}
    config["linux"]["namespaces"].append({"type": "user"})
    ids = [{"containerID": 0, "hostID": BASE, "size": 65536}]
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = ids
    config["linux"]["resources"].update(memory={"limit": 128 << 20}, pids={"limit": 40})
    config["linux"]["maskedPaths"].append("/proc/cmdline")
    rule = {"names": ["sethostname", "setdomainname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    config["annotations"] = {"io.joey.network": "bridge", "io.joey.disk-quota": f"{quota()}M"}
    return config


def quota() -> int:
    """Megabytes: forty more than the root file system has."""
    out = subprocess.run(
        ["du", "-s", "-m", debian("bookworm", STATIC["bookworm"])], capture_output=True, text=True, check=True
    )
    return int(out.stdout.split()[0]) + 40


def shift(root: Path) -> None:
    """Give a root to the mapped ids, with set-id bits, which chown(2) takes away."""
    for folder, _, files in os.walk(root):
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            mode = path.lstat().st_mode
            os.lchown(path, BASE, BASE)
            if mode & 0o6000 and not path.is_symlink():
                path.chmod(mode & 0o7777)


@pytest.fixture
def place(btrfs: Path) -> Path:
    """The bundle on btrfs, its root a subvolume of a file system with quota."""
    subprocess.run(["btrfs", "quota", "enable", btrfs], check=True)
    subprocess.run(["btrfs", "-q", "subvolume", "create", btrfs / "root"], check=True)
    subprocess.run(["cp", "-a", f"{debian('bookworm', STATIC['bookworm'])}/.", btrfs / "root"], check=True)
    shift(btrfs / "root")
    for path in (btrfs, *btrfs.parents):
        if path.stat().st_uid == 0 and str(path).startswith("/tmp/"):
            path.chmod(0o755)  # root of the user namespace is somebody else here
    subprocess.run(["sync", "-f", btrfs], check=True)
    bundle = btrfs / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps(configuration(str(btrfs / "root"))))
    return bundle


@pytest.fixture
def server(place: Path, host: Host, tmp_path: Path) -> Iterator[None]:
    """The host's own page, which the container reads over its bridge. The host sees mounts that were there before it."""
    assert place
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "index.html").write_text("hello\n")
    command = [*host.enter, "busybox", "httpd", "-f", "-p", "8000", "-h", str(tmp_path / "www")]
    with subprocess.Popen(command) as process:
        yield
        process.terminate()


Planned = Callable[[str], dict[str, str]]


def planned(text: str) -> dict[str, str]:
    """The mechanism of each feature in what `joey plan` prints."""
    rows = [line.split() for line in text.partition("\n\n")[0].splitlines() if line.startswith("  ")]
    return {row[0]: row[1] for row in rows if len(row) > 1}


def check(host: Host, place: Path, expected: dict[str, str]) -> None:
    plan = planned(host("plan", "-b", str(place), timeout=120).stdout)
    assert {name: plan.get(name, plan.get(f"{name}-privileged", "")) for name in expected} == expected
    done = host("run", "-b", str(place), host.id(), timeout=300)
    assert done.stdout.splitlines() == EXPECTED, done.stderr
    config = json.loads((place / "config.json").read_text())
    config["process"]["args"] = ["sleep", "1000"]
    (place / "config.json").write_text(json.dumps(config))
    name = host.id()
    host("run", "--detach", "-b", str(place), name, timeout=120)
    out = host("exec", name, "sh", "-c", "id -u; cat /proc/1/comm; exit 3", check=False, timeout=120)
    assert (out.stdout, out.returncode) == ("0\nsleep\n", 3), out.stderr
    owner = Path(f"/proc/{host.state(name)['pid']}").stat().st_uid
    assert owner == BASE


@pytest.mark.usefixtures("server")
def test_on_this_kernel(host: Host, place: Path) -> None:
    check(host, place, HERE)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("kernel", AS_IF)
def test_as_if_on_an_older_one(kernel: str, host: Host, place: Path, kit: Path) -> None:
    host.before = (sys.executable, str(TOP / "tools" / "asif"), kernel, "--")
    host.program = str(kit / "bin" / "joey")
    check(host, place, AS_IF[kernel])


def test_on_the_test_kernel(tmp_path: Path) -> None:
    """On XFS; the host is bare but for the kit."""
    image = tmp_path / "images" / "xfs"
    image.parent.mkdir()
    with image.open("w") as file:
        file.truncate(900 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=0", str(image)], check=True)
    config = json.dumps(configuration("/x/root"))
    second = json.dumps({**json.loads(config), "process": {**json.loads(config)["process"], "args": ["sleep", "1000"]}})
    job = (
        "mkdir -p /x /www; echo hello > /www/index.html; mount -o loop,prjquota /images/xfs /x\n"
        "cp -a /rootfs /x/root; chown -R -h 100000:100000 /x/root; mkdir /x/b; busybox httpd -p 8000 -h /www\n"
        f"echo {shlex.quote(config)} > /x/b/config.json\n"
        "joey plan -b /x/b; echo '##'; joey run -b /x/b one 2>/log || cat /log; echo '##'\n"
        f"echo {shlex.quote(second)} > /x/b/config.json\n"
        "joey run -d -b /x/b two >/log 2>&1 || cat /log; joey exec two sh -c 'id -u; cat /proc/1/comm; exit 3'; echo $?\n"
        "joey delete --force two; joey list -q | wc -l; grep -c joey0 /proc/net/dev\n"
    )
    status, output = boot(
        tmp_path, job, f"{debian('bookworm', STATIC['bookworm'])}=/rootfs", f"{image.parent}=/images", timeout=600
    )
    assert status == 1, output  # of the last grep
    plan, first, rest = output.split("##\n")
    found = planned(plan)
    assert {name: found.get(name, found.get(f"{name}-privileged", "")) for name in TEST_KERNEL} == TEST_KERNEL
    assert first.splitlines() == EXPECTED
    assert rest.split() == ["0", "sleep", "3", "0", "0"]
