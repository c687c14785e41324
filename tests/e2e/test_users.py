"""User namespaces, the kernel's and emulated ones: the same answers inside, the same ids outside."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from joey.compat.users.privileges import Privileges, bit

from ..conftest import Joey, MakeBundle
from .test_life import wait_for

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.uname().machine != "x86_64", reason="the tracer is for x86-64")]

WAYS = {name: ("--force", f"userns={name}") for name in ("native", "emulated", "emulated-unfiltered")}

BASE, COUNT = 200000, 65536
CAPABILITIES = ("CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT "
                "KILL AUDIT_WRITE").split()  # fmt: skip
Run = Callable[..., subprocess.CompletedProcess[str]]
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("users") / "users"
    source = Path(__file__).parent / "programs" / "users.c"
    subprocess.run(["cc", "-static", "-pthread", "-w", "-o", str(path), str(source)], check=True)
    return path


def shift(root: Path, base: int) -> None:
    """Give a root file system to a range of ids."""
    for folder, _, files in os.walk(root):
        os.lchown(folder, base, base)
        for name in files:
            os.lchown(f"{folder}/{name}", base, base)


@pytest.fixture
def mapped(bundle: MakeBundle, program: Path) -> MakeBundle:
    """A function that makes a bundle with a user namespace, whose root file system has the program and busybox's su."""

    def make(*args: str, change: Change | None = None, base: int = BASE) -> Path:
        def configure(config: dict[str, Any]) -> None:
            config["linux"]["namespaces"].append({"type": "user"})
            for name in ("uidMappings", "gidMappings"):
                config["linux"][name] = [{"containerID": 0, "hostID": base, "size": COUNT}]
            names = [f"CAP_{name}" for name in CAPABILITIES]
            config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), names)
            config["process"]["noNewPrivileges"] = False
            config["mounts"].append(
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}
            )
            if change:
                change(config)

        folder = bundle(*args, change=configure)
        bin_ = folder / "rootfs" / "bin"
        (bin_ / "users").write_bytes(program.read_bytes())
        (bin_ / "users").chmod(0o755)
        for applet in ("su", "mkfifo", "id", "install", "chgrp", "tar", "unlink", "mv", "cp"):
            if not (bin_ / applet).exists():
                (bin_ / applet).symlink_to("busybox")
        (folder / "rootfs" / "link").symlink_to("/etc")
        shift(folder / "rootfs", base)
        return folder

    return make


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def both(joey: Joey, mapped: MakeBundle) -> Callable[..., str]:
    """A function that runs words by both ways, which must print the same; what they print."""

    def run(*words: str, change: Change | None = None) -> str:
        out = []
        for way in WAYS.values():
            done = joey("run", *way, "-b", str(mapped(*words, change=change)), joey.id(), check=False)
            out.append(f"{done.stdout}status {done.returncode}\n")
            assert "joey: error" not in done.stderr
        assert out[1].splitlines() == out[0].splitlines()
        assert out[2].splitlines() == out[0].splitlines()
        return out[1]

    return run


@pytest.mark.parametrize(
    "part",
    [
        "identity",
        "privileges",
        "messages",
        "others",
        "threads",
        "filter",
        pytest.param("signals", marks=pytest.mark.slow),
    ],
)
def test_ids_are_what_a_user_namespace_shows(both: Callable[..., str], part: str) -> None:
    out = both("users", part)
    assert out.endswith("status 0\n")
    assert len(out.splitlines()) >= 3


def test_an_exec_beside_a_busy_thread_is_an_exec(both: Callable[..., str]) -> None:
    out = both("users", "crowd")
    assert out.count("executed: 0 0 0 / 0 0 0, 0 0 0 0, groups\n") == 40


def test_a_program_of_a_filtered_thread_has_no_new_privileges(both: Callable[..., str]) -> None:
    def user(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    assert "no_new_privs 1 ok 1" in both("users", "confined-thread", change=user)


def test_a_plain_user_inside_has_no_more_than_that(both: Callable[..., str]) -> None:
    def user(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 6]}

    assert "begin: 1000 1000 1000 / 1000 1000 1000" in both("users", "identity", change=user)
    both("users", "privileges", change=user)


