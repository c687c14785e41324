"""`joey fleet`: real sshd hosts of several kinds, looked at from a desk."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from joey.compat.errors import JoeyError
from joey.migrate.fleet import hosts, link, looking
from joey.migrate.fleet.store import Store
from joey.probes.run import probe_machine

from ..conftest import Joey
from ..e2e.conftest import kit
from .fleets import OLD, Desk, debian

__all__ = ["kit"]

pytestmark = pytest.mark.timeout(900)  # the first run makes root file systems

FLEET = """
defaults: {user: root, timeout: 60}
hosts:
  web[08-10].example.com: {port: 2222}
  db1: {address: 10.0.0.7, user: admin, sudo: no}
groups:
  web: {hosts: ["web*"], key: ~/.ssh/web, timeout: 90}
  old: {groups: [web], hosts: [db1]}
"""


def test_a_file_of_hosts() -> None:
    fleet = hosts.parse(FLEET, "fleet.yaml")
    assert list(fleet.hosts) == ["web08.example.com", "web09.example.com", "web10.example.com", "db1"]
    web = fleet.hosts["web09.example.com"]
    assert (web.port, web.user, web.key, web.timeout, web.groups) == (2222, "root", "~/.ssh/web", 90, ("web", "old"))
    assert fleet.hosts["db1"].sudo is False
    for words, count in (
        (["web"], 3),
        (["old", "!web*"], 1),
        ([], 4),
        (["!db1"], 3),
        (["web1*", "db1"], 2),
        (["all"], 4),
    ):
        assert len(fleet.select(words)) == count, words
    (other,) = fleet.select(["ann@10.1.2.3:2200"])
    assert (other.name, other.address, other.user, other.port) == ("10.1.2.3:2200", "10.1.2.3", "ann", 2200)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("hosts: [a, a]", "f:1: a is there twice"),
        ("hosts:\n  a: {prot: 22}", "f:2: host a has no key 'prot'"),
        ("hosts:\n  a: {port: 99999}", "f:2: port is a whole number, 1 to 65535"),
        ("hosts:\n  a: {kit: /opt/$(id)}", "can't be the kit"),
        ("hosts: ['-oProxyCommand=x']", "no host's name"),
        ("hosts: ['../../x']", "no host's name"),
        ("hosts: [a]\ngroups:\n  g: {hosts: [b]}", "f:3: group g: there is no host 'b'"),
        ("hosts: [a]\ngroups:\n  g: {groups: [h]}\n  h: {groups: [g]}", "group g is in itself: g > h > g"),
        ("hosts: [a]\ngroups: {a: [a]}", "a is a host and a group"),
        ("hosts: ['a[1-999999999]']", "not a range"),
        ("hosts: &x [a]\ngroups: {g: *x}", "no aliases"),
        ("defaults: {user: root}", "it has no hosts"),
    ],
)
def test_a_file_that_is_off(text: str, said: str) -> None:
    with pytest.raises(JoeyError) as raised:
        hosts.parse(text, "f")
    assert said in str(raised.value)


@pytest.mark.parametrize("word", ["", "a b", "-x", "x:0", "x:99999", "@x", "a;b", "[::1"])
def test_a_word_that_is_no_host(word: str, joey: Joey) -> None:
    assert joey("fleet", "probe", word, check=False).returncode in (1, 2)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{", '{"findings": []}', '{"findings": {"x": ["works", "", {}]}}',
        '{"findings": {"overlay": ["fine", "", {}]}, "machine": {}, "key": {}}',
        '{"findings": {"overlay": ["works", 7, {}]}, "machine": {}, "key": {}}', "[" * 100_000,
    ],
)  # fmt: skip
def test_what_a_host_answers_is_not_trusted(text: str) -> None:
    with pytest.raises(JoeyError):
        looking.collected(text.encode())


# what depends on the root file system, on programs there, or on what joey was started by
NOT_OF_THE_KERNEL = (
    "kernel.",
    "fuse.",
    "lxcfs",
    "criu",
    "newuidmap",
    "mount.idmapped",
    "interpreter.copy",
    "userns.many-ids",
)
FILES = "find / -xdev -path /run -prune -o -newer /etc/ssh/host -print | sort"


@pytest.fixture(scope="module")
def roots() -> dict[str, Path]:
    ssh = ("openssh-server", "sudo")
    return {
        "memory": debian("bookworm", *ssh, "python3"),
        "collector": debian("bullseye", *ssh, "python2"),
        "sh": debian("bookworm", *ssh),
    }


@pytest.mark.root
@pytest.mark.slow
def test_each_way_finds_what_joey_finds(desk: Desk, roots: dict[str, Path]) -> None:
    addresses = {name: desk.add(name, root) for name, root in roots.items()}
    desk.wait()
    before = {name: desk.inside(name, FILES) for name in roots}
    told = desk.json("probe", *addresses.values())
    assert {name: desk.inside(name, FILES) for name in roots} == before
    here = probe_machine().findings
    for (name, address), row in zip(addresses.items(), told["hosts"], strict=True):
        assert row["by"].startswith(name), row
        assert row["uid"] == "0"
        report = json.loads((desk.folder / "store/reports" / f"{address}.json").read_text())
        differ = {
            feature: (finding["state"], here[feature].state)
            for feature, finding in report["findings"].items()
            if finding["state"] != here[feature].state and not feature.startswith(NOT_OF_THE_KERNEL)
        }  # fmt: skip
        assert not differ, (name, differ)
        assert report["machine"]["host"] == name
        assert row["mechanisms"]["userns"] == ("native" if name != "sh" else row["mechanisms"]["userns"])
    assert [row["untried"] for row in told["hosts"]] == sorted(row["untried"] for row in told["hosts"])
    assert told["hosts"][1]["untried"] < 100


@pytest.mark.root
@pytest.mark.slow
def test_hosts_that_are_off_stop_nobody(desk: Desk, roots: dict[str, Path]) -> None:
    good = desk.add("good", roots["sh"])
    old = desk.add("old", roots["sh"], *OLD)
    cut = desk.add("cut", roots["sh"])
    slow = desk.add("slow", roots["sh"], setup="echo 'sleep 100' >/usr/bin/id; chmod 755 /usr/bin/id")
    stranger = desk.add("stranger", roots["sh"], known=False)
    locked = desk.add("locked", roots["sh"], setup="rm /root/.ssh/authorized_keys")
    desk.wait()
    other = (desk.folder / "key.pub").read_text().split()
    changed = desk.add("changed", roots["sh"], known=False)
    desk.known.write_text(desk.known.read_text() + f"{changed} {other[0]} {other[1]}\n")
    desk.wait()
    desk.cut("cut")
    begun = time.monotonic()
    words = (good, old, cut, slow, stranger, locked, changed, "10.99.0.254:9")
    done = desk.fleet("probe", *words, "--connect-timeout", "4", "--timeout", "8", "--json", status=1)
    assert time.monotonic() - begun < 30
    rows = {row["host"]: row for row in json.loads(done.stdout)["hosts"]}
    assert list(rows) == [
        good,
        old,
        cut,
        slow,
        stranger,
        locked,
        changed,
        "10.99.0.254:9",
    ]
    assert rows[good]["error"] == rows[old]["error"] == ""
    assert f"{old}: its SSH server takes only SHA-1 signatures" in done.stderr
    for host, said in (
        (cut, "No route to host"),
        (slow, "not done within 8 s"),
        (stranger, "its host key is not known"),
        (locked, "it does not let us in"),
        (changed, "its host key is not the one that is known"),
        ("10.99.0.254:9", "refused"),
    ):
        assert said in rows[host]["error"], (host, rows[host]["error"])
    assert "6 of 8 hosts could not be probed" in done.stderr
    assert len(desk.json("show")["hosts"]) == 2


@pytest.mark.root
@pytest.mark.slow
def test_root_by_sudo(desk: Desk, roots: dict[str, Path]) -> None:
    """Without a password; with CentOS 6's requiretty; and where there is none, as the user."""
    line = "echo 'ann ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ann"
    plain = desk.add("plain", roots["collector"], setup=line)
    tty = desk.add("tty", roots["collector"], setup=f"{line}; echo 'Defaults requiretty' >/etc/sudoers.d/tty")
    none = desk.add("none", roots["collector"])
    desk.wait()
    told = desk.json("probe", *(f"ann@{address}" for address in (plain, tty, none)))
    assert [row["uid"] for row in told["hosts"]] == ["0", "0", "1000"]
    assert {row["by"].partition(",")[0] for row in told["hosts"]} == {"collector"}


