"""Escapes of other runtimes, each tried here by the number it got. See also test_attacks.py and test_failures.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle
from .test_failures import processes_in
from .test_life import terminal

pytestmark = pytest.mark.root

SECRET = "core_pattern"


def without(*places: str) -> Any:
    """A change that leaves the root file system's own folders at some mount points."""

    def change(config: dict[str, Any]) -> None:
        config["mounts"] = [mount for mount in config["mounts"] if mount["destination"] not in places]

    return change


@pytest.mark.parametrize("behind_a_link", [False, True])
def test_no_descriptor_of_joey_is_a_working_directory(
    behind_a_link: bool, joey: Joey, bundle: MakeBundle, tmp_path: Path
) -> None:
    """CVE-2024-21626: process.cwd on a leaked descriptor of a host's folder."""
    folder = bundle("sleep", "100")
    name = joey.id()
    joey("run", "-d", "-b", str(folder), name)
    for number in range(3, 16):
        place = f"/proc/self/fd/{number}"
        if behind_a_link:
            link = folder / "rootfs" / f"link{number}"
            link.symlink_to(place)
            place = f"/{link.name}"
        done = joey("exec", "--cwd", place, name, "pwd", check=False)
        assert (done.returncode, done.stdout) == (255, ""), (number, done.stdout, done.stderr)
        if number % 4 == 0:
            config = json.loads((folder / "config.json").read_text())
            config["process"].update(cwd=place, args=["ls", ".."])
            (tmp_path / "b").mkdir(exist_ok=True)
            config["root"]["path"] = str(folder / "rootfs")
            (tmp_path / "b" / "config.json").write_text(json.dumps(config))
            done = joey("run", "-b", str(tmp_path / "b"), joey.id(), check=False)
            assert (done.returncode, done.stdout) == (1, ""), (number, done.stdout, done.stderr)


def test_a_null_device_that_is_a_link_masks_nothing_else(joey: Joey, bundle: MakeBundle) -> None:
    """CVE-2025-31133: maskedPaths bind the container's /dev/null, which it made a link to a file of /proc."""
    folder = bundle(
        "sh",
        "-c",
        "cat /proc/timer_list | wc -c; ls -l /proc/timer_list",
        change=without("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"),
    )
    device = folder / "rootfs" / "dev" / "null"
    device.parent.mkdir(exist_ok=True)
    device.unlink(missing_ok=True)
    device.symlink_to(f"/proc/sys/kernel/{SECRET}")
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    if done.returncode == 0:
        assert (done.stdout.split()[0], done.stdout.split()[1][0]) == ("0", "c")
    else:
        assert "/dev/null" in done.stderr


@pytest.mark.parametrize("target", [f"/proc/sys/kernel/{SECRET}", "/proc/version"])
def test_a_console_that_is_a_link_is_not_followed(target: str, joey: Joey, bundle: MakeBundle) -> None:
    """CVE-2025-52565: the terminal is bound over /dev/console, which the container made a link into /proc."""

    def change(config: dict[str, Any]) -> None:
        terminal(config)
        without("/dev", "/dev/shm", "/dev/mqueue")(config)

    folder = bundle("sh", "-c", f"ls -l {target}; grep -c console /proc/self/mountinfo", change=change)
    device = folder / "rootfs" / "dev" / "console"
    (device.parent / "pts").mkdir(parents=True, exist_ok=True)
    device.unlink(missing_ok=True)
    device.symlink_to(target)
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, "/dev/console is in /proc" in done.stderr) == (1, True), (done.stdout, done.stderr)


@pytest.mark.parametrize("type_", ["bind", "tmpfs"])
@pytest.mark.parametrize("place", ["/proc", "/proc/self/attr", "/proc/sys", "/proc/sys/net"])
def test_no_other_file_system_poses_as_proc(
    type_: str, place: str, joey: Joey, bundle: MakeBundle, tmp_path: Path
) -> None:
    """CVE-2025-52881: what the runtime writes to /proc (sysctls, labels) lands in another file."""
    trap = tmp_path / "trap"
    for path in (trap / "net/ipv4/ip_forward", trap / "sys/net/ipv4/ip_forward", trap / "ipv4/ip_forward"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("trap")

    def change(config: dict[str, Any]) -> None:
        options = ["bind"] if type_ == "bind" else []
        config["mounts"].insert(1, {"destination": place, "type": type_, "source": str(trap), "options": options})
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}

    done = joey("run", "-b", str(bundle("true", change=change)), joey.id(), check=False)
    assert (done.returncode, "/proc" in done.stderr) == (1, True), done.stderr
    assert {path.read_text() for path in trap.rglob("ip_forward")} == {"trap"}


def test_a_link_to_proc_is_no_way_around(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": "/innocent", "type": "tmpfs", "source": "t"})

    folder = bundle("true", change=change)
    (folder / "rootfs" / "innocent").symlink_to("/proc/sys/net")
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, "/innocent is in /proc" in done.stderr) == (1, True), done.stderr


