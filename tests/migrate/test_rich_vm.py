"""Rich containers with a kernel of their own: real kernels (one like 2.6.32, and Debian's) in QEMU."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from joey.migrate.rich.vm import boot

from ..conftest import TOP
from ..e2e.conftest import host
from ..e2e.host import Host
from .guests import SERVER, debian_root, run
from .test_rich import Rich, fetched, rich, there, wait_for

__all__ = ["host", "rich", "there"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]


@pytest.fixture(scope="session")
def old_kernel() -> str:
    """A kernel that answers like 2.6.32."""
    return os.environ.get("JOEY_TEST_KERNEL") or run(TOP / "tools/kernel/build").strip()


@pytest.fixture(scope="session")
def debian_kernel() -> str:
    """Debian 12's, with its modules."""
    return run(TOP / "tools/kernel/debian", "bookworm", "amd64").strip()


def launch(rich: Rich, kernel: str, root: Path, *words: str, name: str = "one", verb: str = "run") -> Any:
    return rich(verb, "--rootfs", str(root), "--name", name, "--isolation", "vm", "--accel", "tcg", "--kernel", kernel,
                *words, timeout=300)  # fmt: skip


def test_the_initial_file_system_is_what_cpio_reads(tmp_path: Path) -> None:
    data = boot.cpio([("a", 0o40755, b""), ("a/b", 0o100640, b"odd")]) + boot.cpio([("links", 0o100644, b"more")])
    names = subprocess.run(["cpio", "-i", "-t", "--quiet"], input=data[: data.index(b"TRAILER")] + data[data.index(b"TRAILER") :],
                           capture_output=True, check=True, cwd=tmp_path)  # fmt: skip
    assert names.stdout.split() == [b"a", b"a/b"]
    subprocess.run(["cpio", "-i", "--quiet"], input=data, check=True, cwd=tmp_path)
    assert (tmp_path / "a/b").read_bytes() == b"odd"
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--isolation", "vm", "--kernel", "/etc/passwd"), "/etc/passwd is no Linux kernel"),
        (("--isolation", "vm", "--kernel", "/not/there"), "there is no /not/there"),
        (("--isolation", "vm", "--kernel", "/etc"), "has no boot/vmlinuz"),
        (("--isolation", "vm", "--privileged"), "--privileged is not for --isolation vm"),
        (("--isolation", "vm", "--id-map", "100000"), "--id-map is not for --isolation vm"),
        (("--isolation", "vm", "--network", "container:x"), "container:NAME is not for --isolation vm"),
        (("--isolation", "vm", "--hook", "startContainer:true"), "before its init nothing can run"),
        (("--isolation", "cell"), "--isolation is container or vm"),
        (("--kernel", "/x"), "are for --isolation vm"),
    ],
)
def test_what_can_not_be(rich: Rich, machine: Callable[..., Path], words: tuple[str, ...], said: str) -> None:
    done = rich("create", "--rootfs", str(machine()), "--name", "one", *words, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert rich.rows() == {}


@pytest.mark.slow
def test_a_kernel_without_9p_is_refused(rich: Rich, machine: Callable[..., Path]) -> None:
    """The one that clouds boot has none; nothing is started then."""
    kernel = run(TOP / "tools/kernel/debian", "bookworm").strip()
    done = rich(
        "run", "--rootfs", str(machine()), "--name", "one", "--isolation", "vm", "--kernel", kernel, check=False
    )
    assert done.returncode == 1
    assert "has no 9pnet_virtio" in done.stderr
    assert rich.status("one") == "stopped"


@pytest.mark.slow
def test_a_life(rich: Rich, machine: Callable[..., Path], old_kernel: str, tmp_path: Path) -> None:
    root = machine(up="echo up on $(uname -r)")
    launch(
        rich, old_kernel, root, "--wait-for", "command:true", "--memory", "300M", "--cpus", "2", "--env", "ODD=a b=c"
    )
    assert rich.inside("one", "uname -r; hostname; nproc; echo $ODD; id -u") == "2.6.32-asif\none\n2\na b=c\n0\n"
    assert rich("exec", "--user", "33:44", "one", "id").stdout.startswith("uid=33 gid=44")
    assert "up on 2.6.32" in rich.log("one")
    assert 200000 < int(rich.inside("one", "busybox awk '/MemTotal/ {print $2}' /proc/meminfo")) < 307200
    assert rich("exec", "one", "sh", "-c", "echo out; echo err >&2; exit 7", check=False).returncode == 7
    done = rich("exec", "one", "not-there", check=False)
    assert (done.returncode, "ENOENT" in done.stderr) == (255, True)
    data = os.urandom(3 << 20)
    given = tmp_path / "given"
    given.write_bytes(data)
    with given.open("rb") as file:
        assert rich("exec", "one", "busybox", "md5sum", stdin=file).stdout.split()[0] == hashlib.md5(data).hexdigest()
    rich("exec", "one", "sh", "-c", "echo kept >/kept; chown 33:44 /kept; chmod 4711 /kept")
    written = rich.store / "one/bundle/joey-layers/upper/kept"
    found = written.lstat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (33, 44, 0o4711), "its files are the host's"
    assert not (root / "kept").exists()
    rich("pause", "one")
    assert rich.status("one") == "paused"
    rich("resume", "one")
    first = rich.inside("one", "cat /proc/sys/kernel/random/boot_id")
    rich("exec", "one", "sh", "-c", "kill -TERM 1")  # busybox's word for it
    wait_for(lambda: rich.inside("one", "cat /proc/sys/kernel/random/boot_id", check=False) not in ("", first), 60)
    assert rich.inside("one", "cat /kept") == "kept\n"
    rich("stop", "one")
    assert "reboot: Power down" in rich.log("one"), "it went down by its init"
    rich("start", "one")
    rich("exec", "one", "sh", "-c", "kill -USR2 1")
    wait_for(lambda: rich.status("one") == "stopped", 30)


@pytest.mark.slow
def test_a_terminal(rich: Rich, machine: Callable[..., Path], debian_kernel: str) -> None:
    launch(rich, debian_kernel, machine(), "--wait-for", "command:true")
    command = f"{rich.program} rich exec -t one sh -c 'tty; stty size; read line; echo got $line'"
    script = f"stty rows 31 cols 99; exec {command}"
    environment = {**os.environ, "JOEY_RICH": str(rich.store)}
    done = subprocess.run(["script", "-qec", script, "/dev/null"], input="words\n", capture_output=True, text=True,
                          env=environment, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0
    assert "/dev/pts/0" in done.stdout
    assert "31 99" in done.stdout
    assert "got words" in done.stdout


@pytest.mark.slow
def test_many_commands_and_one_that_is_killed(rich: Rich, machine: Callable[..., Path], old_kernel: str) -> None:
    """More at once than there are ports; a caller that goes away takes its command along and harms no other."""
    launch(rich, old_kernel, machine(), "--wait-for", "command:true")
    environment = {**os.environ, "JOEY_RICH": str(rich.store)}
    for _ in range(12):
        words = [rich.program, "rich", "exec", "one", "sh", "-c", "echo $$; exec sleep 1000"]
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=environment, text=True
        ) as caller:
            assert caller.stdout
            pid = caller.stdout.readline().strip()
            caller.send_signal(signal.SIGKILL)
        while rich("exec", "one", "kill", "-0", pid, check=False).returncode != 1:
            time.sleep(0.05)
    with ThreadPoolExecutor(12) as pool:
        said = list(pool.map(lambda number: rich.inside("one", f"sleep 0.3; echo {number}"), range(24)))
    assert said == [f"{number}\n" for number in range(24)]


@pytest.mark.slow
@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -9 $$", 137), ("exit 0", 0)])
def test_a_program_and_its_status(
    rich: Rich, machine: Callable[..., Path], old_kernel: str, script: str, status: int
) -> None:
    launch(
        rich, old_kernel, machine(), "--init", "none", "--restart", "on-failure:1", "sh", "-c", f"echo hello; {script}"
    )
    wait_for(lambda: rich.status("one") == "stopped", 60)
    assert rich.inspect("one")["life"]["last_status"] == status
    assert rich.log("one").count("hello") == (2 if status else 1), "its policy goes by the program's status"


@pytest.mark.slow
def test_a_program_is_told_to_end(rich: Rich, machine: Callable[..., Path], old_kernel: str, tmp_path: Path) -> None:
    script = 'trap "echo told; exit 5" TERM; touch /data/here; while :; do sleep 0.1; done'
    volume = tmp_path / "data"
    volume.mkdir()
    root = machine()
    (root / "data").symlink_to("/../../.." + str(tmp_path))  # leads nowhere but into the machine
    launch(rich, old_kernel, root, "--init", "none", "--volume", f"{volume}:/data", "--pids", "40", "sh", "-c", script)
    wait_for(lambda: (volume / "here").exists(), 60)
    fork = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i + 1)); done"
    assert "can't fork" in rich("exec", "one", "sh", "-c", fork, check=False).stderr
    rich("stop", "one")
    assert "told" in rich.log("one")
    assert rich.inspect("one")["life"]["last_status"] == 5