@pytest.mark.root
@pytest.mark.slow
def test_an_image_is_judged_for_every_host(desk: Desk, roots: dict[str, Path], tmp_path: Path) -> None:
    address = desk.add("one", roots["collector"])
    desk.wait()
    desk.fleet("probe", address)
    for name in ("centos6-2.6.32", "vanilla-2.6.32"):
        report = Path(__file__).parent.parent / "data/reports" / f"{name}.json"
        (desk.folder / "store/reports" / f"{name}.json").write_text(report.read_text())
    told = desk.json("check", str(roots["sh"]), status=None)
    verdicts = {row["name"]: row for row in told["hosts"]}
    assert verdicts[address]["verdict"].startswith("runs")
    assert verdicts["centos6-2.6.32"]["mechanisms"]["glibc"] in ("rewritten-libc", "tracer")
    target = tmp_path / "fleet.html"
    desk.fleet("show", "--html", str(target))
    text = target.read_text()
    assert "2.6.32-642.el6" in text
    assert "3 hosts, 3 kernels" in text
    assert "default-src 'none'" in text
    table = desk.fleet("show").stdout
    assert "centos6-2.6.32" in table


def make_kit(folder: Path, version: str, runs: bool = True, size: int = 1000) -> Path:
    """A kit whose joey is a script: what a deployment does with a kit is the same for any."""
    tree = folder / f"kit-{version}"
    (tree / "bin").mkdir(parents=True)
    (tree / "lib").mkdir()
    (tree / "bin/joey").write_text(f"#!/bin/sh\necho joey {version}; exit {0 if runs else 1}\n")
    (tree / "bin/joey").chmod(0o755)
    (tree / "lib/same").write_text("the same in each\n" * size)
    (tree / f"lib/only-{version}").write_text(version)
    (tree / "lib/other").write_bytes(os.urandom(size * 100))
    sums = subprocess.run("find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum", shell=True, cwd=tree, capture_output=True, text=True, check=True)  # fmt: skip
    (tree / "SHA256SUMS").write_text(sums.stdout)
    return tree