FILES = """
umask 022; cd /root; chmod 700 /root
echo hi > f; chown 1000:50 f; stat -c '%u:%g %a' f; chmod 600 f; cat f; echo more >> f; wc -l < f
echo x > g; chmod 444 g; echo y >> g; wc -l < g
mkdir ro; chmod 555 ro; touch ro/x; stat -c '%u %a' ro ro/x
mkdir u; chown 1000 u; chmod 700 u; touch u/a; mkdir u/d; ln -s x u/l; stat -c '%u' u/a u/d u/l; (cd u/d; pwd); rm -r u; ls u
mkdir -p p/q; echo deep > p/q/f; chown -R 1000:1000 p; chmod 700 p p/q; chmod 600 p/q/f; cat p/q/f; mv p/q/f p/g; stat -c %u p/g
mkdir /v; chown 1000 /v; chmod 700 /v; touch /v/a; mkdir /v/d; ln -s x /v/l; mkfifo /v/p; stat -c %u /v/a /v/d /v/l /v/p
touch s; chown 0:42 s; chmod 2755 s; stat -c '%a %g' s; chown 5 s; stat -c '%a %u' s
touch -t 200101010000 f; date -r f +%Y; ln f h; stat -c %h f; chown -h 7 /bin/sh; stat -c %u /bin/sh
mkfifo w; chown 9 w; stat -c '%u %F' w; chmod 604 w; stat -c %a w
[ -w f ] && echo writable; [ -x g ] || echo 'not executable'; [ -r p/g ] && echo readable
chown 70000 f; stat -c %u f; echo $?
"""


def test_root_may_do_all_with_the_files_of_its_container(both: Callable[..., str]) -> None:
    out = both("sh", "-c", FILES)
    assert "hi\n2\n2\n" in out
    assert "\n0\n0\n0\n0\n2755 42\n" in out


def test_what_leads_nowhere_is_an_error_as_ever(both: Callable[..., str]) -> None:
    assert "EFAULT EFAULT EFAULT EFAULT EFAULT" in both("users", "pointers")


def test_nothing_is_lent_on_a_read_only_mount(joey: Joey, mapped: MakeBundle, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "closed").write_text("x")
    (folder / "closed").chmod(0)
    os.chown(folder / "closed", BASE, BASE)

    def read_only(config: dict[str, Any]) -> None:
        shown(folder)(config)
        config["mounts"][-1]["options"].append("ro")

    bundle = mapped("sh", "-c", "cat /host/closed; echo alive", change=read_only)
    done = joey("run", "--force", "userns=emulated", "-b", str(bundle), joey.id())
    assert done.stdout == "alive\n"
    assert "denied" in done.stderr
    assert (folder / "closed").stat().st_mode & 0o777 == 0


def test_who_is_not_root_may_not(both: Callable[..., str]) -> None:
    script = (
        "echo root > /tmp/r; chmod 600 /tmp/r; mkdir -m 700 /tmp/d; chmod 4755 /bin/busybox; "
        "su user -c 'id; cat /tmp/r; ls /tmp/d; echo x > /tmp/mine; chown 0 /tmp/mine; chmod 777 /tmp/r; kill -9 1; "
        "rm -f /tmp/r; chgrp 5 /tmp/mine; stat -c %u:%g /tmp/mine /tmp/r' 2>&1"
    )
    out = both("sh", "-c", script)
    assert "uid=1000" in out
    assert out.count("denied") + out.count("permitted") >= 6


@pytest.mark.parametrize("nnp", [False, True])
def test_set_id_bits_are_honoured_unless_forbidden(both: Callable[..., str], nnp: bool) -> None:
    def user(config: dict[str, Any]) -> None:
        config["process"]["user"] = {"uid": 0, "gid": 0}
        config["process"]["noNewPrivileges"] = nnp

    script = (
        "for p in /bin /tmp; do cp /bin/users $p/suid 2>/dev/null; chown 33:44 $p/suid; chmod 6755 $p/suid; "
        'su user -c "$p/suid identity-short; users confined-thread $p/suid"; done; '
        "chmod 4755 /bin/suid; chown 99 /bin/suid; /bin/suid identity-short"
    )
    out = both("sh", "-c", script, change=user)
    assert ("executed: 1000 33 33 / 1000 44 44" in out) == (not nnp)


def test_a_nosuid_mount_is_one_behind_a_link_too(both: Callable[..., str]) -> None:
    def change(config: dict[str, Any]) -> None:
        options = ["nosuid", "mode=755"]
        config["mounts"].append({"destination": "/link/x", "type": "tmpfs", "source": "tmpfs", "options": options})

    script = "cp /bin/users /etc/x/suid; chown 33 /etc/x/suid; chmod 4755 /etc/x/suid; su user -c '/etc/x/suid identity-short'"
    assert "executed: 1000 1000 1000" in both("sh", "-c", script, change=change)


