"""Containers of a user without any privilege, without a namespace: the same answers inside as in a user namespace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle, install
from .test_users import FILES, Change, mapped, program, shift

__all__ = ["mapped", "program"]

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.uname().machine != "x86_64", reason="the tracer is for x86-64")]

USER = 1000
WORDS = ("--force", "userns=pretended", "--policy", "permissive")


class Plain:
    """joey as a user without privilege."""

    def __init__(self, folder: Path) -> None:
        self.program = install(folder / "joey")
        self.home = folder / "home"
        self.home.mkdir()
        os.chown(self.home, USER, USER)
        self.count = 0

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", self.program, *words]
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # a pipe ends with its container
            status = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/", check=False
            ).returncode
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(command, status, out.read(), err.read())
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def id(self) -> str:
        self.count += 1
        return f"plain-{self.count}"

    def run(self, folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self("run", *WORDS, *words, "-b", str(folder), self.id(), check=check)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder = tmp_path_factory.mktemp("plain")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    return Plain(folder)


@pytest.fixture
def owned(mapped: MakeBundle) -> MakeBundle:
    """A function that makes a bundle which belongs to the user."""

    def make(*words: str, change: Change | None = None) -> Path:
        folder = mapped(*words, change=change, base=USER)
        for path in (folder, *list(folder.parents)[:4]):
            if path.owner() == "root":
                path.chmod(path.stat().st_mode | 0o055)
        shift(folder, USER)
        return folder

    return make


@pytest.fixture
def both(joey: Joey, plain: Plain, mapped: MakeBundle, owned: MakeBundle) -> Callable[..., str]:
    """A function that runs words in the kernel's user namespace and without any, which must print the same."""

    def run(*words: str, change: Change | None = None) -> str:
        native = joey(
            "run", "--force", "userns=native", "-b", str(mapped(*words, change=change)), joey.id(), check=False
        )
        done = plain.run(owned(*words, change=change), check=False)
        assert done.stdout.splitlines() == native.stdout.splitlines(), done.stderr
        assert done.returncode == native.returncode
        return done.stdout

    return run


@pytest.mark.parametrize("part", ["identity", "privileges", "messages", "threads", "filter", "pointers"])
def test_ids_are_what_a_user_namespace_shows(both: Callable[..., str], part: str) -> None:
    assert len(both("users", part).splitlines()) >= 2


def test_an_exec_beside_a_busy_thread_is_an_exec(both: Callable[..., str]) -> None:
    assert both("users", "crowd").count("executed: 0 0 0 / 0 0 0, 0 0 0 0, groups\n") == 40


def test_root_may_do_all_with_the_files_of_its_container(both: Callable[..., str]) -> None:
    assert "hi\n2\n2\n" in both("sh", "-c", FILES)


def test_who_is_not_root_may_not(both: Callable[..., str]) -> None:
    script = (
        "echo root > /tmp/r; chmod 600 /tmp/r; mkdir -m 700 /tmp/d; chmod 4755 /bin/busybox; "
        "su user -c 'id; cat /tmp/r; ls /tmp/d; echo x > /tmp/mine; chown 0 /tmp/mine; chmod 777 /tmp/r; "
        "rm -f /tmp/r; chgrp 5 /tmp/mine; stat -c %u:%g /tmp/mine /tmp/r' 2>&1"
    )
    out = both("sh", "-c", script)
    assert "uid=1000" in out
    assert out.count("denied") + out.count("permitted") >= 6


@pytest.mark.parametrize("nnp", [False, True])
def test_set_id_bits_are_honoured_unless_forbidden(both: Callable[..., str], nnp: bool) -> None:
    def user(config: dict[str, Any]) -> None:
        config["process"]["noNewPrivileges"] = nnp

    script = (
        "cp /bin/users /bin/suid; chown 33:44 /bin/suid; chmod 6755 /bin/suid; su user -c '/bin/suid identity-short'; "
        "chmod 4755 /bin/suid; chown 99 /bin/suid; stat -c %a /bin/suid; /bin/suid identity-short"
    )
    assert ("executed: 1000 33 33 / 1000 44 44" in both("sh", "-c", script, change=user)) == (not nnp)