def has(desk: Desk, name: str) -> str:
    return desk.inside(name, "/opt/joey/bin/joey version; cd /opt/joey && sha256sum --quiet -c SHA256SUMS")


def left(desk: Desk, name: str) -> list[str]:
    return desk.inside(name, "ls -A /opt/joey.kits | grep -v '^before$' || :").split()


@pytest.mark.root
@pytest.mark.slow
def test_a_kit_is_deployed_and_rolled_back(desk: Desk, roots: dict[str, Path], tmp_path: Path) -> None:
    one = desk.add("one", roots["sh"])
    two = desk.add("two", roots["collector"], setup="echo 'ann ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/ann")
    desk.wait()
    hosts_ = (one, f"ann@{two}")
    old, new = make_kit(tmp_path, "1"), make_kit(tmp_path, "2")
    (old / "lib/__pycache__").mkdir()
    (old / "lib/__pycache__/run.start").write_text("made by a joey that was run there")
    first = desk.json("deploy", "--kit", str(old), *hosts_)
    assert [row["before"] for row in first] == ["", ""]
    assert "__pycache__" not in desk.inside("one", "ls /opt/joey/lib")
    (old / "lib/stray").write_text("")
    assert "lib/stray is not what" in desk.fleet("deploy", "--kit", str(old), *hosts_, status=1).stderr
    (old / "lib/stray").unlink()
    assert has(desk, "one") == has(desk, "two") == "joey 1\n"
    assert [row["files"] for row in desk.json("deploy", "--kit", str(old), *hosts_)] == [0, 0], "nothing is done twice"
    assert desk.json("deploy", "--kit", str(new), "--dry-run", *hosts_)[0]["after"] != first[0]["after"]
    assert has(desk, "one") == "joey 1\n"
    second = desk.json("deploy", "--kit", str(new), *hosts_)
    assert [row["files"] for row in second] == [4, 4], "what is the same is not sent"
    assert has(desk, "one") == has(desk, "two") == "joey 2\n"
    assert "only-1" not in desk.inside("one", "ls /opt/joey/lib")
    kits = left(desk, "one")
    assert sorted(kits) == sorted([first[0]["after"], second[0]["after"]])
    desk.inside("one", f"cd /opt/joey.kits/{first[0]['after']} && sha256sum --quiet -c SHA256SUMS")
    desk.fleet("deploy", "--rollback", *hosts_)
    assert has(desk, "one") == has(desk, "two") == "joey 1\n"
    told = [json.loads(line) for line in (desk.folder / "store/journal").read_text().splitlines()]
    assert [(row["host"], row["what"]) for row in told if row["host"] == one] == [
        (one, f"kit: {what}{word}") for what in ("deploy", "deploy", "rollback") for word in (" begun", "")
    ]
    again = desk.fleet("deploy", "--rollback", *hosts_)
    assert again.stderr.count("has gone back to the kit before already") == 2
    assert has(desk, "one") == "joey 1\n", "a second rollback does not go forward"
    desk.inside("one", "echo damaged >/opt/joey/lib/same")
    mended = desk.json("deploy", "--kit", str(old), one)
    assert mended[0]["files"] >= 2
    desk.inside("one", "cd /opt/joey && sha256sum --quiet -c SHA256SUMS")
    desk.json("deploy", "--kit", str(new), one)
    assert has(desk, "one") == "joey 2\n"
    done = desk.fleet("exec", "joey version; hostname; id -u", *hosts_)
    assert sorted(done.stdout.splitlines()) == sorted(
        f"{host}: {word}"
        for host, name, version in ((one, "one", 2), (two, "two", 1))
        for word in (f"joey {version}", name, "0")
    )
    assert desk.fleet("exec", "test $(hostname) = one", *hosts_, status=1).stderr.count("status 1") == 1


