"""Ways out of a container, and ways to make joey hurt others, each tried: regression tests of findings."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle
from .test_life import accept_master, receive_master, terminal

pytestmark = pytest.mark.root


def test_a_cgroup_with_somebody_elses_processes_is_left_alone(joey: Joey, bundle: MakeBundle) -> None:
    name = f"taken-{uuid.uuid4().hex[:8]}"
    groups = [path / name for path in Path("/sys/fs/cgroup").iterdir() if path.name == "pids"]
    if not groups:
        pytest.skip("no v1 pids hierarchy here")
    groups[0].mkdir()
    try:
        with subprocess.Popen(["sleep", "60"]) as victim:
            (groups[0] / "cgroup.procs").write_text(str(victim.pid))
            folder = bundle("true", change=lambda config: config["linux"].update(cgroupsPath=f"/{name}"))
            done = joey("run", "-b", str(folder), joey.id(), check=False)
            assert (done.returncode, "exists and has processes" in done.stderr) == (1, True)
            assert victim.poll() is None
            victim.kill()
            victim.wait()
        assert groups[0].exists()
    finally:
        groups[0].rmdir()


@pytest.mark.parametrize("path", ["/", "//", "/.", "."])
def test_the_root_of_a_hierarchy_is_no_containers_cgroup(path: str, joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("true", change=lambda config: config["linux"].update(cgroupsPath=path))
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, "linux.cgroupsPath" in done.stderr) == (1, True)


def test_a_created_container_offers_nothing_of_joey(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    """The process that waits for `start` must not show descriptors or its executable to those who are in already."""
    name = joey.id()
    joey("--log", str(tmp_path / "log"), "create", "-b", str(bundle("sleep", "100")), name)
    done = joey(
        "exec",
        name,
        "sh",
        "-c",
        "for f in /proc/1/fd/*; do readlink $f; ls $f/.; done; readlink /proc/1/exe; ls /proc/1/root; ls /proc/1/cwd/..",
        check=False,
    )
    assert done.stdout == ""
    assert done.stderr.count("Permission denied") >= 5
    pid = joey.state(name)["pid"]
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    # the stub is sealed, and nobody's but this process's
    assert not [link for link in links[3:] if not link.startswith(("socket:", "/memfd:joey-exec"))], links


def test_only_descriptors_of_the_caller_are_passed(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("sh", "-c", "ls -l /proc/self/fd")
    for count in ("1", "-1", "99999"):
        done = joey("run", "--preserve-fds", count, "-b", str(folder), joey.id(), check=False)
        assert (done.returncode, "--preserve-fds" in done.stderr) == (2, True)
    assert not joey.root.exists()


@pytest.mark.parametrize("way", ["/proc/self/exe", "#!"])
def test_joeys_own_executable_is_not_run(way: str, joey: Joey, bundle: MakeBundle) -> None:
    """CVE-2019-5736: a program that is /proc/self/exe would be the host's interpreter, opened from inside."""
    folder = bundle("/entry" if way == "#!" else way)
    (folder / "rootfs" / "entry").write_text("#!/proc/self/exe -c print(1)\n")
    (folder / "rootfs" / "entry").chmod(0o755)
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, "is joey's own executable" in done.stderr) == (1, True), done.stderr


WAYS = ["memfd", "unlinked-file"]


@pytest.mark.parametrize("way", WAYS)
def test_a_program_swapped_before_the_exec_does_not_run_joeys_interpreter(
    way: str, joey: Joey, bundle: MakeBundle
) -> None:
    """CVE-2019-5736 in the window after joey's own check: the hook stands for a container that is quick enough.

    The host's interpreter would be started with the container's dynamic loader, the attacker's: here busybox, which
    answers to the name it is called by.
    """
    folder = bundle("/entry", change=lambda config: config.update(
        hooks={"startContainer": [{"path": "/swap"}]}))  # fmt: skip
    root = folder / "rootfs"
    (root / "swap").write_text("#!/bin/sh\nmv /evil /entry\necho swapped >&2\n")
    (root / "entry").write_text("#!/bin/sh\necho harmless\n")
    (root / "evil").write_text("#!/proc/self/exe\n")
    for name in ("swap", "entry", "evil"):
        (root / name).chmod(0o755)
    (root / "lib64").mkdir()
    shutil.copy(root / "bin" / "busybox", root / "lib64" / "ld-linux-x86-64.so.2")
    done = joey("run", "--force", f"interpreter-hiding={way}", "-b", str(folder), joey.id(), check=False)
    assert "harmless" not in done.stdout
    assert "applet" not in done.stdout + done.stderr, "the host's interpreter ran with the container's loader"
    assert done.returncode == 1


