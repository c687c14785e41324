"""Containers as a user runs them: what is inside, what comes out, and that nothing stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle, hierarchies

pytestmark = pytest.mark.root


def sh(bundle: MakeBundle, joey: Joey, script: str, change: Any = None, **options: Any) -> str:
    """What a shell script prints inside a container."""
    done = joey("run", "-b", str(bundle("sh", "-c", script, change=change)), joey.id(), **options)
    return str(done.stdout)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$; kill -TERM -1; exit 3", 3)])
def test_the_exit_status_is_the_containers(script: str, status: int, joey: Joey, bundle: MakeBundle) -> None:
    assert joey("run", "-b", str(bundle("sh", "-c", script)), joey.id(), check=False).returncode == status


def test_a_killed_program_is_128_and_the_signal(joey: Joey, bundle: MakeBundle) -> None:
    def no_pid_namespace(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item["type"] != "pid"]

    done = joey("run", "-b", str(bundle("sh", "-c", "kill -KILL $$", change=no_pid_namespace)), joey.id(), check=False)
    assert done.returncode == 137


def test_namespaces_are_new(joey: Joey, bundle: MakeBundle) -> None:
    kinds = ("pid", "net", "ipc", "uts", "mnt")
    inside = sh(bundle, joey, "for k in pid net ipc uts mnt; do readlink /proc/self/ns/$k; done").split()
    assert all(link != os.readlink(f"/proc/self/ns/{kind}") for link, kind in zip(inside, kinds, strict=True))
    assert sh(bundle, joey, "echo $$; hostname; ls /sys/class/net; ip -o link show lo").splitlines()[:3] == [
        "1",
        "joey",
        "lo",
    ]


def test_a_namespace_can_be_joined_or_inherited(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [
            {"type": "mount"}, {"type": "uts"}, {"type": "pid", "path": f"/proc/{child}/ns/pid"},
            {"type": "network", "path": f"/proc/{child}/ns/net"},
        ]  # fmt: skip

    with subprocess.Popen(["unshare", "--net", "--pid", "--fork", "--kill-child", "sleep", "60"]) as parent:
        time.sleep(0.3)
        child = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0]
        links = sh(
            bundle, joey, "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid", change
        )
        expected = [os.readlink(f"/proc/{child}/ns/{kind}") for kind in ("net", "ipc", "pid")]
        parent.kill()
    assert links.split() == [expected[0], os.readlink("/proc/self/ns/ipc"), expected[2]]


@pytest.mark.parametrize("root_change", ["pivot_root", "move-and-chroot"])
@pytest.mark.parametrize("paths", ["openat2", "walk"])
@pytest.mark.parametrize("devices", ["mknod", "bind"])
def test_the_root_is_the_bundles_by_every_mechanism(
    root_change: str, paths: str, devices: str, joey: Joey, bundle: MakeBundle
) -> None:
    folder = bundle(
        "sh", "-c", "ls /; cat /proc/mounts; echo x >/dev/null; head -c 3 /dev/zero | wc -c; stat -c %t:%T /dev/null"
    )
    force = [word for pair in (f"root-change={root_change}", f"path-resolution={paths}", f"device-nodes={devices}")
             for word in ("--force", pair)]  # fmt: skip
    out = joey("run", *force, "-b", str(folder), joey.id()).stdout
    assert out.split()[:8] == ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr"]
    assert out.splitlines()[-2:] == ["3", "1:3"]
    mounts = [line.split()[1] for line in out.splitlines() if line.count(" ") == 5]
    assert {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys"} <= set(mounts)
    if root_change == "pivot_root":
        assert not [path for path in mounts if "bundle" in path]


def test_mounts_of_every_kind(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("from the host")

    def change(config: dict[str, Any]) -> None:
        config["mounts"] += [
            {
                "destination": "/ro",
                "type": "bind",
                "source": str(tmp_path / "data"),
                "options": ["rbind", "ro", "nosuid"],
            },
            {"destination": "/rw", "source": str(tmp_path / "data"), "options": ["bind"]},
            {"destination": "/etc/one", "source": str(tmp_path / "data" / "file"), "options": ["bind", "ro"]},
            {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["size=64k", "mode=700", "noexec"]},
            {"destination": "/t/deep/down", "type": "tmpfs", "source": "t", "options": ["ro"]},
            {"destination": "relative", "type": "tmpfs", "source": "t"},
        ]

    out = sh(bundle, joey, "cat /ro/file /etc/one; touch /ro/x; touch /etc/one 2>/dev/null || echo one is ro; touch /rw/y && echo y; "
             "touch /t/deep/down/z || echo down is ro; stat -c %a /t; grep -E ' /(ro|t|relative) ' /proc/mounts", change)  # fmt: skip
    assert out.startswith("from the hostfrom the host")
    assert "one is ro" in out
    assert "down is ro" in out
    assert (tmp_path / "data" / "y").exists()
    assert not (tmp_path / "data" / "x").exists()
    assert "\n700\n" in out
    ro, t, _ = (line.split()[3].split(",") for line in out.splitlines()[-3:])
    assert {"ro", "nosuid"} <= set(ro)
    assert {"noexec", "size=64k"} <= set(t)


@pytest.mark.parametrize("mechanism", ["mount_setattr", "remount-each"])
def test_recursive_read_only_reaches_mounts_below(
    mechanism: str, joey: Joey, bundle: MakeBundle, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        (tmp_path / "tree" / "below").mkdir(parents=True)
        config["mounts"] += [
            {"destination": "/src", "type": "tmpfs", "source": "t"},
            {"destination": "/tree", "type": "bind", "source": str(tmp_path / "tree"), "options": ["rbind", "rro"]},
        ]

    folder = bundle(
        "sh", "-c", "touch /tree/below/x 2>/dev/null || echo refused; touch /src/x && echo written", change=change
    )
    below = tmp_path / "tree" / "below"
    subprocess.run(["mount", "-t", "tmpfs", "t", str(below)], check=True)
    try:
        out = joey("run", "--force", f"recursive-attributes={mechanism}", "-b", str(folder), joey.id()).stdout
    finally:
        subprocess.run(["umount", str(below)], check=True)
    assert out.split() == ["refused", "written"]


@pytest.mark.parametrize("paths", ["openat2", "walk"])
def test_masked_and_read_only_paths(paths: str, joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["maskedPaths"] = ["/proc/kcore", "/proc/keys", "/secret", "/hidden", "/not/there", "/link"]
        config["linux"]["readonlyPaths"] = ["/proc/sys", "/fixed", "/nowhere"]

    folder = bundle("sh", "-c", "wc -c < /secret; ls /hidden | wc -l; touch /hidden/x || echo masked; touch /fixed/x || echo fixed; "
                    "echo 1 > /proc/sys/kernel/panic || echo sys; cat /target", change=change)  # fmt: skip
    root = folder / "rootfs"
    (root / "secret").write_text("secret")
    (root / "hidden").mkdir()
    (root / "hidden" / "file").touch()
    (root / "fixed").mkdir()
    (root / "target").write_text("the target")
    (root / "link").symlink_to("/../../../../../target")
    out = joey("run", "--force", f"path-resolution={paths}", "-b", str(folder), joey.id()).stdout
    assert out.split() == ["0", "0", "masked", "fixed", "sys"]


def test_a_read_only_root(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["root"]["readonly"] = True

    assert sh(bundle, joey, "touch /x 2>/dev/null || echo refused; touch /dev/shm/x && echo ok", change).split() == [
        "refused",
        "ok",
    ]


def test_process_settings(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"].update(
            user={"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o077}, cwd="/tmp/new", oomScoreAdj=123,
            rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        )  # fmt: skip
        config["process"]["env"] += ["A=b=c", "EMPTY="]
        config["domainname"] = "example"

    out = sh(bundle, joey, "id -u; id -g; id -G; umask; pwd; cat /proc/self/oom_score_adj; ulimit -Sn; ulimit -Hn; ulimit -c; echo $A; "
             "echo [$EMPTY]; echo $HOME; cat /proc/sys/kernel/domainname; grep -E 'Cap(Eff|Prm)' /proc/self/status", change)  # fmt: skip
    lines = out.splitlines()
    assert lines[:13] == [
        "1000",
        "1001",
        "1001 5 6",
        "0077",
        "/tmp/new",
        "123",
        "77",
        "88",
        "0",
        "b=c",
        "[]",
        "/home/user",
        "example",
    ]
    assert lines[13:] == ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"]


def test_capability_sets(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000}
        names = ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"]
        config["process"]["capabilities"] = {
            "bounding": [*names, "CAP_KILL"], "permitted": names, "effective": names, "inheritable": names, "ambient": names[:1],
        }  # fmt: skip

    out = dict(line.split(":\t") for line in sh(bundle, joey, "grep Cap /proc/self/status", change).splitlines())
    assert int(out["CapAmb"], 16) == int(out["CapEff"], 16) == 1 << 10
    assert int(out["CapBnd"], 16) == 1 << 10 | 1 | 1 << 5
    assert int(out["CapInh"], 16) == 1 << 10 | 1


def ambient(config: dict[str, Any]) -> None:
    config["process"]["user"] = {"uid": 1000, "gid": 1000}
    config["process"]["noNewPrivileges"] = False
    names = ["CAP_NET_BIND_SERVICE", "CAP_CHOWN"]
    kinds = ("bounding", "permitted", "effective", "inheritable")
    config["process"]["capabilities"] = {**dict.fromkeys(kinds, names), "ambient": names[:1]}


@pytest.mark.parametrize("way", ["native", "file-capabilities"])
def test_ambient_capabilities(way: str, joey: Joey, bundle: MakeBundle) -> None:
    """A user's program has them, over its exec; and nothing of a copy stays."""
    folder = bundle("grep", "CapEff", "/proc/self/status", change=ambient)
    forced = ("run", "--force", f"capabilities.ambient={way}", "-b", str(folder))
    done = joey(*forced, joey.id())
    assert int(done.stdout.split()[1], 16) == 1 << 10
    assert ("not what it executes" in done.stderr) is (way == "file-capabilities")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "rootfs"]
    assert "security.capability" not in os.listxattr(folder / "rootfs/bin/busybox")


