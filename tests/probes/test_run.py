"""Probing: every feature gets a finding, nothing is left behind, and no probe can hurt."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from binascii import crc32
from pathlib import Path
from typing import Any

import pytest

from joey.compat.cgroup import layout
from joey.probes import cache, catalog
from joey.probes.catalog import Answered, Probe
from joey.probes.run import run
from joey.probes.trying import scratch_name

from ..conftest import Joey


def traces() -> dict[str, Any]:
    """What a probe could leave besides mounts: cgroups, hierarchies, links, files in /tmp, children."""
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("*/joey-probe-*")]
    return {
        "groups": groups,
        "hierarchies": sorted(line.split(":", 1)[1] for line in Path("/proc/self/cgroup").read_text().splitlines()),
        "links": sorted(os.listdir("/sys/class/net")),
        "files": sorted(name for name in os.listdir("/tmp") if "probe" in name),
    }


def test_a_probe_of_everything_leaves_nothing(joey: Joey, tmp_path: Path) -> None:
    before = traces()
    script = 'cat /proc/self/mountinfo >"$0/before" && "$@" >"$0/report" && cat /proc/self/mountinfo >"$0/after"'
    # a mount namespace of its own, where no other test's mounts come and go
    alone = ["unshare", "--mount"] if os.geteuid() == 0 else []
    subprocess.run([*alone, "sh", "-c", script, str(tmp_path), *joey.command("probe", "--json")], check=True)
    before_it, after_it = ((tmp_path / name).read_text().splitlines() for name in ("before", "after"))
    assert not set(after_it) - set(before_it)
    # what another test unmounts and removes meanwhile goes here too: a removed mount point takes its mounts along
    gone = set(before_it) - set(after_it)
    assert not [line for line in gone if not line.split()[4].startswith(("/tmp/", "/run/joey-public/"))]
    report = json.loads((tmp_path / "report").read_text())
    assert len(report["findings"]) >= 80
    assert not [name for name, finding in report["findings"].items() if finding["state"] == "broken"]
    assert report["findings"]["fs.tmpfs"]["state"] == "works"
    assert all(finding["call"] for finding in report["findings"].values())
    assert traces() == before


def test_features_are_named_once_and_every_absence_has_a_price() -> None:
    probes = [probe for group in catalog.groups() for probe in group.probes]
    assert len({probe.feature for probe in probes}) == len(probes)
    without = [probe.feature for probe in probes if not probe.cost and not probe.feature.startswith("kernel.")]
    assert not without


def fake(name: str, function: Any, alone: bool = True, seconds: float = 0.4) -> Probe:
    return Probe("test", name, "a call", "a cost", function, alone, seconds)


def hang() -> None:
    time.sleep(60)


def crash() -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def test_hanging_and_crashing_probes_are_broken_findings_and_the_rest_goes_on() -> None:
    def absent() -> None:
        raise Answered("absent", "not here")

    def wrong() -> None:
        raise RuntimeError("a bug")

    started = time.monotonic()
    found = run([
        fake("first", lambda: "one", alone=False), fake("hangs", hang, alone=False), fake("second", lambda: 2, alone=False),
        fake("dies", crash, alone=False), fake("third", absent, alone=False), fake("wrong", wrong, alone=False),
        fake("leaves", lambda: os._exit(3)), fake("alone", lambda: None),
    ])  # fmt: skip
    assert time.monotonic() - started < 10
    assert {name: (item.state, item.answer) for name, item in found.items()} == {
        "first": ("works", "one"),
        "hangs": ("broken", "no answer within 3.2 s"),
        "second": ("works", "2"),
        "dies": ("broken", "the probe died of SIGSEGV"),
        "third": ("absent", "not here"),
        "wrong": ("broken", "RuntimeError: a bug"),
        "leaves": ("broken", "the probe ended without an answer (status 3)"),
        "alone": ("works", ""),
    }


def test_a_hanging_probe_takes_its_children_along() -> None:
    marker = f"joey-test-{os.getpid()}"

    def fork_and_hang() -> None:
        if os.fork() == 0:
            os.execvp("sleep", [marker, "61"])
        time.sleep(60)

    assert run([fake("hangs", fork_and_hang)])["hangs"].state == "broken"
    lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert not [line for line in lines if line.startswith(marker)]


@pytest.mark.root
def test_a_killed_probes_cgroup_is_swept() -> None:
    place = layout.hierarchies()[0].mount

    def make_and_hang() -> None:
        os.mkdir(f"{place}/{scratch_name(os.getppid(), os.getpid())}")
        time.sleep(60)

    run([fake("hangs", make_and_hang)])
    assert not list(Path(place).glob("joey-probe-*"))


def test_one_group_one_feature_and_unknown_names(joey: Joey) -> None:
    report = json.loads(joey("probe", "--json", "--only", "setns").stdout)
    assert set(report["findings"]) == {probe.feature for probe in catalog.groups(["setns"])[0].probes}
    assert "clone(CLONE_NEWUSER)" in joey("probe", "--explain", "userns.clone").stdout
    assert json.loads(joey("probe", "--explain", "fs.tmpfs", "--json").stdout)["state"] == "works"
    done = joey("probe", "--only", "nonsense", check=False)
    assert (done.returncode, "namespaces" in done.stderr) == (2, True)
    done = joey("probe", "--explain", "userns", check=False)
    assert (done.returncode, "userns.clone" in done.stderr) == (2, True)


def test_a_pipe_gets_plain_text(joey: Joey) -> None:
    text = joey("probe", "--only", "setns").stdout
    assert "\x1b" not in text
    assert "setns.pid " in text


@pytest.mark.root
def test_a_plain_user_learns_what_a_plain_user_can_do(tmp_path: Path) -> None:
    """As nobody, from a copy that nobody may read: root's powers are blocked, a user namespace gives some back."""
    copy = readable_copy(tmp_path)
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", f"HOME={tmp_path}",
               "/usr/bin/python3", "-P", "-m", "joey", "probe", "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={"PYTHONPATH": str(copy)}, check=True)
    found = json.loads(done.stdout)["findings"]
    assert found["utsns.unshare"]["state"] == "blocked"
    assert found["device.mknod"]["state"] == "blocked"
    assert found["utsns.in-userns"]["state"] in ("works", "blocked")
    assert found["no-new-privs"]["state"] == "works"
    assert not [name for name, finding in found.items() if finding["state"] == "broken"]


