"""Real clients of a runtime (podman, containerd, docker), each with stores, sockets and a network namespace of its own."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import hierarchies

RUNTIME = str(Path(sys.executable).parent / "joey")
Done = subprocess.CompletedProcess[str]


def need(*programs: str) -> None:
    """Skip where a client is not installed: tools/test installs them as root, on Debian."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def until(ready: Callable[[], Any], what: str, seconds: float = 30) -> Any:
    """Wait for a true value, and give it."""
    end = time.monotonic() + seconds
    while not (value := ready()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)
    return value


@pytest.fixture(autouse=True)
def _same_hierarchies() -> Iterator[None]:
    with hierarchies(change=False):
        yield


class Client:
    """Calls one client's program inside this test session's network namespace."""

    def __init__(self, words: list[str], holder: int, environment: dict[str, str] | None = None) -> None:
        self.words = ["nsenter", f"--net=/proc/{holder}/ns/net", "--", *words]
        self.environment = {**os.environ, **(environment or {})}

    def __call__(self, *words: str, status: int | None = 0, input: str | None = None, tty: bool = False) -> Done:
        """Run a command; `status` is the exit status it must have (None: any). With `tty`, on a pseudo terminal."""
        command = [*self.words, *words]
        if tty:
            command = ["script", "-qec", " ".join(f"'{word}'" for word in command), "/dev/null"]
        # to files, not pipes: what a client leaves behind keeps its standard streams open
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            stdin: dict[str, Any] = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
            if tty:  # a keyboard that is not used: podman drops the output of a terminal whose input has ended
                keyboard = os.pipe()
                stdin = {"stdin": keyboard[0]}
            code = subprocess.run(
                command, stdout=out, stderr=err, text=True, check=False, timeout=60, env=self.environment, **stdin
            ).returncode
            if tty:
                os.close(keyboard[0])
                os.close(keyboard[1])
            for stream in (out, err):
                stream.seek(0)
            done = Done(command, code, out.read().replace("\r\n", "\n"), err.read())
        assert status is None or done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self(*words).stdout)


@pytest.fixture(scope="session")
def holder() -> Iterator[int]:
    """The pid of a process in a network namespace of the tests' own, with loopback up."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with subprocess.Popen(["unshare", "-n", "sleep", "10000"]) as process:
        host = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != host, "a network namespace")
        subprocess.run(["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip", "link", "set", "lo", "up"], check=True)
        yield process.pid
        process.kill()


@pytest.fixture(scope="session")
def image(busybox_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of the busybox root, which podman and docker import."""
    path = tmp_path_factory.mktemp("image") / "busybox.tar"
    subprocess.run(["tar", "-C", str(busybox_root), "-cf", str(path), "."], check=True)
    return path


def answers(client: Client, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a daemon talks to its client; one that ended shows its last words."""

    def up() -> bool:
        assert daemon.poll() is None, log.read_text()[-2000:]
        return client("version", status=None).returncode == 0

    until(up, f"{daemon.args!r}", 60)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a daemon this session started, by its pid."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def unmount_below(folder: Path) -> None:
    """Take away the mounts a client keeps for its stores."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for path in sorted((line.split()[4] for line in lines if line.split()[4].startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", path], check=False)


def limits() -> list[str]:
    """Limits in containers.conf's words that may be set here: podman's own defaults may be above the hard ones."""
    words = []
    for name, what in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(what)[1]
        value = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
        words.append(f"{name}={value}:{value}")
    return words


class Podman(Client):
    """podman with a store of its own."""


@pytest.fixture(scope="session")
def podman_store(holder: int, image: Path) -> Iterator[Podman]:
    need("podman", "conmon")
    # not below pytest's folder: conmon's attach socket must fit into 108 bytes
    folder = Path(tempfile.mkdtemp(prefix="jp-", dir="/tmp"))
    configuration = folder / "containers.conf"
    configuration.write_text(f"""
[containers]
default_ulimits = {json.dumps(limits())}
cgroupns = "private"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "joey"
runtime_supports_json = ["joey"]
[engine.runtimes]
joey = ["{RUNTIME}"]
[network]
network_config_dir = "{folder}/networks"
""")
    words = ["podman", "--root", f"{folder}/store", "--runroot", f"{folder}/run", "--tmpdir", f"{folder}/tmp"]
    client = Podman(words, holder, {"CONTAINERS_CONF": str(configuration)})
    client("import", str(image), "bb")
    yield client
    unmount_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def podman(podman_store: Podman) -> Iterator[Podman]:
    yield podman_store
    podman_store("rm", "--all", "--force", "--time", "0")


