"""Fixtures of all tests: the real `joey` command, a small real root file system, bundles, and a watch for leftovers."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import joey as package
from joey.runtime.commands.spec import template

APPLETS = ("sh cat chmod chown date dd echo env false find grep head hostname id ip kill ln ls mkdir mknod mount nc "
           "nproc ps pwd readlink rm sed sleep stat stty tail tee test touch true tty umount uname wc yes").split()  # fmt: skip
TESTS = Path(__file__).parent
TOP = TESTS.parent
# "2.6.32 --keep getrandom": every joey of these tests runs by tools/asif with these words
AS_IF = (
    [sys.executable, str(TOP / "tools" / "asif"), *words, "--"]
    if (words := os.environ.get("JOEY_TEST_AS_IF", "").split())
    else []
)
REPORTS = TESTS / "data" / "reports"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    kernel = os.environ.get("JOEY_TEST_AS_IF", "")
    known = json.loads((TESTS / "data" / "as_if.json").read_text()) if kernel else {"fail": {}, "skip": {}}
    refused = known["fail"].get(kernel, {})
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(needs_root)
        name = item.nodeid.rpartition("/")[2]
        if reason := known["skip"].get(name.partition("[")[0]):
            item.add_marker(pytest.mark.skip(reason=reason))
        elif reason := refused.get(name):
            # strict: a test that passes there, though it is said to need what that kernel lacks, is an error
            item.add_marker(pytest.mark.xfail(strict=True, reason=reason))


class Joey:
    """Calls the installed `joey` with a --root of its own, and cleans up after each test."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "containers"
        self.program = str(Path(sys.executable).parent / "joey")
        assert Path(self.program).exists(), "install joey first: pip install -e '.[test]' (tools/test does)"
        self.ids: list[str] = []

    def id(self) -> str:
        """A container id nobody else uses; the container is removed at the end of the test."""
        name = f"t{uuid.uuid4().hex[:12]}"
        self.ids.append(name)
        return name

    def command(self, *words: str) -> list[str]:
        return [*AS_IF, self.program, "--root", str(self.root), *words]

    def __call__(
        self, *words: str, check: bool = True, timeout: float = 60, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; a failure shows what joey said."""
        options.setdefault("stdin", subprocess.DEVNULL)
        # to files, not pipes: a detached container keeps its standard streams open
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            command = self.command(*words)
            status = subprocess.run(command, stdout=out, stderr=err, timeout=timeout, check=False, **options).returncode
            for stream in (out, err):
                stream.seek(0)
            done = subprocess.CompletedProcess(command, status, out.read(), err.read())
        assert not check or done.returncode == 0, f"{words}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def state(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self("state", name).stdout)
        return value


@pytest.fixture
def joey(tmp_path: Path) -> Iterator[Joey]:
    caller = Joey(tmp_path)
    yield caller
    for name in caller.ids:
        caller("delete", "--force", name)
    leftovers = leftovers_of(caller, tmp_path)
    assert not leftovers, leftovers


@contextmanager
def hierarchies(change: bool) -> Iterator[None]:
    """Keep the kernel's cgroup hierarchies as they are, or be alone while they change: across the tests' processes.

    A v1 hierarchy mounted anywhere is in everybody's /proc/PID/cgroup, and containerd's metrics fail over it.
    """
    path = Path(tempfile.gettempdir(), f"joey-tests-hierarchies-{os.geteuid()}")
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if change else fcntl.LOCK_SH)
        yield


def cgroups_named(word: str) -> list[Path]:
    """The cgroups with a word in their names. Not by glob: other tests' groups come and go meanwhile."""
    return [Path(place, name) for place, names, _ in os.walk("/sys/fs/cgroup") for name in names if word in name]


def leftovers_of(caller: Joey, folder: Path) -> list[str]:
    """What a test's containers left on the host: state, mounts, cgroups."""
    found = [str(path) for path in caller.root.glob("*")] if caller.root.exists() else []
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    found += [str(group) for name in caller.ids for group in cgroups_named(name)]
    return found


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of static busybox; shared and copied, never changed."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox is not installed (tools/test installs busybox-static)"
    root = tmp_path_factory.mktemp("busybox")
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    shutil.copy(busybox, root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nuser:x:1000:\n")
    root.chmod(0o755)
    return root


def install(folder: Path) -> str:
    """A joey of its own in a folder, run by the system's Python; the program's path.

    Any user can read it: this session's Python may be in root's home.
    """
    site = folder / "lib" / "python" / "site-packages"
    source = Path(package.__file__).parent
    shutil.copytree(source, site / "joey", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "bin").mkdir()
    python = "/usr/bin/python3"
    version = subprocess.run(
        [python, "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (folder / "lib" / "python").rename(folder / "lib" / version)
    (folder / "bin" / "python3").symlink_to(python)
    shutil.copy(source / "runtime" / "bin" / "joey", folder / "bin" / "joey")
    return str(folder / "bin" / "joey")


Change = Callable[[dict[str, Any]], None]
MakeBundle = Callable[..., Path]


@pytest.fixture
def bundle(tmp_path: Path, busybox_root: Path) -> MakeBundle:
    """A function that makes a bundle: bundle("sh", "-c", "id", change=lambda config: ...)."""
    count = iter(range(1000))

    def make(*args: str, change: Change | None = None, rootless: bool = False) -> Path:
        folder = tmp_path / f"bundle{next(count)}"
        folder.mkdir()
        shutil.copytree(busybox_root, folder / "rootfs", symlinks=True)
        config = template(rootless, os.geteuid(), os.getegid())
        config["process"]["terminal"] = False
        config["process"]["args"] = list(args) or ["true"]
        config["root"]["readonly"] = False
        if change:
            change(config)
        (folder / "config.json").write_text(json.dumps(config))
        for path in (tmp_path, *tmp_path.parents):
            if path.stat().st_uid == os.geteuid() and str(path).startswith("/tmp/"):
                path.chmod(0o755)
        return folder

    return make