@pytest.mark.root
@pytest.mark.slow
def test_a_deployment_that_fails_leaves_what_there_was(desk: Desk, roots: dict[str, Path], tmp_path: Path) -> None:
    """A kit that does not run there, no room, a connection that goes, a kit that was changed on its way."""
    small = desk.add("small", roots["sh"], setup="mount -t tmpfs -o size=4m t /opt")
    gone = desk.add("gone", roots["sh"])
    plain = desk.add("plain", roots["sh"])
    desk.wait()
    old, new, big = make_kit(tmp_path, "1"), make_kit(tmp_path, "2"), make_kit(tmp_path, "3", size=400_000)
    broken = make_kit(tmp_path, "4", runs=False)
    desk.fleet("deploy", "--kit", str(old), small, gone, plain)
    before = left(desk, "plain")
    assert "the kit does not run there" in desk.fleet("deploy", "--kit", str(broken), plain, status=1).stderr
    assert has(desk, "plain") == "joey 1\n"
    assert "no room" in desk.fleet("deploy", "--kit", str(big), small, status=1).stderr
    assert has(desk, "small") == "joey 1\n"
    command = ["nsenter", "-t", str(desk.holder.pid), "-n", desk.joey.program, "fleet", "deploy", "--ssh-config", str(desk.config), "--kit", str(big), gone]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        while "busy" not in left(desk, "gone"):
            time.sleep(0.01)
            assert running.poll() is None
        desk.inside("gone", "kill -9 $(cut -d ' ' -f 2 /opt/joey.kits/busy/owner)")
        assert running.wait(60) == 1
    assert has(desk, "gone") == "joey 1\n"
    for name in ("plain", "small"):
        assert left(desk, name) == before, "nothing half-made stays"
    desk.fleet("deploy", "--kit", str(new), small, gone, plain)
    for name in ("small", "gone", "plain"):
        assert has(desk, name) == "joey 2\n"
        assert not [each for each in left(desk, name) if each == "busy" or each.endswith(".part")]
    (new / "lib/same").write_text("not what its sums say")
    assert "lib/same is not what its SHA256SUMS says" in desk.fleet("deploy", "--kit", str(new), plain, status=1).stderr
    desk.inside("plain", "echo broken >/opt/joey/bin/joey")
    desk.fleet("deploy", "--kit", str(make_kit(tmp_path / "again", "2")), plain)
    assert has(desk, "plain") == "joey 2\n"