@pytest.mark.slow
def test_a_hostile_machine_says_what_it_likes(rich: Rich, machine: Callable[..., Path], old_kernel: str) -> None:
    """Its root may be the agent: what it says is not trusted, and not waited for without end."""
    launch(rich, old_kernel, machine(), "--wait-for", "command:true", "--stop-timeout", "2")
    pids = rich.inside(
        "one",
        "for i in $(seq 2 200); do [ ! -e /proc/$i/exe ] || grep -q agent /proc/$i/comm && echo $i; done",
        check=False,
    )
    assert pids.split()
    rich("exec", "one", "sh", "-c", f"(sleep 1; kill -9 {' '.join(pids.split())}) >/dev/null 2>&1 &")
    time.sleep(2)
    before = time.monotonic()
    done = rich("exec", "one", "true", check=False)
    assert done.returncode == 255
    assert time.monotonic() - before < 20
    rich("stop", "one", timeout=60)
    assert rich.status("one") == "stopped"


def test_frames_of_a_hostile_machine(tmp_path: Path) -> None:
    """A mock of the port's other end: what a machine may send there is not to be had of a real agent."""
    from joey.migrate.rich.vm import link

    for name in ("run", "locks"):
        (tmp_path / "vm" / name).mkdir(parents=True)
    program = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1])\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('exec8'); s.listen(); print(flush=True)\n"
        "c = s.accept()[0]; n = c.recv(65536)[4:8]\n"
        "c.sendall(bytes.fromhex(sys.argv[2]).replace(b'NNNN', n)); c.recv(1); c.close()"
    )
    started = b"JyS\0NNNN" + struct.pack("<I", 0)
    for sent in (
        b"\0" * 4096,
        b"JyS\0NNNN\xff\xff\xff\xff",
        started + b"JyO\0NNNN\xff\xff\xff\x7f",
        started + b"garbage" * 9,
        b"JyF\0NNNN" + struct.pack("<II", 4, 0xFFFFFFFF),
        started + b"JyX\0NNNN" + struct.pack("<II", 4, 0x7F),
    ):
        words = [sys.executable, "-c", program, str(tmp_path / "vm/run"), sent.hex()]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as other:
            assert other.stdout
            other.stdout.readline()
            body = link.request(["true"], {}, (0, 0, []), "/", None)
            try:
                assert link.run(str(tmp_path / "vm"), body, 5).returncode == 255
            finally:
                other.kill()
        (tmp_path / "vm/run/exec8").unlink()