def test_outside_they_are_the_mapped_ids(joey: Joey, mapped: MakeBundle, way: str) -> None:
    name = joey.id()
    folder = mapped("sh", "-c", "touch /made; chown 33:44 /made; mkdir /made.d; exec su user -c 'sleep 100'")
    joey("run", "-d", *WAYS[way], "-b", str(folder), name)
    status = Path(f"/proc/{joey.state(name)['pid']}/status")
    wait_for(lambda: f"Uid:\t{BASE + 1000}\t{BASE + 1000}\t{BASE + 1000}\t{BASE + 1000}" in status.read_text())
    found = [
        ((folder / "rootfs" / name).stat().st_uid, (folder / "rootfs" / name).stat().st_gid)
        for name in ("made", "made.d")
    ]
    assert found == [(BASE + 33, BASE + 44), (BASE, BASE)]
    assert (folder / "rootfs" / "dev").stat().st_uid == BASE


@pytest.mark.parametrize("enter", ["setns", "agent"])
def test_who_enters_has_them_too(joey: Joey, mapped: MakeBundle, way: str, enter: str) -> None:
    name = joey.id()
    joey("run", "-d", *WAYS[way], "--force", f"enter={enter}", "-b", str(mapped("sleep", "100")), name)
    assert joey("exec", name, "sh", "-c", "id -u; touch /root/x; stat -c %u /root/x /proc/1").stdout == "0\n0\n0\n"
    assert joey("exec", "-u", "1000:5", name, "sh", "-c", "id -u; id -g; grep Uid: /proc/self/status").stdout.split() == [
        "1000", "5", "Uid:", "1000", "1000", "1000", "1000"]  # fmt: skip
    done = joey("exec", "-u", "70000", name, "id", check=False)
    assert (done.returncode, bool(done.stderr)) == (255, True)


def test_terminals_belong_to_the_user(joey: Joey, mapped: MakeBundle, way: str) -> None:
    name = joey.id()
    joey("run", "-d", *WAYS[way], "-b", str(mapped("sleep", "100")), name)
    done = joey("exec", "-t", "-u", "1000", name, "sh", "-c", "stat -c %u:%g $(tty); echo usable > $(tty)")
    assert done.stdout.split() == ["1000:5", "usable"], done.stderr


def test_harmless_devices_can_be_made_and_no_others(joey: Joey, mapped: MakeBundle) -> None:
    script = "mknod /null c 1 3 && echo gone > /null; stat -c '%u %t:%T' /null; mknod /disk b 8 0; mknod /mem c 1 1; ls /disk /mem"
    done = joey("run", "--force", "userns=emulated", "-b", str(mapped("sh", "-c", script)), joey.id(), check=False)
    assert done.stdout == "0 1:3\n"
    assert done.stderr.count("not permitted") == 2


def test_the_profile_holds_and_is_kept_from_joeys_calls(joey: Joey, mapped: MakeBundle) -> None:
    """A profile without capset: it is enforced by the tracer, which makes that call."""

    def profile(config: dict[str, Any]) -> None:
        rule = {"names": ["capset", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    script = "mkdir /x; su user -c 'id -u; mkdir /tmp/y'; users privileges | grep 'capset\\|more'"
    folder = mapped("sh", "-c", script, change=profile)
    assert "seccomp-privileged" in joey("plan", "--force", "userns=emulated", "-b", str(folder)).stdout
    done = joey("run", "--force", "userns=emulated", "-b", str(folder), joey.id(), check=False)
    assert "1000\n" in done.stdout
    assert done.stderr.count("assign requested address") == 2  # errno 99
    assert "capset EADDRNOTAVAIL" in done.stdout


@pytest.mark.parametrize("emulated", ["emulated", "emulated-unfiltered"])
def test_a_hook_and_a_profile_leave_the_program_its_ids(joey: Joey, mapped: MakeBundle, emulated: str) -> None:
    """joey installs the profile itself, after the hook has run: that is none of the program's own."""

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"startContainer": [{"path": "/bin/touch", "args": ["touch", "/by-hook"]}]}
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    script = "stat -c %u /by-hook; mkdir /x; su user -c 'id -u'; users identity | grep setresuid"
    folder = mapped("sh", "-c", script, change=change)
    done = joey("run", "--force", f"userns={emulated}", "-b", str(folder), joey.id(), check=False)
    assert done.stdout == "0\n1000\nsetresuid ok\n", done.stderr
    assert "assign requested address" in done.stderr


def test_the_hosts_root_is_mapped_nowhere(joey: Joey, mapped: MakeBundle) -> None:
    done = joey("run", "--force", "userns=emulated", "-b", str(mapped("id", base=0)), joey.id(), check=False)
    assert (done.returncode, "linux.uidMappings: maps the host's id 0" in done.stderr) == (1, True)


# --- what must not happen -----------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host with a file for root only, and set-uid programs, one of them in a mount below."""
    folder = tmp_path / "host"
    folder.mkdir()
    (folder / "secret").write_text("the host's")
    (folder / "secret").chmod(0o600)
    (folder / "id").write_bytes(Path("/bin/busybox").read_bytes())
    (folder / "id").chmod(0o6755)
    (folder / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "below", folder / "below"], check=True)
    shutil.copy(folder / "id", folder / "below" / "id")
    (folder / "below" / "id").chmod(0o6755)
    yield folder
    subprocess.run(["umount", folder / "below"], check=True)