def test_file_capabilities_are_refused_where_they_do_nothing(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        ambient(config)
        config["process"]["noNewPrivileges"] = True

    words = ("run", "--force", "capabilities.ambient=file-capabilities", "-b", str(bundle("true", change=change)))
    done = joey(*words, joey.id(), check=False)
    assert done.returncode == 1
    assert "no_new_privs lets no program gain capabilities" in done.stderr


def test_no_capabilities_section_is_no_capabilities(joey: Joey, bundle: MakeBundle) -> None:
    out = sh(
        bundle, joey, "grep -E 'Cap(Bnd|Eff)' /proc/self/status", lambda config: config["process"].pop("capabilities")
    )
    assert {line.split()[1] for line in out.splitlines()} == {"0000000000000000"}


@pytest.mark.parametrize("mechanism", ["prctl", "nosuid-mounts"])
def test_no_new_privileges_disarms_set_uid_programs(mechanism: str, joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000}
        config["process"]["capabilities"] = {"bounding": ["CAP_SETUID", "CAP_SETGID"]}

    folder = bundle("id-suid", change=change)
    program = folder / "rootfs" / "bin" / "id-suid"
    build_printer_of_euid(program)
    os.chown(program, 0, 0)
    program.chmod(0o4755)
    out = joey("run", "--force", f"no-new-privs={mechanism}", "-b", str(folder), joey.id()).stdout
    assert out.strip() == "1000"
    config = json.loads((folder / "config.json").read_text())
    config["process"]["noNewPrivileges"] = False
    (folder / "config.json").write_text(json.dumps(config))
    assert joey("run", "-b", str(folder), joey.id()).stdout.strip() == "0"  # the same program, armed


def build_printer_of_euid(path: Path) -> None:
    """A static program that prints its effective user id: busybox drops set-uid by itself."""
    source = path.with_suffix(".c")
    source.write_text(
        '#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("%d\\n", geteuid()); return 0; }\n'
    )
    subprocess.run(["cc", "-static", "-o", str(path), str(source)], check=True)


def test_signals_are_forwarded(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    script = "trap 'echo got; exit 42' TERM; echo up; while :; do sleep 0.1; done"
    folder = bundle("sh", "-c", script)
    with subprocess.Popen(
        joey.command("run", "-b", str(folder), joey.id()), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "got\n"
        assert process.wait(20) == 42


def test_orphans_are_reaped(joey: Joey, bundle: MakeBundle) -> None:
    """Without a pid namespace joey is the reaper: an orphan does not outlive the container as a zombie of the host."""

    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item["type"] != "pid"]

    out = sh(bundle, joey, "sh -c 'sleep 0.2 & echo $!'; sleep 1; ps -o pid,stat", change)
    orphan = out.split()[0]
    assert not [line for line in out.splitlines()[1:] if line.split()[:1] == [orphan]]


def test_standard_input_reaches_the_container(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello\n")
    with (tmp_path / "in").open() as stdin:
        assert joey("run", "-b", str(bundle("cat")), joey.id(), stdin=stdin).stdout == "hello\n"


def test_no_descriptor_leaks_and_wanted_ones_pass(joey: Joey, bundle: MakeBundle) -> None:
    leak = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        folder = bundle("sh", "-c", "ls /proc/self/fd")
        assert joey("run", "-b", str(folder), joey.id(), close_fds=False).stdout.split() == ["0", "1", "2", "3"]
        folder = bundle("sh", "-c", "echo through >&3")
        words = joey.command("run", "--preserve-fds", "1", "-b", str(folder), joey.id())
        subprocess.run(["sh", "-c", 'exec "$@" 3>"$0"', str(folder / "three"), *words], check=True)
        assert (folder / "three").read_text() == "through\n"
    finally:
        os.close(leak)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nope"], 'exec: "nope": executable file not found in $PATH'),
        (["/nope"], 'exec: "/nope": stat /nope: no such file or directory'),
        (["/etc"], 'exec: "/etc": permission denied (is a directory)'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
        (["/bad"], 'exec: "/bad": exec format error'),
    ],
)
def test_a_program_that_cannot_run_is_told(args: list[str], message: str, joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle(*args)
    (folder / "rootfs" / "bad").write_text("not a program")
    (folder / "rootfs" / "bad").chmod(0o755)
    done = joey("run", "-b", str(folder), joey.id(), check=False)
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr


def test_dry_run_prints_the_steps_and_does_nothing(joey: Joey, bundle: MakeBundle) -> None:
    out = joey("run", "--dry-run", "-b", str(bundle("true")), joey.id()).stdout
    assert "clone a process into new" in out
    assert re.fullmatch(r"child +\d+  exec.*: true", out.splitlines()[-1])
    assert not joey.root.exists()
    err = joey("--debug", "run", "-b", str(bundle("true")), joey.id()).stderr
    steps = [line.split("  ", 2)[-1].strip() for line in out.splitlines()]
    assert all(step.split()[0] in err for step in steps)


def test_sysctls_of_its_namespaces(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "4321"}

    before = Path("/proc/sys/kernel/msgmax").read_text()
    assert sh(bundle, joey, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", change).split() == [
        "1",
        "4321",
    ]
    assert Path("/proc/sys/kernel/msgmax").read_text() == before


def test_devices_of_the_bundle(joey: Joey, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["devices"] = [
            {"type": "c", "path": "/dev/mem-null", "major": 1, "minor": 3, "fileMode": 0o606, "uid": 7, "gid": 8},
            {"type": "p", "path": "/dev/sub/fifo", "fileMode": 0o640},
        ]

    out = sh(
        bundle,
        joey,
        "stat -c '%F %t:%T %a %u:%g' /dev/mem-null; stat -c '%F %a' /dev/sub/fifo; echo x > /dev/mem-null && echo ok",
        change,
    )
    assert out.splitlines() == ["character special file 1:3 606 7:8", "fifo 640", "ok"]


def map_ids(config: dict[str, Any]) -> None:
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]


def test_a_user_namespace(joey: Joey, bundle: MakeBundle) -> None:
    folder = bundle(
        "sh",
        "-c",
        "id -u; cat /proc/self/uid_map; echo x > /dev/null && echo dev; touch /tmp/mine; stat -c %u /tmp/mine",
        change=map_ids,
    )
    subprocess.run(["chown", "-R", "100000:100000", str(folder / "rootfs")], check=True)
    out = joey("run", "-b", str(folder), joey.id()).stdout
    assert out.split() == ["0", "0", "100000", "65536", "dev", "0"]
    assert (folder / "rootfs" / "tmp" / "mine").stat().st_uid == 100000
    assert joey("run", "-d", "-b", str(folder), joey.id(), check=False).returncode == 0


@pytest.mark.parametrize("beside", [True, False])
def test_a_user_namespace_with_a_hierarchy_that_joey_mounts(beside: bool, joey: Joey, bundle: MakeBundle) -> None:
    """Root of the user namespace binds its groups from where joey mounted them: beside the others, or in /run/joey."""
    report = json.loads(joey("probe", "--json", "--only", "cgroups").stdout)
    finding = report["findings"]["cgroup.net_cls"]
    if finding["state"] != "works" or finding["detail"].get("mount"):
        pytest.skip(f"net_cls is not free to be mounted here: {finding['answer']}")

    def change(config: dict[str, Any]) -> None:
        map_ids(config)
        config["linux"]["resources"]["network"] = {"classID": 7}

    folder = bundle("cat", "/sys/fs/cgroup/net_cls/net_cls.classid", change=change)
    command = joey.command("run", "-b", str(folder), joey.id())
    # the wait: a v1 hierarchy that had a group a moment ago would stay for ever
    script = '"$@"; status=$?; grep -o " [^ ]*/net_cls " /proc/mounts; sleep 0.5; exit $status'
    if not beside:
        script = "mount -o remount,bind,ro /sys/fs/cgroup; " + script
    stays = Path("/sys/fs/cgroup/net_cls").exists()
    with hierarchies(change=True):
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False
        )
        end = time.monotonic() + 10
        while ":net_cls:" in Path("/proc/self/cgroup").read_text() and time.monotonic() < end:
            time.sleep(0.05)
    if beside and not stays:
        Path("/sys/fs/cgroup/net_cls").rmdir()  # the mount is gone with its namespace
    place = "/sys/fs/cgroup/net_cls" if beside else "/run/joey/cgroup/net_cls"
    assert (done.stdout.split(), done.returncode) == (["7", place], 0), done.stderr


def test_a_plain_user_runs_a_rootless_bundle(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    from ..probes.test_run import readable_copy

    copy = readable_copy(tmp_path)

    def change(config: dict[str, Any]) -> None:
        for key in ("uidMappings", "gidMappings"):
            config["linux"][key][0]["hostID"] = 65534

    folder = bundle("sh", "-c", "id -u; hostname; touch /tmp/x && echo wrote", change=change, rootless=True)
    subprocess.run(["chown", "-R", "65534:65534", str(folder)], check=True)
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 65534, 65534)
    plain = [
        "setpriv",
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "/usr/bin/python3",
        "-P",
        "-m",
        "joey",
    ]
    command = [*plain, "run", "-b", str(folder), joey.id()]
    environment = {"PYTHONPATH": str(copy), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path / "run")}
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=environment, check=False)
    assert done.stdout.split() == ["0", "joey", "wrote"], done.stderr
    done = subprocess.run(
        [*plain, "plan", "-b", str(folder), "--json"],
        capture_output=True,
        text=True,
        cwd="/",
        env=environment,
        check=False,
    )
    chosen = {item["feature"]: item["mechanism"] for item in json.loads(done.stdout)["features"]}
    assert (chosen["userns"], chosen["pidns-in-userns"], chosen["device-nodes-in-userns"]) == (
        "native",
        "native",
        "bind",
    )
    rooted = bundle("true")  # no user namespace: not for a plain user
    done = subprocess.run(
        [*plain, "plan", "-b", str(rooted)], capture_output=True, text=True, cwd="/", env=environment, check=False
    )
    assert (done.returncode, "pidns.clone blocked" in done.stdout) == (1, True)
