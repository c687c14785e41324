"""Networks of containers: bridges by netlink without setns, ways beyond the host, CNI lists. Each test has a host of
its own: a network namespace, and in another one a neighbour of that host.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from joey.compat.network import attachments

from ..conftest import Change, MakeBundle, install
from .host import BEYOND, Host
from .oldkernel import TOP

pytestmark = pytest.mark.root

SHOW = "ip -o -4 addr show; ip route; cat /sys/class/net/eth*/address 2>/dev/null || true; "
WITHOUT_SETNS = (sys.executable, str(TOP / "tools" / "asif"), "5.10", "--deny", "setns", "--")


@pytest.fixture
def listener(host: Host) -> Iterator[Callable[[], str]]:
    """A server on the neighbour; gives the address that its one client came from."""
    program = "import socket; s = socket.create_server(('', 8000)); print(flush=True); print(s.accept()[1][0])"
    with subprocess.Popen([*host.beyond, sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        server.stdout.readline()
        stream = server.stdout
        yield lambda: stream.readline().strip()
        server.kill()


def with_raw(config: dict[str, Any]) -> None:
    for kind in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][kind] += ["CAP_NET_RAW", "CAP_NET_ADMIN"]


def in_user_namespace(config: dict[str, Any]) -> None:
    with_raw(config)
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [
        {"containerID": 0, "hostID": 100000, "size": 65536}
    ]


def run(host: Host, bundle: MakeBundle, script: str, *words: str, change: Change = with_raw) -> str:
    """What a container with networks prints."""
    folder = bundle("sh", "-c", script, change=change)
    if change is in_user_namespace:
        subprocess.run(["chown", "-R", "-h", "100000:100000", folder / "rootfs"], check=True)
    return host("run", "-b", str(folder), *words, host.id()).stdout


def test_an_address_a_route_and_the_bridge(host: Host, bundle: MakeBundle) -> None:
    out = run(host, bundle, SHOW + "ping -c1 -W2 10.71.0.1", "--network", "bridge")
    assert re.search(r"eth0 +inet 10\.71\.0\.2/24", out)
    assert "default via 10.71.0.1 dev eth0" in out
    assert "02:42:0a:47:00:02" in out
    assert "1 packets received" in out
    assert host.links() == set(), "the last container takes the bridge along"


@pytest.mark.parametrize("way", ["native", "emulated"])
def test_in_a_user_namespace(host: Host, bundle: MakeBundle, way: str) -> None:
    script = SHOW + "ping -c1 -W2 10.71.0.1"
    out = run(host, bundle, script, "--network", "bridge", "--force", f"userns={way}", change=in_user_namespace)
    assert "eth0" in out
    assert "1 packets received" in out


def test_without_setns(host: Host, bundle: MakeBundle) -> None:
    """Nothing of joey's enters the namespace: the socket from inside is enough."""
    host.before = WITHOUT_SETNS
    out = run(host, bundle, SHOW + "ping -c1 -W2 10.71.0.1", "--network", "bridge,link=net0", "--policy", "permissive")
    assert re.search(r"net0 +inet 10\.71\.0\.2/24", out)
    assert "1 packets received" in out


def test_words(host: Host, bundle: MakeBundle) -> None:
    second = "bridge,name=b-2.x,subnet=10.72.8.0/22,address=10.72.9.7,mac=52:54:00:AB:cd:01,mtu=1400,nat=off,gateway=10.72.8.9"
    out = run(host, bundle, SHOW + "cat /sys/class/net/eth1/mtu; ping -c1 -W2 10.72.8.9", "--network", "bridge", "--network", second)  # fmt: skip
    assert re.search(r"eth1 +inet 10\.72\.9\.7/22", out)
    assert "52:54:00:ab:cd:01" in out
    assert "\n1400\n" in out
    assert out.count("default") == 1, "the first network leads out"
    assert "default via 10.71.0.1 dev eth0" in out
    assert "1 packets received" in out