@pytest.mark.root
@pytest.mark.slow
def test_what_is_no_kit_is_not_moved_away(desk: Desk, roots: dict[str, Path], tmp_path: Path) -> None:
    """A folder of somebody's at the place of the kit; one that was unpacked by hand; a lock of before a reboot."""
    one = desk.add("one", roots["sh"], setup="mkdir -p /opt/joey/precious; echo 1 >/opt/joey/precious/file")
    two = desk.add(
        "two", roots["sh"], setup="mkdir -p /opt/joey.kits/busy; echo a-boot-before 1 100 >/opt/joey.kits/busy/owner"
    )
    three = desk.add("three", roots["sh"])
    desk.wait()
    old, new = make_kit(tmp_path, "1"), make_kit(tmp_path, "2")
    done = desk.fleet("deploy", "--kit", str(old), one, two, status=1)
    assert "/opt/joey is there, and no kit" in done.stderr
    assert desk.inside("one", "cat /opt/joey/precious/file") == "1\n"
    assert has(desk, "two") == "joey 1\n"
    archive = subprocess.run(["tar", "-c", "-C", str(old), "."], capture_output=True, check=True).stdout
    pid = str(desk.hosts["three"].pid)
    script = "mkdir -p /opt/joey && tar -x -C /opt/joey"
    subprocess.run(["nsenter", "-t", pid, "-n", "-m", "-u", "sh", "-c", script], input=archive, check=True)
    desk.fleet("deploy", "--kit", str(new), three)
    desk.fleet("deploy", "--rollback", three)
    assert has(desk, "three") == "joey 1\n", "what was unpacked by hand is what one goes back to"


@pytest.mark.root
@pytest.mark.slow
def test_lines_of_known_hosts_that_are_not_keys(desk: Desk, roots: dict[str, Path]) -> None:
    """A certificate's authority and a damaged line are passed over; a key that is revoked is not taken."""
    one, two = desk.add("one", roots["sh"]), desk.add("two", roots["sh"], "HostKey=/tmp/other", known=False,
                                                      setup="ssh-keygen -q -t ed25519 -N '' -f /tmp/other")  # fmt: skip
    desk.wait()
    key = (desk.folder / "host.pub").read_text().split()[1]
    desk.known.write_text(f"@cert-authority * ssh-rsa {key}\n{one} ssh-rsa AAAAnothing!\n" + desk.known.read_text())
    assert desk.fleet("exec", "echo well", one).stdout == f"{one}: well\n"
    other = desk.inside("two", "cat /tmp/other.pub").split()[1]
    desk.known.write_text(f"@revoked * ssh-ed25519 {other}\n{two} ssh-ed25519 {other}\n")
    assert "its host key is not known" in desk.fleet("exec", "echo well", two, status=1).stderr


@pytest.mark.root
@pytest.mark.slow
def test_hosts_behind_another(desk: Desk, roots: dict[str, Path]) -> None:
    """By ProxyJump; one that is silent there, and a way that is dead, keep nobody longer than they may."""
    way, behind = desk.add("way", roots["sh"]), desk.add("behind", roots["sh"])
    desk.wait()
    desk.config.write_text(desk.config.read_text() + f"Host {behind}\n  ProxyJump {way}\n")
    assert desk.fleet("exec", "hostname", behind).stdout == f"{behind}: behind\n"
    # one after the other, by other names of that host: what is done with is closed
    names = [f"b{number}" for number in range(8)]
    aliases = f"Host {' '.join(names)}\n  HostName {behind}\n  ProxyJump {way}\n"
    desk.config.write_text(desk.config.read_text() + aliases)
    look = ["nsenter", "-t", str(desk.hosts["way"].pid), "-n", "ss", "-Htn", "state", "established", "( sport = :22 )"]
    most = 0
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(desk.fleet, "exec", "sleep 0.3", *names, "--parallel", "1")
        while not running.done():
            found = subprocess.run(look, capture_output=True, text=True, check=True).stdout.splitlines()
            most = max(most, len(found))
            time.sleep(0.05)
        running.result()
    assert 1 <= most <= 3
    for name in ("behind", "way"):
        desk.cut(name)
        before = time.monotonic()
        done = desk.fleet("exec", "hostname", behind, "--timeout", "5", "--connect-timeout", "3", status=1)
        assert time.monotonic() - before < 15, done.stderr