@pytest.mark.slow
def test_links_of_a_machine_lead_its_volumes_nowhere_else(
    rich: Rich, machine: Callable[..., Path], old_kernel: str, tmp_path: Path
) -> None:
    """Between two starts it makes the place of its volume a link to /usr: of the machine, not of what is around it."""
    volume = tmp_path / "volume"
    (volume / "bin").mkdir(parents=True)
    (volume / "mark").write_text("x")
    (volume / "bin/qemu-system-x86_64").write_text("#!/bin/sh\necho escaped\n")
    (volume / "bin/qemu-system-x86_64").chmod(0o755)
    script = (
        "[ ! -e /usr/mark ] || { echo inside; exit 0; }; "
        "mv /opt/shop /opt/old; mkdir -p /opt/shop /usr; ln -s /usr /opt/shop/data; exit 3"
    )
    words = ("--init", "none", "--restart", "on-failure:1", "--volume", f"{volume}:/opt/shop/data")
    launch(rich, old_kernel, machine(), *words, "sh", "-c", script)
    wait_for(lambda: rich.status("one") == "stopped", 60)
    assert "escaped" not in rich.log("one")
    assert "inside" in rich.log("one")


@pytest.mark.slow
def test_what_its_image_says_of_modules_is_bounded(
    rich: Rich, machine: Callable[..., Path], debian_kernel: str
) -> None:
    root = machine()
    shutil.copytree(Path(debian_kernel) / "boot", root / "boot")
    (release,) = [path.name for path in (Path(debian_kernel) / "lib/modules").iterdir()]
    folder = root / "lib/modules" / release
    folder.mkdir(parents=True)
    with (folder / "x.ko").open("wb") as file:
        file.truncate(32 << 20)
    names = " ".join(f"{'./' * number}x{number}.ko" for number in range(24))
    for number in range(24):
        (folder / f"x{number}.ko").hardlink_to(folder / "x.ko")
    needed = ("virtio_pci", "9pnet_virtio", "9p", "virtio_net", "virtio_console")
    (folder / "modules.dep").write_text("".join(f"x0.ko/{name}.ko: {names}\n" for name in needed))
    done = rich("run", "--rootfs", str(root), "--name", "one", "--isolation", "vm", "--accel", "tcg", check=False)
    assert "wants too many modules" in done.stderr