@pytest.mark.parametrize("way", WAYS)
def test_an_exec_that_the_kernel_refuses_is_told_through_the_stub(way: str, joey: Joey, bundle: MakeBundle) -> None:
    force = ("--force", f"interpreter-hiding={way}")
    folder = bundle("/entry")
    (folder / "rootfs" / "entry").write_text("#!/gone\n")
    (folder / "rootfs" / "entry").chmod(0o755)
    message = 'joey: exec: "/entry": no such file or directory\n'
    done = joey("run", *force, "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, done.stderr) == (1, message)
    created = joey.id()
    joey("create", *force, "-b", str(folder), created)
    done = joey("start", created, check=False)
    assert (done.returncode, done.stderr) == (1, message)
    running = joey.id()
    other = bundle("sleep", "100")
    shutil.copy(folder / "rootfs" / "entry", other / "rootfs" / "entry")
    joey("run", "--detach", *force, "-b", str(other), running)
    done = joey("exec", *force, running, "/entry", check=False)
    assert (done.returncode, done.stderr) == (255, message.replace("joey: ", "joey: exec failed: ", 1))


def test_the_stub_leaves_no_descriptor(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("sh", "-c", "ls /proc/$$/fd; :")
    for way in WAYS:
        done = joey("run", "--force", f"interpreter-hiding={way}", "-b", str(folder), joey.id())
        assert done.stdout.split() == ["0", "1", "2"], way


def allow_only(config: dict[str, Any], refused: list[str]) -> None:
    """A seccomp profile that refuses some calls."""
    rule = {"names": refused, "action": "SCMP_ACT_ERRNO"}
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


def test_without_room_for_the_stub_joey_runs_from_a_copy(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    folder = bundle("sleep", "100", change=lambda config: allow_only(config, ["fcntl"]))
    assert joey("create", "-b", str(folder), name).stderr == ""
    assert os.readlink(f"/proc/{joey.state(name)['pid']}/exe") == "/memfd:joey (deleted)"
    joey("start", name)
    assert joey("exec", name, "echo", "in").stdout == "in\n"


def test_without_a_copy_too_the_loss_is_told(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    folder = bundle("sleep", "100", change=lambda config: allow_only(config, ["fcntl"]))
    done = joey("run", "--detach", "--force", "interpreter-copy=none", "-b", str(folder), name)
    assert "warning: interpreter-copy: none is used" in done.stderr
    assert "only checked" in joey.state(name)["annotations"]["io.joey.lost.interpreter-copy"]


@pytest.mark.parametrize("way", WAYS)
def test_a_profile_may_refuse_what_joey_needs_before(way: str, joey: Joey, bundle: MakeBundle) -> None:
    """The stub is reached by name where execveat is refused; nothing else is asked of the profile."""
    refused = ["execveat", "dup2", "dup3", "ioctl", "stat", "newfstatat", "fstat", "statfs", "open", "openat", "close"]
    folder = bundle("busybox", "true", change=lambda config: allow_only(config, refused))
    done = joey("run", "--force", f"interpreter-hiding={way}", "-b", str(folder), joey.id())
    assert done.stderr == ""


def test_a_script_of_a_script_is_looked_through_where_there_is_no_stub(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("/one", change=lambda config: allow_only(config, ["fcntl"]))
    for name, interpreter in (("one", "/two"), ("two", "/three"), ("three", "/proc/self/exe")):
        (folder / "rootfs" / name).write_text(f"#!{interpreter}\n")
        (folder / "rootfs" / name).chmod(0o755)
    for force in ("memfd", "none"):
        done = joey("run", "--force", f"interpreter-copy={force}", "-b", str(folder), joey.id(), check=False)
        assert (done.returncode, "is joey's own executable" in done.stderr) == (1, True), done.stderr


def test_a_hook_of_the_container_does_not_run_joeys_interpreter(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("true", change=lambda config: config.update(hooks={"startContainer": [{"path": "/hook"}]}))
    root = folder / "rootfs"
    (root / "hook").write_text("#!/proc/self/exe\n")
    (root / "hook").chmod(0o755)
    (root / "lib64").mkdir()
    shutil.copy(root / "bin" / "busybox", root / "lib64" / "ld-linux-x86-64.so.2")
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    # without the stub the host's interpreter starts with the container's loader, which dies of a signal
    assert "hooks.startContainer[0] /hook: exit status 1" in done.stderr
    (root / "hook").write_text("#!/gone\n")
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert "hooks.startContainer[0] /hook: No such file or directory" in done.stderr


def test_without_proc_the_unlinked_stub_is_left_out_and_that_is_said(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["mounts"] = []
        config["linux"].update(maskedPaths=[], readonlyPaths=[])

    folder = bundle("echo", "in", change=change)
    done = joey("run", "--force", "interpreter-hiding=unlinked-file", "-b", str(folder), joey.id())
    assert done.stdout == "in\n"
    assert "warning: interpreter-hiding: without a proc mount" in done.stderr


def test_an_image_whose_passwd_is_a_pipe_starts(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle("sh", "-c", "echo $HOME")
    (folder / "rootfs" / "etc" / "passwd").unlink()
    os.mkfifo(folder / "rootfs" / "etc" / "passwd")
    assert joey("run", "-b", str(folder), joey.id(), timeout=10).stdout == "/\n"


def test_a_process_killed_before_its_start_is_no_success(joey: Joey, bundle: MakeBundle) -> None:
    name = joey.id()
    joey("create", "-b", str(bundle("sleep", "100")), name)
    pid = joey.state(name)["pid"]
    os.kill(pid, signal.SIGSTOP)
    with subprocess.Popen(joey.command("start", name), stderr=subprocess.PIPE, text=True) as process:
        time.sleep(0.4)
        os.kill(pid, signal.SIGKILL)
        stderr = process.communicate(timeout=20)[1]
    assert (process.returncode, "ended before it executed its program" in stderr) == (1, True), stderr


HUNTER = r"""
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>
static void show(int pid) {
    char path[512], link[512];
    int open = 0;
    for (int fd = 0; fd < 64; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", pid, fd);
        ssize_t n = readlink(path, link, sizeof link - 1);
        if (n <= 0) continue;
        link[n] = 0;
        open++;
        if (fd > 2) printf("fd %s\n", link);
    }
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n > 0) { link[n] = 0; printf("exe %s\n", link); }
    snprintf(path, sizeof path, "/proc/%d/root/MARK", pid);
    printf("%s\n%s", access(path, F_OK) == 0 ? "root host" : "root container", open ? "caught\n" : "");
    fflush(stdout);
}
int main(void) {
    for (;;)
        for (int pid = 2, status; pid < 400; pid++)
            if (ptrace(PTRACE_ATTACH, pid, 0, 0) == 0) {
                waitpid(pid, &status, __WALL);
                show(pid);
                ptrace(PTRACE_DETACH, pid, 0, 0);
                kill(pid, SIGCONT);
                usleep(20000);
            }
}
"""


def test_a_tracer_in_the_container_finds_nothing_of_the_host_in_an_exec(
    joey: Joey, bundle: MakeBundle, tmp_path: Path
) -> None:
    """CVE-2016-9962 with a container that has CAP_SYS_PTRACE, which reaches undumpable processes too."""
    mark = tmp_path / "mark"
    mark.write_text("of the host")
    (tmp_path / "hunter.c").write_text(HUNTER.replace("/MARK", str(mark)))

    def change(config: dict[str, Any]) -> None:
        for names in config["process"]["capabilities"].values():
            names.append("CAP_SYS_PTRACE")

    folder = bundle("sh", "-c", "exec /hunter > /tmp/found", change=change)
    hunter = folder / "rootfs" / "hunter"
    subprocess.run(["gcc", "-static", "-O1", "-o", str(hunter), str(tmp_path / "hunter.c")], check=True)
    name = joey.id()
    joey("run", "--detach", "-b", str(folder), name)
    found = folder / "rootfs" / "tmp" / "found"
    for _ in range(30):
        joey("exec", name, "true", check=False, timeout=20)
        if found.exists() and found.read_text().count("caught") >= 5:
            break
    seen = found.read_text()
    assert "caught" in seen
    assert "root host" not in seen
    executables = {line[4:] for line in seen.splitlines() if line.startswith("exe ")}
    assert executables
    assert os.path.realpath(sys.executable) not in executables
    links = {line[3:] for line in seen.splitlines() if line.startswith("fd ")}
    assert {link for link in links if not link.startswith(("socket:", "pipe:", "/memfd:joey-exec"))} == set()


def test_exec_refuses_what_create_refuses(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    name = joey.id()
    joey("run", "-d", "-b", str(bundle("sleep", "100")), name)
    (tmp_path / "p.json").write_text(json.dumps({"args": ["id"], "cwd": "/", "commandLine": "x"}))
    done = joey("exec", "-p", str(tmp_path / "p.json"), name, check=False)
    assert (done.returncode, "process.commandLine: is not supported" in done.stderr) == (255, True)


def test_a_bundle_behind_a_link_runs(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    folder = bundle("echo", "here")
    (tmp_path / "link").symlink_to(folder)
    config = json.loads((folder / "config.json").read_text())
    config["root"]["path"] = str(tmp_path / "link" / "rootfs")
    (folder / "config.json").write_text(json.dumps(config))
    for words in ([], ["--no-pivot"]):
        assert joey("run", *words, "-b", str(tmp_path / "link"), joey.id()).stdout == "here\n"


def test_large_input_to_a_terminal_does_not_stop_the_traffic(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("0123456789 0123456789 0123456789\n" * 30000 + "the end\n\4")
    folder = bundle("sh", "-c", "stty -echo; cat", change=terminal)
    with (tmp_path / "in").open() as stdin:
        out = joey("run", "-b", str(folder), joey.id(), stdin=stdin, timeout=50).stdout
    assert "the end" in out
    assert out.count("0123456789 0123456789") > 29000


def test_a_terminal_that_hangs_up_is_no_traceback(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    command = joey.command("run", "-b", str(bundle("sleep", "1", change=terminal)), joey.id())
    pid, master = pty.fork()
    if pid == 0:
        os.dup2(os.open(str(tmp_path / "err"), os.O_CREAT | os.O_WRONLY), 2)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execv(command[0], command)
    time.sleep(0.5)
    os.close(master)
    os.waitpid(pid, 0)
    assert "Traceback" not in (tmp_path / "err").read_text()


def test_a_console_socket_that_the_containers_user_cannot_reach(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        terminal(config)
        config["linux"]["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            config["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]

    folder = bundle("echo", "through the socket", change=change)
    subprocess.run(["chown", "-R", "100000:100000", str(folder / "rootfs")], check=True)
    (tmp_path / "private").mkdir(mode=0o700)
    server, _ = receive_master(tmp_path / "private" / "console")
    name = joey.id()
    joey("create", "--console-socket", str(tmp_path / "private" / "console"), "-b", str(folder), name)
    master = accept_master(server)
    joey("start", name)
    assert b"through the socket" in os.read(master, 1000)
    server.close()


def test_an_interrupted_start_is_undone(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "20"]}]}

    command = joey.command("run", "-b", str(bundle("true", change=change)), joey.id())
    started = time.monotonic()
    with subprocess.Popen(command) as process:
        time.sleep(0.8)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130
    assert time.monotonic() - started < 8
    assert not list(joey.root.iterdir())


def test_an_error_on_the_way_into_namespaces_is_told(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "user", "path": "/proc/self/ns/user"})

    done = joey("run", "-b", str(bundle("true", change=change)), joey.id(), check=False)
    assert (done.returncode, "enter the namespaces: setns: EINVAL" in done.stderr) == (1, True), done.stderr


def test_a_working_directory_only_root_may_enter(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"].update(user={"uid": 1000, "gid": 1000}, cwd="/private")

    folder = bundle("echo", "in", change=change)
    (folder / "rootfs" / "private").mkdir(mode=0o700)
    assert joey("run", "-b", str(folder), joey.id()).stdout == "in\n"


def test_no_folder_of_joeys_is_open_to_others_whatever_the_umask(
    joey: Joey, bundle: MakeBundle, tmp_path: Path
) -> None:
    joey.root = tmp_path / "a" / "b" / "containers"
    name = joey.id()
    command = joey.command("run", "--detach", "-b", str(bundle("sleep", "100")), name)
    before = os.umask(0)
    try:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    finally:
        os.umask(before)
    for folder in (tmp_path / "a", tmp_path / "a" / "b", joey.root, joey.root / name):
        assert folder.stat().st_mode & 0o777 == 0o700, folder


def test_a_mask_is_no_way_to_the_hosts_null_device(joey: Joey, bundle: MakeBundle) -> None:
    """What covers a masked file is the host's own node: its mode and owner are not root's inside to change."""
    before = os.stat("/dev/null")

    def change(config: dict[str, Any]) -> None:
        names = ["CAP_FOWNER", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
        config["linux"]["maskedPaths"] = ["/proc/keys", "/proc/timer_list", "/bin/masked"]

    script = (
        "for f in /proc/keys /bin/masked; do chmod 0600 $f; chown 7:7 $f; echo x >$f; done; cat /bin/masked; echo end"
    )
    folder = bundle("sh", "-c", script, change=change)
    (folder / "rootfs/bin/masked").write_text("secret")
    done = joey("run", "-b", str(folder), joey.id())
    after = os.stat("/dev/null")
    os.chmod("/dev/null", before.st_mode)  # whatever came of it
    os.chown("/dev/null", before.st_uid, before.st_gid)
    assert done.stdout == "end\n"
    assert "Read-only file system" in done.stderr or "Operation not permitted" in done.stderr
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