def test_files_that_lxcfs_shows_may_be_mounted_over(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("5.00 5.00\n")

    def change(config: dict[str, Any]) -> None:
        entry = {"destination": "/proc/uptime", "type": "bind", "source": str(tmp_path / "uptime"), "options": ["bind"]}
        config["mounts"].append(entry)

    assert joey("run", "-b", str(bundle("cat", "/proc/uptime", change=change)), joey.id()).stdout == "5.00 5.00\n"


def test_a_mount_target_that_is_swapped_for_a_link(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    """CVE-2021-30465: a container flips a folder of a shared volume to a link while another mounts below it."""
    volume = tmp_path / "volume"
    (volume / "a").mkdir(parents=True)
    (volume / "b").symlink_to("/")

    def change(config: dict[str, Any]) -> None:
        config["mounts"] += [
            {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["bind"]},
            {"destination": "/volume/a/x", "type": "tmpfs", "source": "racing"},
        ]

    flip = f"cd {volume}; while :; do mv -T a c; mv -T b a; mv -T a b; mv -T c a; done"
    folder = bundle("grep", "racing", "/proc/self/mountinfo", change=change)
    with subprocess.Popen(["sh", "-c", flip], stderr=subprocess.DEVNULL) as racer:
        try:
            for _ in range(12):
                done = joey("run", "-b", str(folder), joey.id(), check=False)
                if done.returncode == 0:
                    # below the volume, or below the container's own root where the link led
                    assert done.stdout.split()[4] in ("/volume/a/x", "/volume/c/x", "/x"), done.stdout
        finally:
            racer.kill()
    assert not Path("/x").exists()
    assert "racing" not in Path("/proc/self/mountinfo").read_text()


def test_exec_shows_a_hostile_container_nothing(joey: Joey, bundle: MakeBundle) -> None:
    """CVE-2016-9962, CVE-2019-5736: the process on its way in is looked at through /proc by one that waits for it."""
    script = (
        "while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) continue;; esac; "
        "e=$(readlink $p/exe) && echo exe $e; for f in $p/fd/*; do l=$(readlink $f) && echo fd $l; done; done; "
        "done >/seen 2>/dev/null"
    )
    folder = bundle("sh", "-c", script)
    name = joey.id()
    joey("run", "-d", "-b", str(folder), name)
    seen = folder / "rootfs" / "seen"
    end = time.monotonic() + 30
    count = 0
    while count < 10 or (not seen.read_text() and time.monotonic() < end):  # on a busy machine it looks seldom
        assert joey("exec", name, "echo", "in").stdout == "in\n"
        count += 1
    time.sleep(0.2)
    lines = seen.read_text().splitlines()
    assert lines
    assert {line for line in lines if line.startswith("exe ")} <= {"exe /bin/busybox"}
    assert not [line for line in lines if line.startswith("fd /") and "socket" in line]
    hosts = (str(joey.root), "/usr", "python", "/etc", "config.json", "start.sock")
    assert not [line for line in lines if any(word in line for word in hosts)]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..", ".", "a/b", "a\nb", "", "x" * 2000])
@pytest.mark.parametrize("command", ["create", "delete", "state", "kill", "start", "exec", "ps"])
def test_no_id_leaves_the_root(command: str, name: str, joey: Joey, bundle: MakeBundle) -> None:
    (joey.root.parent / "x").mkdir()
    more = {"create": ["-b", str(joey.root.parent)], "delete": ["--force"]}.get(command, [])
    last = ["true"] if command == "exec" else []
    done = joey(command, *more, "--", name, *last, check=False)
    assert done.returncode in (1, 2, 255)
    assert "Traceback" not in done.stderr
    assert (joey.root.parent / "x").is_dir()
    assert not joey.root.exists() or not list(joey.root.iterdir())


@pytest.mark.parametrize("delay", [0.01, 0.03, 0.05, 0.08, 0.12])
def test_a_killed_exec_leaves_no_process(delay: float, joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    folder = bundle("sleep", "300")
    joey("run", "-d", "-b", str(folder), name)
    with subprocess.Popen(
        joey.command("exec", name, "sleep", "200"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        time.sleep(delay)
        process.kill()
    assert joey("exec", name, "echo", "still").stdout == "still\n"
    joey("delete", "--force", name)
    assert not processes_in(folder)


@pytest.mark.parametrize("delay", [0.01, 0.02, 0.03, 0.04, 0.06])
def test_a_killed_delete_is_done_by_the_next(delay: float, joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    folder = bundle("sleep", "300")
    joey("run", "-d", "-b", str(folder), name)
    pid = joey.state(name)["pid"]
    with subprocess.Popen(joey.command("delete", "--force", name), stderr=subprocess.DEVNULL) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    joey("delete", "--force", name)
    assert not processes_in(folder)
    assert not os.path.exists(f"/proc/{pid}/root/bin/busybox")