@pytest.mark.root
@pytest.mark.slow
def test_hosts_that_say_what_they_like(desk: Desk, roots: dict[str, Path], tmp_path: Path) -> None:
    """One such host stops nobody, whatever it answers, and what is kept of it can be read again."""
    answers = {
        "infinite": '{"seconds": 1e999}', "typed": '{"machine": {"release": 7}}', "list": '{"key": {"uid": ["x"]}}',
        "long": '{"machine": {"release": "%s"}}' % ("x" * 100_000),
    }  # fmt: skip
    base = json.loads(subprocess.run([desk.joey.program, "probe", "--json"], capture_output=True, check=True).stdout)
    addresses = []
    for name, more in answers.items():
        answer = dict(base)
        for key, value in json.loads(more).items():
            answer[key] = {**base[key], **value} if isinstance(value, dict) else value
        text = json.dumps(answer).replace("Infinity", "1e999")
        (tmp_path / name).write_text(text)
        setup = "mkdir -p /opt/joey/bin; printf '#!/bin/sh\\ncat /opt/joey/answer\\n' >/opt/joey/bin/joey; chmod 755 /opt/joey/bin/joey"
        addresses.append(desk.add(name, roots["sh"], setup=setup))
    good = desk.add("good", roots["sh"])
    desk.wait()
    for name in answers:
        enter = ["nsenter", "-t", str(desk.hosts[name].pid), "-n", "-m", "-u", "sh", "-c", "cat >/opt/joey/answer"]
        subprocess.run(enter, input=(tmp_path / name).read_bytes(), check=True)
    done = desk.fleet("probe", "--parallel", "1", *addresses, good, status=None)
    assert "Traceback" not in done.stderr
    rows = {row["host"]: row for row in json.loads(desk.fleet("show", "--json").stdout)["hosts"]}
    assert rows[good]["by"] == "sh"
    assert all(len(row["machine"]["release"]) <= 4096 for row in rows.values())
    desk.fleet("show", "--html", str(tmp_path / "page.html"))
    done = desk.fleet("exec", "head -c 3000000 /dev/zero", good)
    assert len(done.stdout) > 3000000


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["web", "!web2"], ["web1", "web3"]),
        (["!web2", "web"], ["web1", "web3"]),
        (["web[1-2]"], ["web1", "web2"]),
        (["web", "!web[1-2]"], ["web3"]),
        (["web", "10.0.0.1:22", "!10.0.0.1:22"], ["web1", "web2", "web3"]),
    ],
)
def test_hosts_are_selected(words: list[str], names: list[str]) -> None:
    fleet = hosts.parse("hosts: [web1, web2, web3, db1]\ngroups: {web: [web*]}\n", "f")
    assert [host.name for host in fleet.select(words)] == names


@pytest.mark.parametrize("words", [["web", "!wbe1"], ["web", "!wbe*"], ["web[1-99999][1-99999]"], ["web[9-1]"]])
def test_hosts_that_are_not_there(words: list[str]) -> None:
    fleet = hosts.parse("hosts: [web1, web2]\ngroups: {web: [web*]}\n", "f")
    with pytest.raises(JoeyError):
        fleet.select(words)


class Recorder:
    """A mock of an SSH channel: what is sent is to be seen byte by byte."""

    def __init__(self) -> None:
        self.sent = b""
        self.ended = False

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def shutdown_write(self) -> None:
        self.ended = True


@pytest.mark.parametrize(("parts", "ends"), [([b"one", b"", b"two"], True), ([b"one", OSError("gone")], False)])
def test_a_stream_is_sent_to_its_end(parts: list[bytes | OSError], ends: bool) -> None:
    """A blob whose size is a multiple of a tar's block has no padding: nothing, which is not the end."""

    def chunks() -> Iterator[bytes]:
        for part in parts:
            if isinstance(part, OSError):
                raise part
            yield part

    channel = Recorder()
    feeder = link._Feeder(channel, link.Stream(6, chunks), True)
    feeder.run()
    assert channel.sent == b"".join(part for part in parts if isinstance(part, bytes))
    assert channel.ended is ends, "what can't be read must not look like the end of all"
    assert bool(feeder.problem) is not ends