def limits_of(rich: Rich) -> dict[str, str]:
    """The limits of the container that QEMU is in."""
    pid = rich.inspect("one")["pid"]
    names = ("memory.limit_in_bytes", "memory.max", "pids.max")
    groups = [line.split(":")[2].lstrip("/") for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    paths = {path for group in groups for name in names for path in Path("/sys/fs/cgroup").glob(f"*/{group}/{name}")}
    return {str(path): path.read_text() for path in sorted(paths)}


@pytest.mark.slow
def test_much_in_and_more_out(rich: Rich, machine: Callable[..., Path], old_kernel: str, tmp_path: Path) -> None:
    """A command that says more than it is told; and an update of what is not the machine's to change."""
    launch(rich, old_kernel, machine(), "--wait-for", "command:true", "--memory", "200M", "--pids", "60")
    given = tmp_path / "given"
    given.write_bytes((b"a" * 99 + b"\n") * 20_000)
    with given.open("rb") as file:
        out = rich("exec", "one", "busybox", "sed", "s/a/0123456789/g", stdin=file, timeout=90).stdout
    assert len(out) == 20_000 * 991
    before = limits_of(rich)
    rich("update", "--label", "a=b", "--memory", "150M", "one")
    assert limits_of(rich) == before != {}
    assert rich.inside("one", "echo well") == "well\n"


@pytest.mark.slow
def test_a_reboot_ends_what_runs_there(rich: Rich, machine: Callable[..., Path], old_kernel: str) -> None:
    launch(rich, old_kernel, machine(), "--wait-for", "command:true")
    done = rich("exec", "one", "sh", "-c", "kill -TERM 1; sleep 1000", check=False, timeout=60)
    assert done.returncode == 255


@pytest.mark.slow
def test_it_is_stopped_though_all_ports_are_taken(rich: Rich, machine: Callable[..., Path], old_kernel: str) -> None:
    launch(rich, old_kernel, machine(down="echo going down in order"), "--wait-for", "command:true")
    environment = {**os.environ, "JOEY_RICH": str(rich.store)}
    words = [rich.program, "rich", "exec", "one", "sleep", "100"]
    callers = [subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment) for _ in range(8)]
    time.sleep(1)
    rich("stop", "one")
    assert "going down in order" in rich.log("one")
    for caller in callers:
        caller.kill()
        caller.wait()


@pytest.mark.slow
def test_machines_and_containers_reach_each_other(
    host: Host, there: Rich, machine: Callable[..., Path], debian_kernel: str
) -> None:
    serve = "mkdir -p /www; hostname >/www/index.html; httpd -p 80 -h /www"
    root = machine(up=serve)
    network = ("--network", "bridge,address=10.71.0.10,mac=52:54:00:12:34:56", "--publish", "8080:80")
    launch(there, debian_kernel, root, *network, "--wait-for", "port:80")
    launch(there, debian_kernel, root, "--network", "bridge", "--wait-for", "port:80", name="two")
    there("run", "--rootfs", str(root), "--name", "three", "--network", "bridge", "--wait-for", "port:80")
    assert there.inside("two", "wget -qO- http://10.71.0.10/; wget -qO- http://three/") == "one\nthree\n"
    assert there.inside("three", "wget -qO- http://one/; wget -qO- http://two/") == "one\ntwo\n"
    assert there.inside("one", "cat /sys/class/net/eth0/address") == "52:54:00:12:34:56\n", "the machine has its MAC"
    assert fetched(host, "http://192.0.2.1:8080/") == "one\n"
    there("restart", "one", timeout=100)
    assert there.inside("three", "wget -qO- http://one/") == "one\n"


@pytest.mark.slow
def test_a_real_machine_with_debians_kernel(host: Host, there: Rich, tmp_path: Path, debian_kernel: str) -> None:
    """systemd, with its services, on a kernel of its own; upgraded, and put back."""
    root = tmp_path / "root"
    run("cp", "-a", debian_root(*SERVER), root)
    shutil.rmtree(root / "boot")
    (root / "var/www/html/index.html").write_text("the old page\n")
    launch(there, debian_kernel, root, "--network", "bridge,address=10.71.0.10", "--memory", "700M", "--wait-timeout", "250",
           "--wait-for", "init", "--wait-for", "port:80")  # fmt: skip
    assert fetched(host, "http://10.71.0.10/") == "the old page\n"
    assert there.inside("one", "systemctl --failed --no-legend") == ""
    assert there.inside("one", "systemd-detect-virt") == "qemu\n"
    inspected = there.inspect("one")
    assert inspected["isolation"] == "vm"
    assert "kvm" in inspected["lost"]
    assert json.loads((there.store / "one/vm/machine.json").read_text())["kernel"].startswith("6.1")
    there("stop", "one", timeout=100)
    assert "reboot: Power down" in there.log("one")