PATHS = """
mkdir -p /a/b /c; echo found > /a/b/f; ln -s /a/b /c/abs; ln -s ../a /c/rel; ln -s loop /c/loop; ln -s / /c/root
cat /c/abs/f /c/rel/b/f /c/root/c/root/c/abs/../b/f; cd /c/abs; pwd -P; cat ../b/f; cd ../../..; pwd
cat /c/loop 2>&1; cat /../../../../a/b/f; ls -d /a/b/f/ 2>&1; cat /a/b/f/../f 2>&1; cat /none/../a/b/f 2>&1
readlink /proc/self/exe /proc/self/cwd /proc/self/root; cat /proc/self/root/a/b/f; cat < /a/b/f
exec 5</a/b/f; readlink /proc/self/fd/5; cat /proc/self/fd/5; rm /a/b/f; cat /proc/self/fd/5 2>/dev/null || cat <&5
mv /c/abs /c/moved; readlink /c/moved; rmdir /a/b /a; ls /c; ln /bin/busybox /hard && /hard echo linked
printf '#!/bin/sh\\necho script $0 $1\\n' > /s; chmod 755 /s; /s word; cd /; ./s other; printf '#!/s\\n' > /t; chmod 755 /t; /t third
printf '#!/missing\\n' > /m; chmod 755 /m; /m 2>&1; echo $?; /c 2>&1; echo $?; echo x > /n; /n 2>&1; echo $?
chroot /proc/.. /bin/sh -c 'echo chrooted; pwd'; mkdir -p /jail/bin; cp /bin/busybox /jail/bin/; chroot /jail /bin/busybox ls /
chroot /jail /bin/busybox ls /..; chroot /jail /bin/busybox cat /../../etc/passwd 2>&1
"""


def test_paths_lead_where_a_root_of_ones_own_has_them(both: Callable[..., str]) -> None:
    def applets(config: dict[str, Any]) -> None:
        config["process"]["env"].append("ASH_STANDALONE=1")

    out = both("sh", "-c", PATHS, change=applets)
    assert out.startswith("found\nfound\nfound\n/a/b\n")


