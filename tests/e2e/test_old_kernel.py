"""joey on a kernel that answers like 2.6.32, from the host kit alone: probe, plan, run, limits, today's programs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .oldkernel import FIREWALL, PROGRAMS, STATIC, SUITES, TOP, blocks, boot, bundle, debian, native, needs_vm

pytestmark = [*needs_vm, pytest.mark.timeout(1500)]

WAYS = ("rewritten-libc", "tracer")
TRACERS = """
tracers() { for pid in $(ls /proc | grep '^[0-9]'); do grep -q '^Name:.joey-tracer' /proc/$pid/status && echo $pid; done 2>/dev/null; }
start() { joey run --detach --force glibc=tracer -b /b $1 >/tmp/$1 2>&1; until grep -q up /tmp/$1; do sleep 0.1; done; }
ended() { for i in $(seq 200); do joey state $1 | grep -q stopped && break; sleep 0.1; done; joey delete $1 && echo "$1 has ended"; }
start one; joey kill one TERM; ended one; tail -1 /tmp/one
start two; set -- $(tracers); echo "tracer and guard: $#"; kill -9 $1; ended two
start three; set -- $(tracers); kill -9 $2; sleep 1; set -- $(tracers); echo "guard again: $#"; joey delete --force three
sleep 1; echo "tracers left: $(tracers | wc -l), containers left: $(joey list -q | wc -l)"
"""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("suite", SUITES)
def test_todays_programs_print_what_they_print_on_todays_kernel(suite: str, way: str, tmp_path: Path) -> None:
    root = debian(suite)
    expected = blocks(native(root, tmp_path))
    assert len(expected) == 12, expected
    mounts = (
        'c["mounts"].append({"destination": "/programs", "source": "/programs", "type": "bind", "options": ["bind", "ro"]})\n'
        'c["linux"]["resources"]["memory"] = {"limit": 700 << 20}'
    )
    job = (
        bundle("bash", "/programs/programs.sh", change=mounts)
        + f"exec joey run --force enter=none --force glibc={way} --bundle /b programs\n"  # `ls -R /` can't look into an agent
    )
    status, output = boot(tmp_path, job, f"{root}=/rootfs", f"{PROGRAMS}=/programs", timeout=1400)
    got = blocks(output)
    for name, text in expected.items():
        assert got.get(name) == text, f"{suite}, {way}: {name}\n{output[-3000:]}"
    assert status == 0


def test_probe_plan_run_and_limits(tmp_path: Path) -> None:
    """A memory limit kills by a v1 hierarchy that joey mounted itself; what is lost is told."""
    eat = "x = bytearray(300 << 20); x[::4096] = bytes(len(x[::4096])); print('ate')"
    change = 'c["linux"]["resources"]["memory"] = {"limit": 64 << 20}'
    job = (
        "uname -r; ls /proc/self/ns /sys/fs/cgroup 2>&1; joey probe >/tmp/report; tail -1 /tmp/report\n"
        + bundle("python3", "-c", eat, change=change)
        + "joey plan -b /b | grep -E '^ +(glibc|cgroup.memory) '\n"
        'joey run -b /b eater; echo "status $?"\n'
        "sed -i 's/300 << 20/3 << 20/' /b/config.json; joey run -b /b eater; echo \"status $?\"\n"
        "ls /run/joey; grep -c joey /proc/mounts\n"
    )
    status, output = boot(tmp_path, job, f"{debian('bookworm')}=/rootfs")
    assert status == 0, output
    lines = output.splitlines()
    assert lines[0].startswith("2.6.32")
    assert "ls: /proc/self/ns: No such file or directory" in lines
    assert any(line.split()[:2] == ["glibc", "rewritten-libc"] for line in lines if line.strip())
    assert "v1-own-mount" in output
    assert "the C library can't be replaced from inside" in output
    assert lines.index("status 137") < lines.index("ate") < lines.index("status 0")


def test_the_end_of_a_tracer_is_the_end_of_its_container(tmp_path: Path) -> None:
    """A container ends in order under a tracer, and when its tracer is killed; nothing stays."""
    job = bundle("sh", "-c", "trap 'echo ended; exit 3' TERM; echo up; while :; do sleep 0.1; done") + TRACERS
    status, output = boot(tmp_path, job, f"{debian('bookworm')}=/rootfs")
    assert status == 0, output
    assert output.splitlines() == [
        "one has ended", "ended", "tracer and guard: 2", "two has ended", "guard again: 2",
        "tracers left: 0, containers left: 0",
    ]  # fmt: skip


def test_a_running_container_is_entered(tmp_path: Path) -> None:
    """This kernel has no setns: the agent forks what is executed, under both ways, with a terminal too."""
    job = bundle("sleep", "1000")
    for way in WAYS:
        job += (
            f"echo '## {way}'; joey run -d --force glibc={way} -b /b entered >/log 2>&1 || cat /log\n"
            "joey exec --user 33:33 --env A=b entered sh -c 'id -u; echo $A; stat -c %F /etc/passwd; exit 5'; echo \"status $?\"\n"
            "echo words | joey exec entered python3 -c 'import sys; print(sys.stdin.read().upper())'\n"
            "joey exec entered sh -c 'kill -9 $$'; echo \"status $?\"\n"
            "joey ps entered | grep -c joey-agent; joey kill entered KILL; sleep 1; joey delete entered\n"
            "ps | grep -v grep | grep -c joey-agent\n"
        )
    status, output = boot(tmp_path, job, f"{debian('bookworm')}=/rootfs")
    assert status == 1, output  # of the last grep
    _, first, second = output.split("## ")
    assert first.splitlines()[1:] == second.splitlines()[1:]
    assert first.splitlines()[1:] == [
        "33", "b", "regular file", "status 5", "WORDS", "", "status 137", "1", "0",
    ]  # fmt: skip


def test_a_seccomp_profile_holds(tmp_path: Path) -> None:
    """This kernel has no seccomp: the profile is enforced by a tracer, beside both ways for the C library."""
    rule = '{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}'
    family = '{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}'
    killed = '{"names": ["chroot"], "action": "SCMP_ACT_KILL"}'
    change = f'c["linux"]["seccomp"] = {{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}, {family}, {killed}]}}'
    script = "import os, socket; socket.socket(); print(len(os.getrandom(5))); socket.socket(socket.AF_UNIX)"
    job = bundle("sh", "-c", f"mkdir /tmp/x; python3 -c '{script}'; chroot /; echo $?; stat -c %F /", change=change)
    for way in WAYS:
        job += f"echo '## {way}'; joey run --force glibc={way} -b /b judged 2>&1 | grep -v warning\n"
    job += "joey run --force seccomp-privileged=none -b /b judged\n"
    status, output = boot(tmp_path, job, f"{debian('bookworm')}=/rootfs")
    assert status == 1, output
    assert "too weak for the strict policy" in output
    for part in output.split("## ")[1:]:
        lines = part.splitlines()
        assert any("create directory" in line and line.endswith("Operation not supported") for line in lines)
        assert "5" in lines
        assert "OSError: [Errno 97] Address family not supported by protocol" in lines
        assert "159" in lines
        assert "directory" in lines


def test_disk_quotas(tmp_path: Path) -> None:
    """Projects of XFS and ext4, and an image on any file system, which grows while it is mounted."""
    images = tmp_path / "images"
    images.mkdir()
    for name, command in (("xfs", ["mkfs.xfs", "-q"]), ("ext4", ["mkfs.ext4", "-q", "-O", "quota,project"])):
        with (images / name).open("w") as file:
            file.truncate(400 << 20)
        subprocess.run([*command, str(images / name)], check=True)
    fill = "dd if=/dev/zero of=/big bs=1M count=60 2>&1 | grep -c 'No space\\|uota exceeded'; echo $(($(stat -c %s /big) >> 20))"
    job = (
        "make() { mkdir -p $1/bin $1/dev $1/proc $1/sys $1/tmp; cp /bin/busybox $1/bin; "
        "for a in sh dd grep stat sleep; do ln -s busybox $1/bin/$a; done; }\n"
    )
    for name in ("xfs", "ext4"):
        job += f"mkdir /{name}; mount -o loop,prjquota /images/{name} /{name} && make /{name}/root\n"
        job += "umount /b/rootfs 2>/dev/null; rm -rf /b\n" + bundle("sh", "-c", fill, root=f"/{name}/root")
        job += f"echo '## {name}'; joey plan -b /b --disk-quota 20M | grep -c 'disk-quota  *project-quota'\n"
        job += "joey run -b /b --disk-quota 20M q 2>/dev/null; joey run -b /b q 2>/dev/null\n"
    job += "umount /b/rootfs; rm -rf /b; make /plain\n" + bundle("sleep", "1000", root="/plain")
    job += (
        "echo '## image'; joey run -d -b /b --force disk-quota=loop-image --disk-quota 20M q >/log 2>&1 || cat /log\n"
        f'joey exec q sh -c "{fill.replace("$", chr(92) + "$")}"; joey update --disk-quota 120M q\n'
        f'joey exec q sh -c "{fill.replace("$", chr(92) + "$")}"; joey delete --force q; losetup -a | grep -c joey-quota\n'
    )
    status, output = boot(tmp_path, job, f"{images}=/images")
    assert status == 1, output  # of the last grep: no loop device is left
    _, xfs, ext4, image = output.split("## ")
    for text in (xfs, ext4):
        planned, full, size, again, whole = text.split()[1:]
        assert (planned, full, again, whole) == ("1", "1", "0", "60"), text
        assert 15 <= int(size) <= 20, text
    full, size, again, whole, left = image.split()[1:]
    assert (full, again, whole, left) == ("1", "0", "60", "0"), image


SHIFT = """
python3 - <<'END'
import os, stat
for folder, _, files in os.walk("/rootfs"):
    for path in [folder, *(folder + "/" + name for name in files)]:
        now = os.lstat(path)
        os.lchown(path, now.st_uid + 100000, now.st_gid + 100000)
        if not stat.S_ISLNK(now.st_mode):
            os.chmod(path, stat.S_IMODE(now.st_mode))
    for name in os.listdir(folder):
        if os.path.islink(folder + "/" + name) and os.path.isdir(folder + "/" + name):
            os.lchown(folder + "/" + name, 100000, 100000)