def test_by_annotation_and_none_over_it(host: Host, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["annotations"] = {"io.joey.network": "bridge;bridge,name=c0,subnet=10.72.0.0/24"}

    folder = bundle("sh", "-c", SHOW, change=change)
    out = host("run", "-b", str(folder), host.id()).stdout
    assert "10.71.0.2/24" in out
    assert "10.72.0.2/24" in out
    assert "eth0" not in host("run", "-b", str(folder), "--network", "none", host.id()).stdout


def test_neighbours_reach_each_other(host: Host, bundle: MakeBundle) -> None:
    server = host.id()
    folder = bundle("sh", "-c", "while :; do echo hello | nc -l -p 80; done", change=with_raw)
    host("run", "-d", "-b", str(folder), "--network", "bridge", server)
    shown = host.state(server)["annotations"]
    assert shown == {"io.joey.link.eth0": "10.71.0.2/24 via 10.71.0.1, bridge joey0"}
    out = run(host, bundle, "ip -o -4 addr; nc -w 3 10.71.0.2 80", "--network", "bridge")
    assert "10.71.0.3/24" in out
    assert "hello" in out
    assert host.leases() == {"10.71.0.2"}
    refused = host(
        "run", "-b", str(bundle("true")), "--network", "bridge,address=10.71.0.2", host.id(), check=False
    )  # fmt: skip
    assert refused.returncode == 1
    assert "10.71.0.2 is taken" in refused.stderr
    assert "eth0" in run(host, bundle, SHOW, "--network", "bridge,address=10.71.0.77")
    assert host.links() >= {"joey0"}
    host("delete", "--force", server)
    assert host.links() == set()


@pytest.mark.parametrize("tool", ["iptables", "iptables-legacy", "nft"])
def test_the_way_beyond(host: Host, bundle: MakeBundle, listener: Callable[[], str], tool: str) -> None:
    """The neighbour sees the host's address; also where the host drops what it does not know (but for nft)."""
    if tool != "nft":
        host.call(tool, "-P", "FORWARD", "DROP")
    folder = bundle("sh", "-c", f"echo x | nc -w 3 {BEYOND} 8000", change=with_raw)
    done = host("run", "-b", str(folder), "--network", "bridge", "--force", f"network.nat={tool}", host.id())
    assert "ip_forward is switched on" in done.stderr
    assert listener() == "192.0.2.1"
    if tool != "nft":
        host.call(tool, "-P", "FORWARD", "ACCEPT")


@pytest.mark.parametrize(
    "words", [("--network", "bridge,nat=off"), ("--network", "bridge", "--force", "network.nat=none")]
)
def test_no_way_beyond(host: Host, bundle: MakeBundle, words: tuple[str, ...]) -> None:
    folder = bundle("sh", "-c", f"ping -c1 -W1 {BEYOND}", change=with_raw)
    done = host("run", "-b", str(folder), *words, host.id(), check=False)
    assert "0 packets received" in done.stdout
    assert ("nothing beyond them" in done.stderr) is ("--force" in words)


def test_somebody_elses_bridge(host: Host, bundle: MakeBundle) -> None:
    host.call("ip", "link", "add", "br0", "type", "bridge")
    host.call("ip", "addr", "add", "198.51.100.1/24", "dev", "br0")
    host.call("ip", "link", "set", "br0", "up")
    folder = str(bundle("true"))
    refused = host("run", "-b", folder, "--network", "bridge,name=br0", host.id(), check=False)
    assert refused.returncode == 1
    assert "address=ADDRESS/PREFIX" in refused.stderr
    words = "bridge,name=br0,address=198.51.100.7/24,gateway=198.51.100.1"
    out = run(host, bundle, SHOW + "ping -c1 -W2 198.51.100.1", "--network", words)
    assert "1 packets received" in out
    assert "default via 198.51.100.1" in out
    assert host.links() == {"br0"}, "it stays, and has lost its port"
    assert "master br0" not in host.call("ip", "link")
    assert not host.rules()
    host.call("ip", "link", "del", "br0")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("bridges", 2, '"bridges" is no kind of network'),
        ("bridge,adress=10.71.0.3", 2, '"adress=10.71.0.3" is no option of bridge'),
        ("bridge,address=10.71.0.300", 2, "10.71.0.300"),
        ("bridge,name=../x", 2, "no name for a bridge"),
        ("bridge,name=a-name-too-long-", 2, "no name for a bridge"),
        ("bridge,mac=01:00:00:00:00:01", 2, "no MAC address"),
        ("bridge,mtu=10", 2, "no MTU"),
        ("bridge,link=lo", 2, "no name for a link"),
        ("bridge,subnet=10.71.0.0/31", 2, "no room"),
        ("bridge,subnet=10.71.0.7/24", 2, "has host bits set"),
        ("cni", 2, "name is missing"),
        ("cni,name=nowhere", 2, 'no CNI list "nowhere"'),
        ("bridge,subnet=192.0.2.128/25", 1, "the host has a route to 192.0.2.0/24, which overlaps"),
        ("bridge,address=10.72.0.9", 1, "no address for a container of 10.71.0.0/24"),
        ("bridge,address=10.71.0.1", 1, "no address for a container of 10.71.0.0/24"),
        ("bridge,name=up0", 1, "a link of this name that is no bridge"),
    ],
)  # fmt: skip
def test_words_that_are_refused(host: Host, bundle: MakeBundle, words: str, status: int, said: str) -> None:
    done = host("run", "-b", str(bundle("true")), "--network", words, host.id(), check=False)
    assert said in done.stderr
    assert done.returncode == status
    assert host.links() == set()