def test_nothing_of_the_host_is_named(plain: Plain, owned: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("the host's")
    script = (
        f"cat {tmp_path}/outside; cat /proc/self/root{tmp_path}/outside; ls -l /proc/1/root/ >/dev/null; cd /..; "
        f"ln -s {tmp_path}/outside /l; cat /l; cat ../../../../../../..{tmp_path}/outside; chroot . cat {tmp_path}/outside"
    )
    done = plain.run(owned("sh", "-c", f"({script}) 2>&1; pwd"), check=False)
    assert "the host's" not in done.stdout
    assert done.stdout.endswith("/\n")


def test_owners_last_and_are_not_the_hosts(plain: Plain, owned: MakeBundle) -> None:
    script = (
        "touch /f; chown 33:44 /f; chmod 4711 /f; ln -s x /l; chown -h 5:6 /l; mkfifo /p; chown 7 /p; chmod 0 /p; "
        "mknod /null c 1 3; mknod /disk b 8 0; mkdir /d; chmod 0 /d"
    )
    look = "stat -c '%n %u:%g %a %F %t:%T' /f /l /p /null /disk /d; echo gone > /null; cat /null; cat /disk"
    folder = owned("sh", "-c", script)
    plain.run(folder)
    config = json.loads((folder / "config.json").read_text())
    config["process"]["args"][2] = f"({look}) 2>&1"
    (folder / "config.json").write_text(json.dumps(config))
    seen = plain.run(folder, check=False).stdout.splitlines()
    assert seen[:6] == [
        "/f 33:44 4711 regular empty file 0:0",
        "/l 5:6 777 symbolic link 0:0",
        "/p 7:0 0 fifo 0:0",
        "/null 0:0 644 character special file 1:3",
        "/disk 0:0 644 block special file 8:0",
        "/d 0:0 0 directory 0:0",
    ]
    assert seen[6:] == ["cat: can't open '/disk': No such device or address"]
    root = folder / "rootfs"
    assert {path.lstat().st_uid for path in (root / name for name in ("f", "l", "p", "null"))} == {USER}
    assert not (root / "f").stat().st_mode & 0o6000  # it would be the user's, to everybody on the host
    assert os.getxattr(root / "f", "user.rootlesscontainers") == b"\x08\x21\x10\x2c"  # as umoci has it


def test_a_table_that_was_cut_short_is_read_on(plain: Plain, owned: MakeBundle) -> None:
    folder = owned("sh", "-c", "ln -s x /l; chown -h 5 /l; ln -s x /m; chown -h 6 /m")
    plain.run(folder)
    table = Path(f"{folder}/rootfs.joey-owners")
    data = table.read_bytes()
    table.write_bytes(data[:-9])
    config = json.loads((folder / "config.json").read_text())
    config["process"]["args"][2] = "ln -s x /n; chown -h 7 /n; stat -c %u /l /m /n"
    (folder / "config.json").write_text(json.dumps(config))
    assert plain.run(folder).stdout.split() == ["5", "0", "7"]


def test_attributes_that_owners_are_kept_in_are_out_of_sight(plain: Plain, owned: MakeBundle) -> None:
    shutil.which("getfattr")
    script = (
        "import os; os.chown('/f', 3, 4); print(os.listxattr('/f'))\n"
        "for call in (lambda: os.getxattr('/f', 'user.rootlesscontainers'),\n"
        "             lambda: os.setxattr('/f', 'user.joey.mode', b'104755 0:0'),\n"
        "             lambda: os.removexattr('/f', 'user.rootlesscontainers')):\n"
        "    try: call(); print('done')\n"
        "    except OSError as error: print(error.errno)\n"
        "os.setxattr('/f', 'user.mine', b'x'); print(os.listxattr('/f'), os.stat('/f').st_uid)\n"
    )

    def change(config: dict[str, Any]) -> None:
        for name in ("usr", "lib", "lib64", "etc/alternatives"):
            config["mounts"].append(
                {"destination": f"/{name}", "source": f"/{name}", "type": "bind", "options": ["rbind", "ro"]}
            )

    folder = owned("/usr/bin/python3", "-c", script, change=change)
    (folder / "rootfs" / "f").write_text("")
    os.chown(folder / "rootfs" / "f", USER, USER)
    assert plain.run(folder).stdout == "[]\n61\n1\n61\n['user.mine'] 3\n"


ODD = """
import errno, os, threading
os.makedirs('/w/dir'); os.symlink('dir', '/w/link'); open('/w/file', 'w').close()
def tell(call, *words):
    try: print(call.__name__, call(*words) or 'done')
    except OSError as error: print(call.__name__, errno.errorcode[error.errno])
tell(os.rmdir, '/w/link/'); tell(os.rename, '/w/link/', '/w/x'); tell(os.rmdir, '/w/dir/.'); tell(os.unlink, '/w/link/')
tell(os.mkdir, '/w/link/'); tell(os.listdir, '/w/link/'); tell(os.stat, '/w/file/')
fd = os.open('/bin/busybox', os.O_RDONLY | os.O_CLOEXEC)
if os.fork() == 0: os.execve(fd, ['echo', 'by descriptor'], {})
print(os.wait()[1])
memory = os.memfd_create('program'); os.write(memory, open('/bin/busybox', 'rb').read())
if os.fork() == 0: os.execve(memory, ['echo', 'by memory'], {})
print(os.wait()[1])
def work(): os.path.exists('/w/file')
for _ in range(300): thread = threading.Thread(target=work); thread.start(); thread.join()
print(len([line for line in open('/proc/self/maps') if 'r--p 00000000 00:00 0' in line]) < 50)
os.chown('/w/file', 0, 1000); os.chmod('/w/file', 0o4775)
os.mkfifo('/w/pipe'); os.setgroups([1000]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
with open('/w/file', 'w') as file: file.write('mine')
print(oct(os.stat('/w/file').st_mode))
tell(os.setxattr, '/w/dir', 'user.x', b'1'); tell(os.utime, os.open('/w/dir', os.O_RDONLY), (1, 1))
import socket
tell(socket.socket(socket.AF_UNIX).bind, '/w/mine')
os.chdir('/tmp'); os.mkdir('gone'); os.chdir('gone'); os.rmdir('/tmp/gone'); tell(os.getcwd)
tell(os.access, '/w', 64)
"""


def test_odd_calls_answer_as_the_kernels_do(both: Callable[..., str]) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]})
        for name in ("usr", "lib", "lib64"):
            config["mounts"].append(
                {"destination": f"/{name}", "source": f"/{name}", "type": "bind", "options": ["rbind", "ro"]}
            )

    out = both("/usr/bin/python3", "-c", ODD, change=change)
    assert "by descriptor" in out
    assert "0o100775" in out


def test_a_read_only_place_is_one(plain: Plain, owned: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "f").write_text("kept")
    shift(tmp_path / "given", USER)
    os.chown(tmp_path / "given", USER, USER)

    def change(config: dict[str, Any]) -> None:
        config["root"]["readonly"] = True
        config["mounts"].append(
            {"destination": "/given", "source": str(tmp_path / "given"), "type": "bind", "options": ["ro"]}
        )

    script = (
        "cat /given/f; (echo x > /given/f; touch /given/g /h; rm /given/f; chmod 0 /given/f; chown 5 /given/f; "
        "mv /given/f /given/x; mkdir /d; ln -s x /given/l) 2>&1 | grep -c Read-only; echo x > /tmp/w; echo x > /dev/null; cat /tmp/w"
    )
    assert plain.run(owned("sh", "-c", script, change=change)).stdout == "kept9\nx\n"
    assert (tmp_path / "given" / "f").read_text() == "kept"


