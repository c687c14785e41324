"""podman as a plain user, with joey: a user namespace made by podman, joey its root, the host's cgroups out of reach."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from joey.runtime.commands.spec import template

from ..conftest import install
from .conftest import Podman, limits, need, until

pytestmark = [pytest.mark.root, pytest.mark.slow]

ALONE = ("--network", "none")
USER = 64321
IDS = 64400  # the first of the user's subordinate ids


@pytest.fixture(scope="module")
def user_place() -> Iterator[tuple[Path, int]]:
    """A folder of a plain user, and a process in network and mount namespaces where that user is known by name."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    need("podman", "conmon", "newuidmap", "setpriv")
    folder = Path(tempfile.mkdtemp(prefix="jr-", dir="/tmp"))
    folder.chmod(0o755)
    files = {}
    for name, line in (
        ("passwd", f"joeyuser:x:{USER}:{USER}::{folder}/home:/bin/sh\n"),
        ("group", f"joeyuser:x:{USER}:\n"),
        ("subuid", f"joeyuser:{IDS}:1000\n"),
        ("subgid", f"joeyuser:{IDS}:1000\n"),
    ):
        old = Path("/etc", name)
        files[name] = folder / name
        files[name].write_text((old.read_text() if old.exists() else "") + line)
    missing = [name for name in files if not Path("/etc", name).exists()]
    if missing:
        pytest.skip(f"nothing to mount over: no /etc/{missing[0]}")
    for name in ("home", "run"):
        (folder / name).mkdir(mode=0o700)
        os.chown(folder / name, USER, USER)
    script = "".join(f"mount --bind {path} /etc/{name}\n" for name, path in files.items())
    script += "ip link set lo up\nexec sleep 10000"
    host = os.readlink("/proc/self/ns/mnt")
    with subprocess.Popen(["unshare", "--mount", "--net", "sh", "-ec", script]) as process:
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "a mount namespace")
        assert os.readlink(f"/proc/{process.pid}/ns/mnt") != host
        yield folder, process.pid
        process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def become_user(folder: Path, holder: int) -> list[str]:
    """The words that run a command as the user, in its namespaces and home."""
    namespaces = [f"--net=/proc/{holder}/ns/net", f"--mount=/proc/{holder}/ns/mnt", f"--wd={folder}/home"]
    ids = [f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--inh-caps=-all"]
    return ["nsenter", *namespaces, "--", "setpriv", *ids]


@pytest.fixture(scope="module")
def podman(user_place: tuple[Path, int], image: Path) -> Iterator[Podman]:
    folder, holder = user_place
    runtime = install(folder / "joey")
    configuration = folder / "containers.conf"
    configuration.write_text(f"""
[containers]
default_ulimits = {json.dumps(limits())}
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "joey"
runtime_supports_json = ["joey"]
[engine.runtimes]
joey = ["{runtime}"]
""")
    shutil.copy(image, folder / "image.tar")
    (folder / "image.tar").chmod(0o644)
    environment = {
        "HOME": f"{folder}/home",
        "USER": "joeyuser",
        "XDG_RUNTIME_DIR": f"{folder}/run",
        "CONTAINERS_CONF": str(configuration),
    }
    client = Podman(["podman"], holder, environment)
    as_user = become_user(folder, holder)
    client.words = [*as_user, "podman"]
    client("import", f"{folder}/image.tar", "bb")
    yield client
    client("rm", "--all", "--force", "--time", "0")
    for path in folder.glob("run/**/pause.pid"):  # podman's own process, which holds the user namespace
        os.kill(int(path.read_text()), signal.SIGKILL)


def test_joey_maps_many_ids_by_newuidmap(user_place: tuple[Path, int], busybox_root: Path) -> None:
    """joey called by the user itself: newuidmap and newgidmap write maps that a plain user may not."""
    folder, holder = user_place
    bundle = folder / "home" / "bundle"
    shutil.copytree(busybox_root, bundle / "rootfs", symlinks=True)
    config = template(True, USER, USER)
    config["process"].update(terminal=False, args=["sh", "-c", "cat /proc/self/uid_map; cat /proc/self/gid_map"])
    for kind in ("uidMappings", "gidMappings"):
        config["linux"][kind].append({"containerID": 1, "hostID": IDS, "size": 1000})
    (bundle / "config.json").write_text(json.dumps(config))
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(bundle)], check=True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": f"{folder}/home", "XDG_RUNTIME_DIR": f"{folder}/run"}
    program = install(folder / "alone")
    done = subprocess.run(
        [*become_user(folder, holder), program, "run", "--bundle", str(bundle), "many"],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [["0", str(USER), "1"], ["1", str(IDS), "1000"]] * 2, done.stderr


def test_run_maps_the_users_ids(podman: Podman) -> None:
    done = podman("run", "--rm", *ALONE, "bb", "sh", "-c", "id -u; cat /proc/self/uid_map; exit 4", status=4)
    fields = [line.split() for line in done.stdout.splitlines()]
    assert fields == [["0"], ["0", str(USER), "1"], ["1", str(IDS), "1000"]]


def test_a_process_with_the_users_own_id(podman: Podman) -> None:
    done = podman("run", "--rm", "--userns", "keep-id", *ALONE, "bb", "id", "-u")
    assert done.stdout == f"{USER}\n"


def test_exec_stop_and_nothing_left(podman: Podman, user_place: tuple[Path, int]) -> None:
    podman("run", "-d", "--name", "box", *ALONE, "bb", "sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done")
    assert podman("exec", "box", "cat", "/proc/1/comm").stdout == "sh\n"
    assert "/dev/pts/" in podman("exec", "-it", "box", "tty", tty=True).stdout
    podman("exec", "box", "gone", status=127)
    podman("stop", "box")
    (inspected,) = podman.json("inspect", "box")
    assert inspected["State"]["ExitCode"] == 3
    podman("rm", "box")
    assert os.listdir(user_place[0] / "run" / "joey" / "containers") == []


def test_the_hosts_cgroups_are_read_only(podman: Podman) -> None:
    mounts = podman("run", "--rm", *ALONE, "bb", "cat", "/proc/mounts").stdout.splitlines()
    cgroups = [line.split() for line in mounts if " /sys/fs/cgroup" in line]
    assert all(fields[3].split(",")[0] == "ro" for fields in cgroups), cgroups