END
"""
MAPPED = (
    'c["linux"]["namespaces"].append({"type": "user"}); '
    'c["linux"].update({k: [{"containerID": 0, "hostID": 100000, "size": 65536}] for k in ("uidMappings", "gidMappings")})'
)
PACKAGE = """
set -e
mkdir -p /p/DEBIAN /p/var/lib/hello /p/usr/bin; cd /p
printf 'Package: hello\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.com>\\nDescription: x\\n' > DEBIAN/control
printf '#!/bin/sh\\nuseradd -r hello; chown hello:hello /var/lib/hello; chmod 2770 /var/lib/hello\\n' > DEBIAN/postinst
cp /usr/bin/id usr/bin/hello; chmod 755 DEBIAN/postinst; chmod 4755 usr/bin/hello
dpkg-deb -b /p /hello.deb > /dev/null
apt-get install -y /hello.deb > /log 2>&1 || cat /log
stat -c '%U:%G %a' /var/lib/hello
useradd -m -u 1234 joe; su joe -c 'id -u; cd; touch x; stat -c %U x; hello -u; cat /etc/shadow || echo kept'
echo joe:secret | chpasswd; echo secret | su nobody -s /bin/sh -c 'su joe -c "id -u"' 2>/dev/null
apt-get purge -y hello > /log 2>&1 || cat /log; ls /usr/bin/hello || echo gone
sleep 1000
"""


def test_emulated_users_install_packages_and_become_others(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "package").write_text(PACKAGE)
    job = bundle("sh", "-c", "exec sh /scripts/package > /made 2>/errors", change=MAPPED + "; " + (
        'c["mounts"].append({"destination": "/scripts", "source": "/scripts", "type": "bind", "options": ["bind", "ro"]})'
    )) + SHIFT  # fmt: skip
    job += "joey plan -b /b | grep -c 'userns  *emulated'; joey run -d -b /b users 2>/dev/null >/dev/null\n"
    job += "while ! grep -q gone /rootfs/made 2>/dev/null; do sleep 1; [ -d /proc/$(cat /run/joey/containers/users/pid 2>/dev/null || echo 1) ] || break; done\n"
    job += "echo '## inside'; cat /rootfs/made; echo '## outside'; stat -c %u:%g:%a /rootfs/made /rootfs/home/joe /rootfs/home/joe/x\n"
    job += (
        "joey exec users sh -c 'id -u; kill -9 1; touch /byexec; stat -c %u /byexec'; joey exec -u 1234 users id -u\n"
    )
    job += "joey delete --force users; cat /rootfs/errors\n"
    status, output = boot(
        tmp_path, job, f"{debian('bookworm', STATIC['bookworm'])}=/rootfs", f"{tmp_path}/scripts=/scripts"
    )
    assert status == 0, output
    planned, inside, outside = output.split("## ")
    assert planned.strip() == "1", output
    assert inside.splitlines()[1:] == ["hello:hello 2770", "1234", "joe", "0", "kept", "1234", "gone"], output
    owners = ["100000:100000:644", "101234:101234:755", "101234:101234:644"]
    assert outside.splitlines()[1:7] == [*owners, "0", "0", "1234"], output


def test_emulated_users_stay_in_their_range(tmp_path: Path) -> None:
    """What test_users.py tries; this kernel has no calls of i386."""
    (tmp_path / "root" / "bin").mkdir(parents=True)
    source = Path(__file__).parent / "programs" / "users.c"
    program = tmp_path / "root" / "bin" / "users"
    subprocess.run(["cc", "-static", "-pthread", "-w", "-o", program, source], check=True)
    job = "mkdir /host; echo secret > /host/secret; chmod 600 /host/secret; chown -R 100000:100000 /rootfs\n"
    host = '; c["mounts"].append({"destination": "/host", "source": "/host", "type": "bind", "options": ["bind"]})'
    for attack in ("untraced", "race", "links"):
        job += "umount /b/rootfs 2>/dev/null; rm -rf /b\n" + bundle(
            "/bin/users", attack, "/host/secret", change=MAPPED + host
        )
        job += f"echo '## {attack}'; joey run -b /b attack 2>/log || cat /log; stat -c 'host %u %a' /host/secret\n"
    status, output = boot(tmp_path, job, f"{tmp_path}/root=/rootfs")
    assert status == 0, output
    for part in output.split("## ")[1:]:
        assert "secret kept" in part, output
        assert "READ" not in part, output
        assert "host 0 600" in part, output


def test_storms_under_both_ways(tmp_path: Path) -> None:
    mounts = 'c["mounts"].append({"destination": "/programs", "source": "/programs", "type": "bind", "options": ["bind", "ro"]})'
    job = bundle("python3", "/programs/storm.py", change=mounts)
    for way in WAYS:
        job += f"echo '## {way}'; joey run --force glibc={way} -b /b storm 2>/dev/null; echo \"status $?\"\n"
    status, output = boot(tmp_path, job, f"{debian('bookworm')}=/rootfs", f"{PROGRAMS}=/programs")
    assert status == 0, output
    _, first, second = output.split("## ")
    assert first.splitlines()[1:] == second.splitlines()[1:]
    assert first.splitlines()[-1] == "status 0"
    assert "threads 4000 64000" in first
    assert first.count("stopped 0 goes on True") == 3


@pytest.mark.parametrize("suite", ["bullseye", "bookworm"])
def test_static_programs(suite: str, tmp_path: Path) -> None:
    """A Go program needs nothing. A static one of glibc 2.31 refuses the kernel, is seen to, and is traced; 2.36's starts."""
    go = "printf 'if true;then\\necho hi;fi\\n' | exec shfmt"
    job = ""
    if "shfmt" in STATIC[suite]:
        job += bundle("sh", "-c", go) + "joey run -b /b go 2>/dev/null; rm /b/config.json\n"
    job += bundle("/bin/busybox", "sh", "-c", "uname -r; echo $((6 * 7))")
    job += 'chroot /rootfs /bin/busybox true; echo "bare: $?"\n'
    job += "joey plan -b /b | grep static-program; joey run -b /b box 2>/dev/null\n"
    status, output = boot(tmp_path, job, f"{debian(suite, STATIC[suite])}=/rootfs")
    assert status == 0, output
    formatted, _, last = output.rpartition("fi\n")
    assert formatted == ("if true; then\n\techo hi\n" if "shfmt" in STATIC[suite] else "")
    rest = last.splitlines()
    if suite == "bullseye":
        assert rest[0] == "FATAL: kernel too old"
        assert "bare: 134" in rest
        assert any(line.split()[:2] == ["static-program", "tracer"] for line in rest)
        assert rest[-2].startswith("3.17.0+2.6.32")
    else:
        assert rest[0] == "bare: 0"
        assert rest[-2].startswith("2.6.32")
    assert rest[-1] == "42"