def shown(folder: Path) -> Change:
    return lambda config: config["mounts"].append(
        {"destination": "/host", "source": str(folder), "type": "bind", "options": ["rbind"]}
    )


@pytest.mark.parametrize("attack", ["lookalikes", "untraced", "race", "links"])
def test_files_of_the_host_stay_closed(joey: Joey, mapped: MakeBundle, secret: Path, way: str, attack: str) -> None:
    """By calls of other tables, by exchanging an instruction, memory or a file in the moment it is used."""
    before = (secret / "secret").stat()

    def change(config: dict[str, Any]) -> None:
        shown(secret)(config)
        config["linux"]["resources"]["pids"] = {"limit": 50}

    folder = mapped("users", attack, "/host/secret", change=change)
    done = joey("run", *WAYS[way], "-b", str(folder), joey.id(), check=False)
    assert "secret kept" in done.stdout, done.stdout + done.stderr
    assert "READ" not in done.stdout
    assert attack != "untraced" or "getresgid 0 0 0 0" in done.stdout
    after = (secret / "secret").stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)


def test_files_of_the_host_are_nobodys(both: Callable[..., str], secret: Path) -> None:
    script = (
        "cd /host; stat -c %u:%g secret; cat secret; chmod 644 secret; chown 0 secret; echo x > secret; touch new; "
        "rm -f secret; mv secret x; ln secret /host/y; ./id -u; ./below/id -u; touch secret; ls"
    )
    out = both("sh", "-c", f"({script}) 2>&1", change=shown(secret))
    assert out.startswith("65534:65534\n")
    assert "\n0\n0\n" in out  # the set-uid programs have not become the host's root
    assert out.count("denied") + out.count("permitted") >= 8


def test_two_containers_do_not_reach_each_others_files(joey: Joey, mapped: MakeBundle, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o1777)
    name = joey.id()
    script = "umask 077; echo one > /host/one; chmod 600 /host/one; sleep 100"
    joey("run", "-d", "--force", "userns=emulated", "-b", str(mapped("sh", "-c", script, change=shown(shared))), name)
    wait_for((shared / "one").exists)
    script = "cat /host/one; rm -f /host/one; chown 0 /host/one; chmod 644 /host/one; mv /host/one /host/two"
    folder = mapped("sh", "-c", script, change=shown(shared), base=BASE + COUNT)
    done = joey("run", "--force", "userns=emulated", "-b", str(folder), joey.id(), check=False)
    assert done.stdout == ""
    assert (shared / "one").stat().st_uid == BASE
    assert done.stderr.count("denied") + done.stderr.count("permitted") >= 4


def test_what_is_no_file_of_the_container_is_not_made_its_own(joey: Joey, mapped: MakeBundle, secret: Path) -> None:
    """No privilege is left that would count outside of the range."""
    name = joey.id()
    joey("run", "-d", "--force", "userns=emulated", "-b", str(mapped("sleep", "100", change=shown(secret))), name)
    status = Path(f"/proc/{joey.state(name)['pid']}/status").read_text()
    sets = {line.split(":")[0]: int(line.split()[1], 16) for line in status.splitlines() if line.startswith("Cap")}
    contained = sum(bit(word) for word in ("KILL", "NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT"))
    assert sets["CapEff"] == contained
    assert sets["CapPrm"] == sets["CapBnd"] == contained | bit("SETUID") | bit("SETGID")
    mounts = joey("exec", name, "cat", "/proc/mounts").stdout.splitlines()
    assert any(" /host/below " in line for line in mounts)
    assert not [line for line in mounts if "nosuid" not in line]