def readable_copy(tmp_path: Path) -> Path:
    """joey's source where every user may read it."""
    top = Path(__file__).parent.parent.parent
    target = tmp_path / "readable" / "src"
    target.mkdir(parents=True)
    subprocess.run(["cp", "-rL", str(top / "src" / "joey"), str(target / "joey")], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(tmp_path / "readable")], check=True)
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    return target


def test_the_cache_is_used_until_its_key_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from joey.probes import cache
    from joey.probes.report import KernelReport

    monkeypatch.setattr(cache, "directory", lambda: str(tmp_path / "cache"))
    calls = []

    def probe() -> KernelReport:
        calls.append(1)
        return KernelReport({}, cache.machine_key(), {"release": "x"}, "0", 0.0)

    cache.cached_or_probed(probe)
    cache.cached_or_probed(probe)
    assert len(calls) == 1
    Path(cache.path(cache.machine_key())).write_text("{broken")
    cache.cached_or_probed(probe)
    assert len(calls) == 2
    monkeypatch.setattr(cache, "__version__", "another")
    cache.cached_or_probed(probe)
    assert len(calls) == 3


def test_a_probe_that_was_late_once_is_tried_again(tmp_path: Path) -> None:
    def slow_at_first() -> str:
        if not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            time.sleep(60)
        return "in time"

    found = run([fake("slow", slow_at_first), fake("other", lambda: None)])
    assert (found["slow"].state, found["slow"].answer) == ("works", "in time")


def test_of_many_first_starts_one_probes(tmp_path: Path) -> None:
    """Under the load of a hundred probing joeys, probes time out and their absence would be cached."""
    script = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from joey.probes import cache\nfrom joey.probes.report import KernelReport\n"
        "cache.directory = lambda: sys.argv[2]\n"
        "def probe():\n"
        "    open(sys.argv[2] + '/calls', 'a').write('x'); time.sleep(0.3)\n"
        "    return KernelReport({}, cache.machine_key(), {'release': 'x'}, '0', 0.0)\n"
        "cache.cached_or_probed(probe)\n"
    )
    (tmp_path / "cache").mkdir(mode=0o700)
    src = Path(__file__).parent.parent.parent / "src"
    command = [sys.executable, "-c", script, str(src), str(tmp_path / "cache")]
    started = [subprocess.Popen(command) for _ in range(8)]
    assert [process.wait() for process in started] == [0] * 8
    assert (tmp_path / "cache" / "calls").read_text() == "x"


def test_the_key_follows_the_seccomp_state() -> None:
    """A report made outside a sandbox must not be used inside it."""
    script = (
        "from joey.probes.cache import machine_key; from joey.compat import libc; from joey.compat.seccomp import load\n"
        "before = machine_key(); libc.prctl(38, 1); load.install(bytes([6,0,0,0,0,0,255,127]))\n"
        "print(before['boot'] == machine_key()['boot'], before == machine_key())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_a_cached_report_is_of_these_probes() -> None:
    """A joey of the same version with other probes must not take it: new features would be refused until a reboot."""
    found = f"{crc32(' '.join(sorted(catalog.by_feature())).encode()):08x}"
    assert found == cache.CATALOG, f"probes/cache.py: CATALOG is {found} now"
    assert cache.CATALOG in cache.machine_key()["joey"]