def test_musl_and_static_programs_need_nothing(tmp_path: Path) -> None:
    """The kit in a root file system, which is of musl; and busybox, which is static."""
    python = "import os, threading; print(len(os.urandom(4)), len(os.listdir('/')) > 5, threading.active_count())"
    job = "mkdir -p /m/dev /m/proc /m/sys /m/tmp /m/bin /m/opt; cp -r /opt/joey /m/opt/kit; cp /bin/busybox /m/bin/sh\n"
    job += bundle("/bin/sh", "-c", f'echo from busybox; exec /opt/kit/bin/python3 -c "{python}"', root="/m")
    job += "joey plan -b /b | grep -c glibc; joey check /m; joey run -b /b musl\n"
    status, output = boot(tmp_path, job)
    assert status == 0, output
    assert "from busybox\n4 True 1\n" in output
    assert "no glibc for x86-64" in output
    assert ": runs\n" in output


def test_the_kit_runs_from_anywhere(tmp_path: Path) -> None:
    python = "import ssl, ctypes, zlib, hashlib; print(ssl.OPENSSL_VERSION, hashlib.sha256(b'').hexdigest()[:8])"
    job = (
        "mkdir -p '/a b/c'; cp -r /opt/joey '/a b/c/kit'; ln -s '/a b/c/kit/bin/joey' /usr/bin/j; rm -rf /opt/joey; cd /\n"
        f"j --version; '/a b/c/kit/bin/python3' -c \"{python}\"\n"
        "cd '/a b/c/kit' && sha256sum -c SHA256SUMS >/dev/null && echo whole; bin/busybox true && echo busybox\n"
    )
    status, output = boot(tmp_path, job)
    assert status == 0, output
    lines = output.splitlines()
    assert lines[0].startswith("joey version")
    assert lines[2].startswith("OpenSSL 3")
    assert lines[2].endswith("e3b0c442")
    assert lines[3:] == ["whole", "busybox"]