SOCKETS = """
import os, socket, struct
deep = '/' + '/'.join('d' * 30 for _ in range(3))
os.makedirs(deep)
for path in ('/short', deep + '/s'):
    server = socket.socket(socket.AF_UNIX); server.bind(path); server.listen()
    print(server.getsockname() == path, os.path.exists(path))
    client = socket.socket(socket.AF_UNIX); client.connect(path)
    peer, _ = server.accept()
    print(struct.unpack('iII', peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:])
    log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); log.bind(path + '.log')
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.sendto(b'one', path + '.log'); print(log.recv(10))
    sender.sendmsg([b'two'], [], 0, path + '.log'); print(log.recv(10))
os.chdir(deep); socket.socket(socket.AF_UNIX).bind('relative'); print(os.listdir('.'))
"""


def test_sockets_are_files_of_the_container(plain: Plain, owned: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        for name in ("usr", "lib", "lib64"):
            config["mounts"].append(
                {"destination": f"/{name}", "source": f"/{name}", "type": "bind", "options": ["rbind", "ro"]}
            )

    out = plain.run(owned("/usr/bin/python3", "-c", SOCKETS, change=change)).stdout.splitlines()
    assert out[:4] == out[4:8] == ["True True", "(0, 0)", "b'one'", "b'two'"]
    assert sorted(json.loads(out[8].replace("'", '"'))) == ["relative", "s", "s.log"]


def test_a_life(plain: Plain, owned: MakeBundle) -> None:
    name = plain.id()
    folder = owned("sh", "-c", "echo up > /up; hostname; sleep 100 & wait")
    plain("create", *WORDS, "-b", str(folder), name)
    assert json.loads(plain("state", name).stdout)["status"] == "created"
    plain("start", name)
    state = json.loads(plain("state", name).stdout)
    assert state["status"] == "running"
    assert "nothing isolates it" in state["annotations"]["io.joey.lost.userns"]
    deadline = time.monotonic() + 10
    while not (folder / "rootfs" / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    done = plain(
        "exec", *WORDS[2:], name, "sh", "-c", "cat /up; touch /made; chown 9 /made; id -u; readlink /proc/self/exe"
    )
    assert done.stdout.split() == ["up", "0", "/bin/busybox"]
    again = plain("exec", *WORDS[2:], "-u", "5:6", name, "sh", "-c", "id -u; stat -c %u /made; echo x > /up; true")
    assert again.stdout.split() == ["5", "9"]
    assert "denied" in again.stderr
    plain("kill", name, "KILL")
    plain("delete", "--force", name)
    assert name not in plain("list", "-q").stdout
    assert not list(plain.home.rglob(f"{name}*"))


def test_a_failed_start_and_a_killed_tracer_leave_nothing(plain: Plain, owned: MakeBundle) -> None:
    name = plain.id()
    done = plain("run", *WORDS, "-b", str(owned("/missing")), name, check=False)
    assert (done.returncode, "/missing: no such file" in done.stderr) == (1, True)
    assert not list(plain.home.rglob(f"{name}*"))
    name = plain.id()
    plain("run", "-d", *WORDS, "-b", str(owned("sleep", "100")), name)
    pid = json.loads(plain("state", name).stdout)["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    tracer = int(next(line for line in status.splitlines() if line.startswith("TracerPid")).split()[1])
    os.kill(tracer, 9)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert json.loads(plain("state", name).stdout)["status"] == "stopped"
    plain("delete", name)


def test_what_no_tracer_can_make_is_refused(plain: Plain, owned: MakeBundle, mapped: MakeBundle) -> None:
    folder = owned("true")
    done = plain("run", *WORDS[:2], "-b", str(folder), plain.id(), check=False)
    assert (done.returncode, "too weak for the strict policy" in done.stderr) == (1, True)

    def sysctl(config: dict[str, Any]) -> None:
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        if {"type": "network"} not in config["linux"]["namespaces"]:
            config["linux"]["namespaces"].append({"type": "network"})

    done = plain.run(owned("true", change=sysctl), check=False)
    assert "linux.sysctl: can't be had by a user without privilege" in done.stderr
    done = plain.run(mapped("true"), check=False)  # its files are somebody else's
    assert "unpack it as this user" in done.stderr or "Permission denied" in done.stderr


def test_root_does_not_pretend(joey: Joey, mapped: MakeBundle) -> None:
    done = joey("run", *WORDS, "-b", str(mapped("true")), joey.id(), check=False)
    assert (done.returncode, "place.pretended" in done.stderr) == (1, True)