def test_without_a_network_namespace_of_its_own(host: Host, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [item for item in config["linux"]["namespaces"] if item["type"] != "network"]

    done = host("run", "-b", str(bundle("true", change=change)), "--network", "bridge", host.id(), check=False)
    assert done.returncode == 1
    assert "--network: needs a network namespace of the container's own" in done.stderr


def test_a_plain_user_is_refused(host: Host, bundle: MakeBundle, tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"].append({"type": "network"})

    folder = bundle("true", rootless=True, change=change)
    words = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", install(tmp_path / "plain")]
    done = subprocess.run(
        [*host.enter, *words, "plan", "-b", str(folder), "--network", "bridge"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
    )
    assert done.returncode == 1
    assert "only root has it" in done.stdout


def test_hooks_find_the_network(host: Host, bundle: MakeBundle, tmp_path: Path) -> None:
    """A hook of the host is told the address, and finds it up in the namespace of the pid that it is told."""
    script = (f"cat > {tmp_path}/state; pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/' {tmp_path}/state); "
              f"nsenter -t $pid -n ip addr > {tmp_path}/seen")  # fmt: skip

    def change(config: dict[str, Any]) -> None:
        hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": [f"PATH={os.environ['PATH']}"]}
        config["hooks"] = {"createRuntime": [hook]}

    run(host, bundle, "true", "--network", "bridge", change=change)
    assert "10.71.0.2/24" in (tmp_path / "seen").read_text()
    assert json.loads((tmp_path / "state").read_text())["annotations"]["io.joey.link.eth0"].startswith("10.71.0.2/24")


def test_a_start_that_fails_leaves_nothing(host: Host, bundle: MakeBundle) -> None:
    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}

    done = host("run", "-b", str(bundle("true", change=change)), "--network", "bridge", host.id(), check=False)
    assert done.returncode == 1
    assert (host.links(), host.rules(), host.leases()) == (set(), "", set())


def test_a_killed_joey_is_cleaned_up_after(host: Host, bundle: MakeBundle) -> None:
    """SIGKILL while a hook runs, when the network is there: `delete --force` takes it away."""

    def change(config: dict[str, Any]) -> None:
        config["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "100"]}]}

    name = host.id()
    command = host.command("run", "-b", str(bundle("true", change=change)), "--network", "bridge", name)
    with subprocess.Popen(command, start_new_session=True) as process:
        deadline = time.monotonic() + 20
        while not host.leases() or not host.links() or "joey0" not in host.rules():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    host("delete", "--force", name)
    assert (host.links(), host.rules(), host.leases()) == (set(), "", set())


def test_a_lease_of_nobody_is_free(host: Host, bundle: MakeBundle) -> None:
    """A container whose state somebody removed by hand holds no address."""
    name = host.id()
    host("run", "-d", "-b", str(bundle("sleep", "100")), "--network", "bridge,subnet=10.71.0.0/30", name)
    pid = host.state(name)["pid"]
    for file in (host.root / name).iterdir():
        file.unlink()
    (host.root / name).rmdir()
    os.kill(pid, signal.SIGKILL)
    assert "10.71.0.2/30" in run(host, bundle, SHOW, "--network", "bridge")


def test_a_full_subnet(host: Host, bundle: MakeBundle) -> None:
    name = host.id()
    host("run", "-d", "-b", str(bundle("sleep", "100")), "--network", "bridge,subnet=10.71.0.0/30", name)
    done = host("run", "-b", str(bundle("true")), "--network", "bridge", host.id(), check=False)
    assert done.returncode == 1
    assert "10.71.0.0/30: every address is taken" in done.stderr
    other = host("run", "-b", str(bundle("true")), "--network", "bridge,subnet=10.72.0.0/24", host.id(), check=False)
    assert "its subnet is 10.71.0.0/30, not 10.72.0.0/24" in other.stderr


def test_many_at_once_have_addresses_of_their_own(host: Host, bundle: MakeBundle) -> None:
    names = [host.id() for _ in range(8)]
    folder = bundle("sleep", "100")
    commands = [host.command("run", "-d", "-b", str(folder), "--network", "bridge", name) for name in names]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    assert [process.wait(60) for process in running] == [0] * 8
    assert len(host.leases()) == 8
    ending = [subprocess.Popen(host.command("delete", "--force", name)) for name in names]
    assert [process.wait(60) for process in ending] == [0] * 8
    assert host.links() == set()


PLUGINS = next((folder for folder in ("/opt/cni/bin", "/usr/lib/cni") if Path(folder, "bridge").exists()), "")
needs_plugins = pytest.mark.skipif(
    not PLUGINS, reason="no CNI plugins (tools/test installs containernetworking-plugins)"
)


@pytest.fixture
def cni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that writes a CNI list "shop" of these plugins."""
    folder = tmp_path / "net.d"
    folder.mkdir()
    monkeypatch.setenv("CNI_CONFIG_DIR", str(folder))

    def write(*plugins: dict[str, Any]) -> None:
        text = json.dumps({"cniVersion": "1.0.0", "name": "shop", "plugins": plugins})
        (folder / "10-shop.conflist").write_text(text)

    return write


def bridge_plugin(folder: Path) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "subnet": "10.73.0.0/24",
        "dataDir": str(folder / "leases"),
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {"type": "bridge", "bridge": "cni7", "isGateway": True, "ipMasq": True, "ipam": addresses}


@needs_plugins
def test_a_cni_list(
    host: Host, bundle: MakeBundle, cni: Callable[..., None], tmp_path: Path, listener: Callable[[], str]
) -> None:
    cni(bridge_plugin(tmp_path), {"type": "tuning", "mac": "52:54:00:01:02:04"})
    name = host.id()
    script = SHOW + f"ping -c1 -W2 10.73.0.1; echo x | nc -w 3 {BEYOND} 8000; sleep 100"
    host("run", "-d", "-b", str(bundle("sh", "-c", script, change=with_raw)), "--network", "cni,name=shop", name)
    assert host.state(name)["annotations"]["io.joey.link.eth0"] == "10.73.0.2/24, cni shop"
    assert listener() == "192.0.2.1"
    assert "52:54:00:01:02:04" in host("exec", name, "ip", "link").stdout
    (lease,) = (tmp_path / "leases" / "shop").glob("10.*")
    assert lease.read_text().startswith(name)
    host("delete", "--force", name)
    assert not list((tmp_path / "leases" / "shop").glob("10.*")), "DEL gave the address back"
    assert "10.73.0.2" not in host.call("iptables", "-t", "nat", "-S")
    host.call("ip", "link", "del", "cni7")


@needs_plugins
def test_a_cni_plugin_that_fails(host: Host, bundle: MakeBundle, cni: Callable[..., None], tmp_path: Path) -> None:
    cni(bridge_plugin(tmp_path), {"type": "tuning", "mac": "no mac"})
    done = host("run", "-b", str(bundle("true")), "--network", "cni,name=shop", host.id(), check=False)
    assert done.returncode == 1
    assert "CNI plugin tuning ADD:" in done.stderr
    assert not list((tmp_path / "leases" / "shop").glob("10.*")), "the first one's ADD is undone"
    host.call("ip", "link", "del", "cni7")


@needs_plugins
def test_what_plugins_gave_is_given_back_after_a_crash(
    host: Host, bundle: MakeBundle, cni: Callable[..., None], tmp_path: Path
) -> None:
    cni(bridge_plugin(tmp_path))
    first, second = host.id(), host.id()
    host("run", "-d", "-b", str(bundle("sleep", "100")), "--network", "cni,name=shop", first)
    host("kill", first, "KILL")
    shutil.rmtree(Path(host.root, first))  # as a host that starts anew has it: no state, and the plugins' leases
    host("run", "-d", "-b", str(bundle("sleep", "100")), "--network", "cni,name=shop", second)
    (lease,) = (tmp_path / "leases" / "shop").glob("10.*")
    assert lease.read_text().startswith(second)
    records = host.call("ls", attachments.FOLDER)
    assert second in records
    assert first not in records
    assert first not in host.call("ls", "/run/netns")
    host("delete", "--force", second)
    assert second not in host.call("ls", attachments.FOLDER)
    host.call("ip", "link", "del", "cni7")


CHECK = """import sys
from joey.runtime import network, state
print(network.check(state.load(*sys.argv[1:])))
"""


@needs_plugins
def test_cni_check_tells_what_is_not_as_it_was_made(
    host: Host, bundle: MakeBundle, cni: Callable[..., None], tmp_path: Path
) -> None:
    cni(bridge_plugin(tmp_path))
    name = host.id()
    folder = bundle("sleep", "100", change=with_raw)
    host("run", "-d", "-b", str(folder), "--network", "cni,name=shop", name)
    assert host.call(sys.executable, "-c", CHECK, str(host.root), name) == "[]\n"
    host("exec", name, "ip", "address", "flush", "dev", "eth0")
    assert "shop: CNI plugin bridge CHECK" in host.call(sys.executable, "-c", CHECK, str(host.root), name)
    host("delete", "--force", name)
    host.call("ip", "link", "del", "cni7")


@needs_plugins
def test_a_namespace_that_can_not_be_kept(
    host: Host, bundle: MakeBundle, cni: Callable[..., None], tmp_path: Path
) -> None:
    """The host's own /run/netns, a mount by iproute2, stays as it is."""
    cni(bridge_plugin(tmp_path))
    host.call("mkdir", "-p", "/run/netns")
    host.call("mount", "-t", "tmpfs", "-o", "nr_inodes=1", "netns", "/run/netns")
    done = host("run", "-b", str(bundle("true")), "--network", "cni,name=shop", host.id(), check=False)
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "netns /run/netns" in host.call("cat", "/proc/mounts")
    host.call("umount", "/run/netns")


@needs_plugins
def test_cni_needs_its_plugins_and_setns(host: Host, bundle: MakeBundle, cni: Callable[..., None]) -> None:
    cni({"type": "bridge"}, {"type": "no-such-plugin"})
    words = ("plan", "-b", str(bundle("true")), "--network", "cni,name=shop")
    done = host(*words, check=False)
    assert done.returncode == 1
    assert "not installed: no-such-plugin" in done.stdout
    cni({"type": "bridge"})
    assert host(*words).returncode == 0
    host.before = WITHOUT_SETNS
    done = host(*words, "--policy", "permissive", check=False)
    assert done.returncode == 1
    assert re.search(r"network.cni +refused .*setns", done.stdout)


@needs_plugins
@pytest.mark.parametrize("text", ["{", "[]", '{"name": "shop"}', '{"name": "shop", "plugins": [{"type": "../sh"}]}'])
def test_a_broken_cni_list(host: Host, bundle: MakeBundle, cni: Callable[..., None], tmp_path: Path, text: str) -> None:
    (tmp_path / "net.d" / "1.conflist").write_text(text)
    done = host("run", "-b", str(bundle("true")), "--network", "cni,name=shop", host.id(), check=False)
    assert done.returncode == 2
    assert "net.d/1.conflist" in done.stderr