class Containerd(Client):
    """ctr on a containerd of its own."""

    runtime = ("--runc-binary", RUNTIME)


@pytest.fixture(scope="session")
def containerd(holder: int, image: Path) -> Iterator[Containerd]:
    need("containerd", "ctr", "containerd-shim-runc-v2")
    folder = Path(tempfile.mkdtemp(prefix="jc-", dir="/tmp"))
    off = [
        "grpc.v1.cri",
        "snapshotter.v1.btrfs",
        "snapshotter.v1.zfs",
        "snapshotter.v1.devmapper",
        "snapshotter.v1.aufs",
    ]
    (folder / "config.toml").write_text(f"""
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = {json.dumps([f"io.containerd.{name}" for name in off])}
[grpc]
address = "{folder}/c.sock"
[ttrpc]
address = "{folder}/t.sock"
""")
    archive = folder / "bb.tar"
    oci_archive(image, archive)
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            ["nsenter", f"--net=/proc/{holder}/ns/net", "containerd", "--config", str(folder / "config.toml")],
            stdout=log,
            stderr=log,
        )
        client = Containerd(["ctr", "--address", f"{folder}/c.sock"], holder)
        answers(client, daemon, folder / "log")
        client("image", "import", "--no-unpack", str(archive))
        yield client
        for left in client("task", "ls", "--quiet").stdout.split():  # of a test that failed
            client("task", "rm", "--force", left)
        stop(daemon)
    unmount_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


def oci_archive(rootfs: Path, archive: Path) -> None:
    """An OCI image layout with one layer, made of a plain tar: image-spec, image-layout."""
    import hashlib
    import io
    import tarfile

    layer = rootfs.read_bytes()

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    configuration = json.dumps({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]},
    }).encode()  # fmt: skip
    kind = "application/vnd.oci.image"

    def entry(name: str, data: bytes) -> dict[str, Any]:
        return {"mediaType": f"{kind}.{name}", "digest": f"sha256:{digest(data)}", "size": len(data)}

    manifest = json.dumps({
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": entry("config.v1+json", configuration),
        "layers": [entry("layer.v1.tar", layer)],
    }).encode()  # fmt: skip
    top = {**entry("manifest.v1+json", manifest), "annotations": {"io.containerd.image.name": "local/bb:1"}}
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [top]}).encode(),
        **{f"blobs/sha256/{digest(data)}": data for data in (layer, configuration, manifest)},
    }
    with tarfile.open(archive, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


class Docker(Client):
    """docker on a dockerd of its own."""


@pytest.fixture(scope="session")
def docker(holder: int, image: Path) -> Iterator[Docker]:
    need("docker", "dockerd", "containerd")
    folder = Path(tempfile.mkdtemp(prefix="jd-", dir="/tmp"))
    (folder / "daemon.json").write_text("{}")
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                *("nsenter", f"--net=/proc/{holder}/ns/net", "dockerd", "-H", f"unix://{folder}/d.sock"),
                *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/d.pid"),
                *(
                    "--config-file",
                    f"{folder}/daemon.json",
                    "--bridge",
                    "none",
                    "--iptables=false",
                    "--ip6tables=false",
                ),
                *("--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs"),
                *("--add-runtime", f"joey={RUNTIME}", "--default-runtime", "joey"),
            ],
            stdout=log,
            stderr=log,
        )
        client = Docker(["docker", "-H", f"unix://{folder}/d.sock"], holder, {"DOCKER_CONFIG": str(folder)})
        answers(client, daemon, folder / "log")
        client("import", str(image), "bb")
        yield client
        for left in client("ps", "--all", "--quiet").stdout.split():  # of a test that failed
            client("rm", "--force", left)
        stop(daemon)
    unmount_below(folder)
    shutil.rmtree(folder, ignore_errors=True)