def test_a_torn_line_of_the_journal_costs_no_other(tmp_path: Path) -> None:
    place = Store(str(tmp_path))
    place.note("one", "kit: deploy", "", "a")
    (tmp_path / "journal").write_text((tmp_path / "journal").read_text() + '{"host": "tw')
    place.note("three", "kit: deploy", "", "b")
    assert [row["host"] for row in place.journal()] == ["one", "three"]


@pytest.mark.root
@pytest.mark.slow
def test_waves_over_twenty_hosts(desk: Desk, roots: dict[str, Path], tmp_path: Path) -> None:
    """With one that is down: the roll-out stops at its wave, and goes on when it is run again."""
    addresses = [desk.add(f"h{number}", roots["sh"]) for number in range(20)]
    desk.wait()
    names = tmp_path / "fleet.yaml"
    names.write_text("hosts: [" + ", ".join(addresses) + "]\n")
    kit = make_kit(tmp_path, "1")
    desk.cut("h2")
    words = ("deploy", "--kit", str(kit), "--hosts", str(names), "--wave", "1,10%,rest", "--connect-timeout", "3")
    done = desk.fleet(*words, status=1)
    assert "1 of 2 hosts of wave 2 failed; the 17 that are left were not touched" in done.stderr
    assert [desk.inside(f"h{number}", "ls /opt") for number in (0, 1, 2, 3, 19)] == ["joey\njoey.kits\n"] * 2 + [""] * 3
    desk.ip("link", "set", "v3", "up")
    desk.fleet(*words)
    assert {has(desk, f"h{number}") for number in range(20)} == {"joey 1\n"}
    told = [json.loads(line) for line in (desk.folder / "store/journal").read_text().splitlines()]
    assert sorted(row["host"] for row in told if row["what"] == "kit: deploy") == sorted(addresses), "each once"
    assert [row["host"] for row in told if "failed" in row["what"]] == [addresses[2]]
    assert len(desk.json("probe", "--hosts", str(names))["hosts"]) == 20


