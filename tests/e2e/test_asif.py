"""Containers from the host kit on this kernel as if it were CentOS 6's or vanilla 2.6.32 (tools/asif): quick to run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .oldkernel import TOP, debian

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

KERNELS = ("2.6.32", "2.6.32-el6")
# Without a cgroup hierarchy in sight nothing is limited, and today's kernel would not let another one be mounted
HIDDEN = ("--hide", "/sys/fs/cgroup", "--hide", "/proc/cgroups")


OldJoey = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=KERNELS)
def old_joey(request: pytest.FixtureRequest, kit: Path, tmp_path: Path) -> Iterator[OldJoey]:
    """joey of the kit, as if on an old kernel; its containers are removed at the end."""
    names: list[str] = []

    def call(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        if words[0] == "run":
            names.append(words[-1])
        command: list[Any] = [
            sys.executable,
            TOP / "tools" / "asif",
            request.param,
            *HIDDEN,
            "--",
            kit / "bin" / "joey",
        ]
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command += ["--root", tmp_path / "state", *words]
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:  # a container keeps its streams
            status = subprocess.run(
                command, stdout=out, stderr=err, env=environment, timeout=100, check=False
            ).returncode
            for stream in (out, err):
                stream.seek(0)
            done = subprocess.CompletedProcess(command, status, out.read(), err.read())
        assert not check or done.returncode == 0, done.stderr
        return done

    yield call
    for name in names:
        call("delete", "--force", name, check=False)
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)


def make_bundle(tmp_path: Path, kit: Path, *args: str, change: Callable[[dict[str, Any]], None] | None = None) -> Path:
    path = tmp_path / "bundle"
    path.mkdir(exist_ok=True)
    subprocess.run([kit / "bin" / "joey", "spec", "-b", path], check=True) if not (
        path / "config.json"
    ).exists() else None
    config = json.loads((path / "config.json").read_text())
    config["process"].update(terminal=False, args=list(args))
    config["root"] = {"path": str(debian("bookworm")), "readonly": True}
    if change:
        change(config)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("way", ["rewritten-libc", "tracer"])
def test_todays_programs_run(old_joey: OldJoey, kit: Path, tmp_path: Path, way: str) -> None:
    path = make_bundle(
        tmp_path, kit, "sh", "-c", "uname -r; stat -c %F /; python3 -c 'import os; print(len(os.getrandom(9)))'; exit 4"
    )
    done = old_joey(
        "run", "--policy", "permissive", "--force", f"glibc={way}", "-b", str(path), uuid.uuid4().hex, check=False
    )
    assert done.stdout.splitlines()[1:] == ["directory", "9"], done.stderr
    assert done.stdout.startswith("3.17.0+2.6.")
    assert done.returncode == 4
    assert f"glibc: {way} is used" in done.stderr


@pytest.mark.parametrize("way", ["rewritten-libc", "tracer"])
def test_exec_is_by_the_containers_way(old_joey: OldJoey, kit: Path, tmp_path: Path, way: str) -> None:
    name = uuid.uuid4().hex
    path = make_bundle(tmp_path, kit, "sleep", "1000")
    old_joey("run", "--detach", "--policy", "permissive", "--force", f"glibc={way}", "-b", str(path), name)
    done = old_joey("exec", name, "stat", "-c", "%F", "/etc/passwd", check=False)
    assert done.stdout == "regular file\n", done.stderr
    state = json.loads(old_joey("state", name).stdout)
    assert state["status"] == "running"
    assert "io.joey.lost.glibc" in state["annotations"]


def test_a_container_that_could_change_the_library_has_one_of_its_own(
    old_joey: OldJoey, kit: Path, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        for names in config["process"]["capabilities"].values():
            names.append("CAP_SYS_ADMIN")
        config["process"]["noNewPrivileges"] = False

    library = "/usr/lib/x86_64-linux-gnu/libc.so.6"
    script = f"mount -o remount,rw,bind {library} && printf x >> {library}; echo $?"
    path = make_bundle(tmp_path, kit, "sh", "-c", script, change=change)
    for _ in range(2):
        name = uuid.uuid4().hex
        done = old_joey("run", "--policy", "permissive", "-b", str(path), name, check=False)
        assert done.stdout == "0\n", done.stderr
    name = uuid.uuid4().hex
    assert old_joey("run", "--policy", "permissive", "-b", str(path), name).returncode == 0
    shared = make_bundle(
        tmp_path, kit, "sh", "-c", f"mount -o remount,rw,bind {library}; echo $?; tail -c1 {library} | wc -c"
    )
    config = json.loads((shared / "config.json").read_text())
    for names in config["process"]["capabilities"].values():
        names.remove("CAP_SYS_ADMIN")
    (shared / "config.json").write_text(json.dumps(config))
    done = old_joey("run", "--policy", "permissive", "-b", str(shared), uuid.uuid4().hex, check=False)
    assert done.stdout.splitlines()[0] != "0"