def test_a_machine_without_a_kernel_or_a_job_says_so(tmp_path: Path) -> None:
    none = tmp_path / "none"
    done = subprocess.run(
        [TOP / "tools" / "vm", "--kernel", none, "--", "true"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"no kernel at {none}" in done.stderr
    done = subprocess.run([TOP / "tools" / "vm", "--timeout", "15", "--retries", "0", "--", "sleep", "100"], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 124
    assert "the time is over" in done.stderr
    assert shutil.which("qemu-system-x86_64")


def test_layers_without_overlay(tmp_path: Path) -> None:
    """Layers on XFS: by hard links that keep them as they are; with a quota, which counts what is written, by copy."""
    image = tmp_path / "images" / "xfs"
    image.parent.mkdir()
    with image.open("w") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=0", str(image)], check=True)
    script = "cat /etc/motd; ls /etc; echo x >> /usr/big || echo refused; dd if=/dev/zero of=/opt/x bs=1M count=60 2>&1 | grep -c 'No space'"
    job = (
        "mkdir /x; mount -o loop,prjquota /images/xfs /x; mkdir -p /x/base/bin /x/base/etc /x/base/usr /x/base/opt /x/top/etc\n"
        "cp /bin/busybox /x/base/bin; for a in sh cat ls dd grep; do ln -s busybox /x/base/bin/$a; done\n"
        "echo base > /x/base/etc/motd; echo gone > /x/base/etc/gone; dd if=/dev/zero of=/x/base/usr/big bs=1M count=8 2>/dev/null\n"
        "echo top > /x/top/etc/motd; mknod /x/top/etc/gone c 0 0\n"
        + bundle("sh", "-c", script, root="/x/base")
        + "umount /b/rootfs\n"
        "for words in '' '--disk-quota 20M'; do\n"
        '    rm -rf /x/b; mkdir /x/b; cp /b/config.json /x/b; words="--layer /x/base --layer /x/top $words"\n'
        "    joey plan -b /x/b $words | grep -E -o '^ +(layers|disk-quota) +[a-z-]+'\n"
        "    joey run -b /x/b $words l 2>&1 | grep -v warning; joey run -b /x/b $words l 2>/dev/null | head -1; stat -c %h /x/base/usr/big\n"
        "done; cat /x/base/etc/motd\n"
    )
    status, output = boot(tmp_path, job, f"{image.parent}=/images")
    assert status == 0, output
    assert [" ".join(line.split()) for line in output.splitlines() if line.strip()] == [
        "layers hard-links",
        "joey: making /x/b/rootfs of 2 layers by hard-links",
        "top",
        "motd",
        "sh: can't create /usr/big: Read-only file system",
        "refused",
        "0",
        "top",
        "2",
        "layers copy",
        "disk-quota project-quota",
        "joey: making /x/b/rootfs of 2 layers by copy",
        "top",
        "motd",
        "1",
        "top",
        "1",
        "base",
    ]


IPTABLES = """
cat > /usr/sbin/iptables-legacy <<'END'
#!/bin/sh
mkdir /b$$; python3 - /b$$ "$@" <<'P'
import json, sys
c = json.load(open("/b/config.json"))
c["process"]["args"] = ["/usr/sbin/iptables-legacy", *sys.argv[2:]]
c["root"]["path"] = "/b/rootfs"
c["linux"]["namespaces"] = [n for n in c["linux"]["namespaces"] if n["type"] != "network"]
c["process"]["capabilities"] = {kind: ["CAP_NET_ADMIN", "CAP_NET_RAW"] for kind in ("bounding", "effective", "permitted")}
json.dump(c, open(sys.argv[1] + "/config.json", "w"))
P
exec joey run --force enter=none -b /b$$ iptables$$ 2>/dev/null
END
chmod +x /usr/sbin/iptables-legacy
"""


def test_networks(tmp_path: Path) -> None:
    """A bridge, neighbours and a way beyond, where nothing can enter a namespace. The host's iptables is Debian 12's,
    from a container, for its own C library is too new for this kernel."""
    show = "ip -o -4 addr show eth0 | grep -o 'inet [0-9./]*'; ip route | grep default; wget -T 5 -q -O - http://{}/"
    words = "bridge,name=out0,subnet=192.0.2.0/24,address=192.0.2.9,nat=off"
    job = (
        "mkdir -p /usr/sbin /m/dev /m/proc /m/sys /m/tmp /m/bin /m/www; cp /bin/busybox /m/bin/; echo hello > /m/www/index.html\n"
        "for name in sh ip grep wget httpd; do ln -s busybox /m/bin/$name; done\n"
        + bundle("true")
        + IPTABLES
        + in_s(bundle("/bin/sh", "-c", "exec httpd -f -vv -p 80 -h /www", root="/m"))
        + "joey plan -b /s --network bridge | grep -o '^ *network[a-z.]* *[a-z-]*'\n"
        "joey run -d -b /s --network bridge near >/near 2>&1 || cat /near\n"
        f"joey run -d -b /s --network {words} far >/far 2>&1 || cat /far\n"
        "rm /s/config.json; umount /s/rootfs\n"
        + in_s(bundle("/bin/sh", "-c", show.format("10.71.0.2") + "; " + show.format("192.0.2.9"), root="/m"))
        + "joey run -b /s --network bridge,mtu=1400 client 2>/client || cat /client\n"
        "grep -o '192.0.2.1.:[0-9]*: response:200' /far | sed 's/:[0-9]*: / /'; iptables-legacy -t nat -S POSTROUTING | grep -c MASQ\n"
        "joey delete --force near; joey delete --force far; iptables-legacy -t nat -S | grep -c MASQ\n"
        "cat /proc/net/dev | grep -c -E 'joey0|out0|jv'; ls /run/joey/networks\n"
    )
    status, output = boot(tmp_path, job, f"{debian('bookworm', FIREWALL)}=/rootfs")
    assert status == 0, output
    assert [" ".join(line.split()) for line in output.splitlines() if line.strip()] == [
        "network.bridge veth",
        "network.nat iptables-legacy",
        "inet 10.71.0.3/24",
        "default via 10.71.0.1 dev eth0",
        "hello",
        "inet 10.71.0.3/24",
        "default via 10.71.0.1 dev eth0",
        "hello",
        "192.0.2.1] response:200",
        "1",
        "0",
        "0",
    ]


def in_s(text: str) -> str:
    """A job's bundle in /s instead of /b."""
    return text.replace("/b/", "/s/").replace("--bundle /b", "--bundle /s")


def test_views(tmp_path: Path) -> None:
    """free, nproc's file and uptime show the container, by the kernel's own FUSE protocol of that time and by files."""
    change = 'c["linux"]["resources"]["memory"] = {"limit": 96 << 20}'
    script = "sleep 3; free -k | head -2; cat /proc/uptime /sys/devices/system/cpu/online; ps -o comm= -p 1; grep -c '^cpu[0-9]' /proc/stat"
    job = bundle("sh", "-c", script, change=change)
    for way in ("fuse", "files"):
        job += f"echo '## {way}'; joey run --views --force views={way} -b /b seen 2>/dev/null; ls /run/joey-public; grep -c views /proc/mounts\n"
    status, output = boot(tmp_path, job, f"{debian('bookworm')}=/rootfs")
    assert status == 1, output  # of the last grep
    for part in output.split("## ")[1:]:
        lines = [line.split() for line in part.splitlines()]
        assert lines[2][:2] == ["Mem:", str(96 << 10)], part
        assert 2 < float(lines[3][0]) < 60, part
        assert [line[0] for line in lines[4:]] == ["0", "sh", "1", "0"], part


PLAIN = """
cat > /as <<'END'
import os, sys
os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)
os.environ["HOME"] = "/home/u"
os.chdir("/")
os.execvp(sys.argv[1], sys.argv[1:])
END
mkdir -p /home/u; chown -hR 1000:1000 /rootfs /home/u; chown 1000:1000 /b /b/config.json
exec python3 /as joey run --policy permissive -b /b plain
"""


def test_a_user_without_any_privilege_installs_packages(tmp_path: Path) -> None:
    """No namespace, no chroot: names, owners and ids by a tracer, beside the shim's."""
    root = debian("bookworm")
    expected = blocks(native(root, tmp_path))
    change = (
        'c["mounts"].append({"destination": "/programs", "source": "/programs", "type": "bind", "options": ["bind", "ro"]})\n'
        'c["linux"].pop("resources", None)\n'
        'c["mounts"] = [m for m in c["mounts"] if m["type"] != "cgroup"]\n'
        'c["linux"]["namespaces"].append({"type": "user"})\n'
        'for name in ("uidMappings", "gidMappings"): c["linux"][name] = [{"containerID": 0, "hostID": 1000, "size": 1}]'
    )
    job = bundle("bash", "/programs/programs.sh", "apt", "perl", "postgresql", change=change) + PLAIN
    status, output = boot(tmp_path, job, f"{root}=/rootfs", f"{PROGRAMS}=/programs", timeout=1400)
    got = blocks(output)
    for name in ("apt", "perl", "postgresql"):
        assert got.get(name) == expected[name], f"{name}\n{output[-3000:]}"
    assert status == 0