@pytest.mark.root
@pytest.mark.slow
def test_an_image_is_rolled_out(
    desk: Desk, roots: dict[str, Path], kit: Path, machine: Callable[..., Path], tmp_path: Path
) -> None:
    """From bare hosts to a container on each, another image of it, and back where that is not well."""
    names = ("h1", "h2", "h3")
    addresses = [
        desk.add(name, roots["sh"], f"SetEnv=JOEY_RICH=/var/lib/joey/rolled-{name}", setup="mkdir -p /var/lib/joey; mount -t tmpfs t /var/lib/joey")
        for name in names
    ]  # fmt: skip
    desk.wait()
    desk.fleet("deploy", "--kit", str(kit), *addresses)
    assert {row["by"] for row in desk.json("probe", *addresses)["hosts"]} == {"kit"}
    root = machine(up="echo this is $(cat /etc/version)")
    for number in ("1", "2"):
        (root / "etc/version").write_text(number)
        desk.joey("migrate", str(root), "--to", f"oci:{tmp_path}/images:{number}")
    image = f"oci:{tmp_path}/images"
    gate = 'test "$(joey rich exec shop cat /etc/version)" = {}'
    options = ("--with", "--network none --memory 64M --hostname shop")
    words = ("shop", *addresses)
    try:
        dry = desk.json("run", "--dry-run", *options, "--gate", "false", f"{image}:1", *words)
        assert not [item for row in desk.json("ps", *addresses) for item in row["containers"]]
        first = desk.json("run", *options, "--gate", gate.format(1), f"{image}:1", *words)
        assert all(row["before"] == "" and row["size"] > 100_000 for row in first)
        told = [[(row["before"], row["after"], row["size"]) for row in rows] for rows in (dry, first)]
        assert told[0] == told[1], "what was said is what was done"
        assert [row["size"] for row in desk.json("run", *options, f"{image}:1", *words)] == [0, 0, 0], "done already"
        assert "with another image" in desk.fleet("run", f"{image}:2", *words, status=1).stderr
        assert "with another image" in desk.fleet("run", "--dry-run", f"{image}:2", *words, status=1).stderr
        dry = desk.json("upgrade", "--dry-run", "--gate", "false", f"{image}:2", *words)
        second = desk.json("upgrade", "--gate", gate.format(2), "--wave", "1,rest", f"{image}:2", *words)
        assert all(0 < row["size"] < 40_000 for row in second), "what is the same is not sent"
        assert [(row["before"], row["after"], row["size"]) for row in dry] == [
            (row["before"], row["after"], row["size"]) for row in second
        ]
        assert "not confirmed" in desk.fleet("upgrade", "--dry-run", f"{image}:1", *words, status=1).stderr
        rows = desk.json("ps", *addresses)
        assert [(item["name"], item["status"]) for row in rows for item in row["containers"]] == [
            ("shop", "running")
        ] * 3
        assert "the one before" in desk.fleet("rollback", "--dry-run", *words).stdout
        back = desk.json("rollback", "--wave", "1,rest", "shop", *addresses)
        assert [row["after"] for row in back] == [row["before"] for row in second]
        assert desk.fleet("rollback", "shop", *addresses).stderr.count("no upgrade to go back from") == 3
        desk.json("upgrade", f"{image}:2", *words)
        desk.fleet("confirm", "shop", *addresses)
        assert desk.fleet("rollback", "shop", *addresses).stderr.count("no upgrade to go back from") == 3
        # the gate fails on the second host: it is put back, and the third is not touched
        bad = 'test "$(hostname)" != h2'
        done = desk.fleet("upgrade", "--gate", bad, "--wave", "1,1,rest", f"{image}:1", *words, status=1)
        assert "the gate failed" in done.stderr
        assert "it was rolled back" in done.stderr
        assert "the 1 that are left were not touched" in done.stderr
        versions = desk.json("exec", "joey rich exec shop cat /etc/version", *addresses)
        assert [row["output"] for row in versions] == ["1", "2", "2"]
        # a gate that takes longer than the host may: it is put back all the same
        slow = desk.fleet(
            "upgrade", "--gate", "sleep 100", "--timeout", "25", f"{image}:1", "shop", addresses[2], status=1
        )
        assert "it was rolled back" in slow.stderr
        assert desk.json("exec", "joey rich exec shop cat /etc/version", addresses[2])[0]["output"] == "2"
        # another one of that name is nobody's to remove
        both = desk.fleet("run", "--gate", "false", f"{image}:2", "shop", addresses[2], status=1)
        assert "removed" not in both.stderr
        assert desk.json("ps", addresses[2])[0]["containers"][0]["status"] == "running"
        # the same image under a second name
        desk.fleet("run", *options, f"{image}:1", "shop2", addresses[0])
        desk.fleet("exec", "joey rich rm --force shop2; joey rich rm --force shop", addresses[0])
        desk.fleet("run", *options, f"{image}:1", *words[:2])
        modes = desk.inside("h1", "cd /var/lib/joey/images; stat -c %a . .pool; find .pool -type f -perm /077 | wc -l")
        assert modes.split() == ["700", "700", "0"], "a machine's files are in them"
        assert "this is" in desk.fleet("logs", "shop", addresses[0]).stdout
        assert "shop would be stopped on 3 of 3 hosts" in desk.fleet("stop", "--dry-run", *words).stdout
        assert "shop is stopped on 3 of 3 hosts" in desk.fleet("stop", *words).stdout
        done_ = [(row["host"], row["what"]) for row in desk.json("journal")]
        assert done_.count((addresses[1], "shop: upgrade")) == 2
        assert any(host == addresses[1] and "upgrade failed: the gate failed" in what for host, what in done_)
        assert desk.inside("h1", "find /var/lib/joey/images/.pool -type f -links 1") == "", "blobs of nobody go"
        assert desk.inside("h1", "ls /var/lib/joey/images/.layouts | wc -l") == "2\n"
        bare = desk.add("h4", roots["sh"])
        desk.wait()
        assert "there is no joey there (joey fleet deploy" in desk.fleet("ps", bare, status=1).stderr
    finally:
        desk.fleet("exec", "joey rich rm --force shop", *addresses, status=None)
