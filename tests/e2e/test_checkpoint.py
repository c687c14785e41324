"""Checkpoint and restore by CRIU: for real on Debian's kernel in QEMU, which it works on; and its failures here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from joey.compat import files
from joey.compat.errors import JoeyError
from joey.runtime import criu
from joey.runtime.commands.spec import template

from ..conftest import Joey, MakeBundle
from .machine import add_modules, add_program, boot, debian_kernel, make_machine, needs_machine

pytestmark = pytest.mark.root

# CRIU asks the kernel about sockets, firewalls and links, whether or not the container has any
MODULES = (
    "inet_diag tcp_diag udp_diag raw_diag unix_diag af_packet_diag netlink_diag nf_tables veth tun"
    " iptable_filter ip6table_filter xt_mark nf_conntrack_netlink"
)
LIBRARY = Path("/usr/lib/x86_64-linux-gnu/xtables")
JOB = """
wait_for() { n=0; while [ ! -s $1 ] && [ $n -lt 300 ]; do n=$((n+1)); sleep 0.1; done; }
ip link set lo up; echo host > /etc/name
criu check > /tmp/check 2>&1; echo "check $?"
{ joey run --detach -b /bundle one < /dev/null 2> /tmp/one.err; echo "run $?" > /tmp/run; } | cat > /tmp/said &
wait_for /tmp/run; sleep 2; cat /tmp/run /tmp/one.err
before=$(joey exec one cat /tmp/count); [ "$before" -gt 5 ] && echo "counted"
joey checkpoint --leave-running --image-path /ck/first one; echo "left running $?"
joey exec one true; echo "still there $?"
joey checkpoint --image-path /ck/last one; echo "checkpoint $?"
grep -m 3 -B 6 Error /ck/last/dump.log
joey list | grep -c stopped; joey delete one; echo "delete $?"
{ joey restore --detach --pid-file /tmp/pid -b /bundle --image-path /ck/last two 2> /tmp/two.err; echo "restore $?" > /tmp/restore; } | cat > /tmp/more &
wait_for /tmp/restore; sleep 1; cat /tmp/restore /tmp/two.err
grep -m 3 -B 6 Error /ck/last/restore.log
after=$(joey exec two cat /tmp/count); [ "$after" -gt "$before" ] && echo "went on"
sleep 1; [ "$(joey exec two cat /tmp/count)" -gt "$after" ] && echo "goes on"
joey exec two sh -c 'hostname; cat /etc/name; wc -c < /proc/kcore; cat /proc/self/cgroup; touch /etc/name; ls /sys/fs/cgroup/memory.max'
cat /sys/fs/cgroup/joey/two/memory.max; grep -c "" /tmp/more
[ "$(cat /tmp/pid)" = "$(cat /sys/fs/cgroup/joey/two/cgroup.procs | head -n 1)" ] && echo "same pid"
joey kill two KILL; sleep 1; joey delete two; echo "deleted $?"; ls /run/joey/containers
"""
COUNT = 'i=0; while :; do i=$((i+1)); echo $i > /tmp/count; echo "tick $i"; sleep 0.1; done'


@pytest.mark.slow
@pytest.mark.timeout(600)
@needs_machine[0]
@needs_machine[1]
@pytest.mark.skipif(shutil.which("criu") is None, reason="needs criu (tools/test installs it)")
def test_a_container_goes_on_where_it_was(tmp_path: Path) -> None:
    config = template()
    config["process"].update(terminal=False, args=["sh", "-c", COUNT])
    config["linux"]["resources"]["memory"] = {"limit": 64 << 20}
    config["linux"]["namespaces"].append({"type": "cgroup"})
    config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
    config["mounts"].append(
        {"destination": "/etc/name", "type": "bind", "source": "/etc/name", "options": ["bind", "ro"]}
    )
    root = tmp_path / "root"
    image = debian_kernel(tmp_path)
    root.mkdir()
    load = add_modules(root, tmp_path / "kernel", MODULES)
    make_machine(root, load + JOB, config)
    (root / "real_root").touch()
    (root / "etc").mkdir(exist_ok=True)
    (root / "bundle" / "rootfs" / "etc").mkdir()
    (root / "bundle" / "rootfs" / "etc" / "name").touch()
    path = shutil.which("criu")
    assert path
    for program in (path, "/usr/bin/tar", shutil.which("ip") or "ip"):  # CRIU saves a tmpfs with GNU tar, links with ip
        add_program(root, Path(program), Path(program).name)
    for name in ("iptables-save", "ip6tables-save", "iptables-restore", "ip6tables-restore"):
        add_program(root, Path("/usr/sbin/xtables-legacy-multi"), name)
    shutil.copytree(LIBRARY, root / LIBRARY.relative_to("/"))
    lines = boot(image, root, tmp_path / "root.cpio")
    wanted = [
        "check 0", "run 0", "counted", "left running 0", "still there 0", "checkpoint 0", "1", "delete 0", "restore 0",
        "went on", "goes on", "joey", "host", "0", "0::/", "touch: /etc/name: Read-only file system",
        "/sys/fs/cgroup/memory.max", "67108864", "same pid", "deleted 0",
    ]  # fmt: skip
    assert [line for line in wanted if line not in lines] == [], "\n".join(lines)


def test_what_can_not_be_checkpointed_says_why(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    if shutil.which("criu") is None:
        pytest.skip("needs criu (tools/test installs it)")
    name = joey.id()
    done = joey("checkpoint", name, check=False)
    assert (done.returncode, "container does not exist" in done.stderr) == (1, True)
    folder = bundle("sleep", "100")
    joey("create", "-b", str(folder), name)
    done = joey("checkpoint", "--image-path", str(tmp_path / "ck"), name, check=False)
    assert "cannot checkpoint a container that is created" in done.stderr
    assert not (tmp_path / "ck").exists()
    done = joey("restore", "-b", str(folder), "--image-path", str(tmp_path / "ck"), joey.id(), check=False)
    assert "there is no checkpoint" in done.stderr
    (tmp_path / "ck").mkdir()
    done = joey("restore", "-b", str(folder), "--image-path", str(tmp_path / "ck"), joey.id(), check=False)
    assert "descriptors.json is missing or damaged" in done.stderr


def test_without_criu_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "find_program", lambda name: "")
    with pytest.raises(JoeyError, match="CRIU is not installed") as raised:
        criu.find()
    assert raised.value.hint == "install the package criu"
    assert not criu.works()