def test_capability_sets_follow_ids_as_the_kernels_do() -> None:
    full = bit("CHOWN") | bit("SETUID")
    privileges = Privileges(full, full, 0, full, 0, no_new=False)
    privileges.change_ids((0, 0, 0), (0, 1000, 0))
    assert (privileges.effective, privileges.permitted) == (0, full)
    privileges.change_ids((0, 1000, 0), (0, 0, 0))
    assert privileges.effective == full
    privileges.change_ids((0, 0, 0), (1, 1, 1))
    assert (privileges.effective, privileges.permitted) == (0, 0)
    privileges.execute(1, 0, changed=True)
    assert privileges.effective == full
    assert not privileges.set(full, full | bit("KILL"), 0)


def test_root_links_the_files_of_others(way: str, mapped: MakeBundle, joey: Joey, tmp_path: Path) -> None:
    """As dpkg does before it replaces a file. What is not the container's stays without."""
    (tmp_path / "host").mkdir(mode=0o777)
    (tmp_path / "host").chmod(0o777)
    for name, mode in (("secret", 0o644), ("set-id", 0o4666)):
        (tmp_path / "host" / name).write_text("the host's")
        (tmp_path / "host" / name).chmod(mode)

    def change(config: dict[str, Any]) -> None:
        entry = {"destination": "/host", "type": "bind", "source": str(tmp_path / "host"), "options": ["bind"]}
        config["mounts"].append(entry)

    script = """
        mkdir /w; cd /w
        touch f s; mkfifo p; ln -s f l; chown 33:34 f p; chown -h 33:34 l; chown 33 s; chmod 4755 s
        for n in f p s; do ln $n h$n && stat -c '%h %u %n' h$n; done
        for n in secret set-id; do ln /host/$n /host/x 2>/dev/null || echo refused; done
        mkdir d; chown 33 d; ln f d/h && stat -c '%h' f
        cd /host; ls
    """
    folder = mapped("sh", "-c", script, change=change)
    done = joey("run", *WAYS[way], "-b", str(folder), joey.id())
    assert done.stdout.split("\n")[:-1] == [
        "2 33 hf",
        "2 33 hp",
        "2 33 hs",
        "refused",
        "refused",
        "3",
        "secret",
        "set-id",
    ], done.stderr


def test_files_by_the_kernels_links_to_descriptors(both: Callable[..., str]) -> None:
    """As fchmodat of glibc, install(1) and systemd's tools name them."""
    script = """
        mkdir /w /w/d; cd /w; echo k >k; echo o >o; mkfifo p; chown 1000:1000 k p d; chmod 644 k; chmod 700 d
        exec 3<k 4<d 5<o
        chmod 640 /proc/self/fd/3; chown 5:6 /proc/self/fd/3; stat -c '%a %u %g' k
        chown 5:5 /proc/self/fd/5; stat -c '%a %u %g' o
        echo more >/proc/self/fd/3; cat k; echo again >>/dev/fd/3; cat k; touch -t 200101010000 /proc/self/fd/3; date -r k +%Y
        echo in >/proc/self/fd/4/f; stat -c '%u %a' d/f; mkdir /proc/self/fd/4/g; ls /proc/self/fd/4
        (cd d; chmod 711 /proc/self/cwd; stat -c %a .); chmod 600 /proc/self/cwd/k; stat -c %a k
        chmod 600 /proc/self/fd/9 /proc/self/fd/../fd/3 /proc/self/nothing 2>/dev/null; echo $?
        exec 6</proc/self/exe; chown 7 /proc/self/fd/6; stat -c %u /bin/busybox
    """
    out = both("sh", "-c", script)
    assert out.startswith("640 5 6\n644 5 5\nmore\nmore\nagain\n2001\n0 644\nf\ng\n711\n600\n1\n7\n"), out


def test_its_map_is_told(both: Callable[..., str]) -> None:
    out = both("cat", "/proc/self/uid_map", "/proc/self/gid_map")
    assert out.split()[:6] == ["0", str(BASE), str(COUNT)] * 2
