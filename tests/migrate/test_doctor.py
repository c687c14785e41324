"""`joey doctor`: real containers, networks and leftovers, broken by hand; and the shells' completion."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Joey, MakeBundle
from ..e2e.conftest import host, kit
from ..e2e.host import Host
from .test_rich import Rich, rich, wait_for

__all__ = ["host", "kit", "rich"]


def found(joey: Joey, *words: str, **options: Any) -> dict[str, list[dict[str, str]]]:
    """check -> what is found of it."""
    done = joey("doctor", "--json", *words, check=False, **options)
    value = json.loads(done.stdout)
    out: dict[str, list[dict[str, str]]] = {}
    for note in value["found"]:
        out.setdefault(note["check"], []).append(note)
    assert done.returncode == any(note["state"] == "problem" for note in value["found"])
    return out


def states(notes: dict[str, list[dict[str, str]]], check: str) -> list[str]:
    return [note["state"] for note in notes.get(check, [])]


def test_an_image_of_a_layout_is_checked_by_its_name(joey: Joey, tmp_path: Path) -> None:
    """As every page of the manual has it: oci:DIR:NAME."""
    for name in ("one", "two"):
        root = tmp_path / name
        (root / "bin").mkdir(parents=True)
        shutil.copy("/bin/true" if name == "one" else "/bin/busybox", root / "bin/program")
        joey("migrate", "--as", "application", str(root), "--to", f"oci:{tmp_path}/images:{name}")
    layout = f"oci:{tmp_path}/images"
    assert "static" in joey("check", f"{layout}:two").stdout
    assert "static" not in joey("check", f"{layout}:one", check=False).stdout
    several = joey("check", layout, check=False)
    assert (several.returncode, "several images" in several.stderr) == (1, True)
    none = joey("check", f"{layout}:three", check=False)
    assert "its images: one, two" in none.stderr


def test_nothing_is_wrong(joey: Joey, tmp_path: Path) -> None:
    done = joey("doctor", "--store", str(tmp_path / "store"))
    assert "nothing is wrong" in done.stdout
    assert "the usual bundle runs" in done.stdout


@pytest.mark.root
def test_containers_that_are_damaged(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    joey("run", "-b", str(bundle("true")), "--keep", joey.id())
    name = joey.id()
    joey("create", "-b", str(bundle("true")), name)
    notes = found(joey)["containers"]
    assert sorted(note["state"] for note in notes) == ["note", "well"]
    state = joey.root / name / "state.json"
    text = state.read_text()
    state.write_text(text[:40])
    broken = [note for note in found(joey)["containers"] if note["state"] == "problem"]
    assert len(broken) == 1
    assert f"delete --force {name}" in broken[0]["help"]
    state.write_text(text)


@pytest.mark.root
def test_rich_containers_that_are_off(rich: Rich, machine: Callable[..., Path], tmp_path: Path) -> None:
    joey = Joey(tmp_path / "other")
    words = ("--store", str(rich.store))
    rich("run", "--rootfs", str(machine()), "--name", "one")
    assert states(found(joey, *words), "rich containers") == ["well"]
    os.kill(rich.inspect("one")["supervisor"], signal.SIGKILL)
    wait_for(lambda: "without a supervisor" in str(found(joey, *words)["rich containers"]))
    os.kill(rich.inspect("one")["pid"], signal.SIGKILL)
    wait_for(lambda: "one should run, and does not" in str(found(joey, *words)["rich containers"]))
    rich("start", "one")
    assert states(found(joey, *words), "rich containers") == ["well"]


@pytest.mark.root
@pytest.mark.parametrize("tool", ["iptables", "nft"])
def test_a_firewall_that_was_loaded_anew(host: Host, bundle: MakeBundle, tool: str) -> None:
    name = host.id()
    words = ("--network", "bridge,names=on", "--force", f"network.nat={tool}")
    host("run", "-d", "-b", str(bundle("sleep", "100")), *words, name)
    assert states(found(host), "networks") == ["well"]
    record = json.loads(host.call("cat", "/run/joey/networks/joey0/network.json"))
    host.call("nft", "flush", "ruleset")
    os.kill(record["names"]["pid"], signal.SIGKILL)
    wait_for(lambda: states(found(host), "networks") == ["problem", "problem"])
    done = host("doctor", "--mend", check=False)
    assert "the firewall was loaded anew; mended" in done.stdout
    assert "the name server of joey0 has ended; mended" in done.stdout
    assert states(found(host), "networks") == ["well"]


@pytest.mark.root
@pytest.mark.slow
def test_a_host_kit_that_was_changed(kit: Path, tmp_path: Path) -> None:
    own = tmp_path / "kit"
    shutil.copytree(kit, own)

    def doctor() -> list[str]:
        done = subprocess.run([own / "bin/joey", "doctor", "--json"], capture_output=True, text=True, check=False)
        return [note["state"] for note in json.loads(done.stdout)["found"] if note["check"] == "host kit"]

    assert doctor() == ["well"]
    target = own / "share/host"
    file = next(path for path in target.rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes() + b"\n")
    assert doctor() == ["problem"]


@pytest.mark.parametrize(
    ("words", "some"),
    [
        (("",), {"probe", "run", "rich", "fleet"}),
        (("--root", "/x", "pro"), {"probe"}),
        (("rich", ""), {"run", "upgrade"}),
        (("rich", "run", "--iso"), {"--isolation"}),
        (("probe", "--j"), {"--json"}),
    ],
)
def test_bash_completes(joey: Joey, tmp_path: Path, words: tuple[str, ...], some: set[str]) -> None:
    script = tmp_path / "joey.bash"
    script.write_text(joey("completion", "bash").stdout)
    line = " ".join(f"'{word}'" for word in ("joey", *words))
    program = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _joey; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert some <= set(done.stdout.split())
    assert not {"supervise", "wire", "settle"} & set(done.stdout.split()), "joey's own verbs are not for people"


@pytest.mark.root
def test_bash_completes_containers(joey: Joey, bundle: MakeBundle, tmp_path: Path) -> None:
    name = joey.id()
    joey("create", "-b", str(bundle("true")), name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/joey").write_text(f'#!/bin/sh\nexec {joey.program} --root {joey.root} "$@"\n')
    (tmp_path / "bin/joey").chmod(0o755)
    script = tmp_path / "joey.bash"
    script.write_text(joey("completion", "bash").stdout)
    program = f"source {script}; COMP_WORDS=(joey start ''); COMP_CWORD=2; _joey; echo ${{COMPREPLY[@]}}"
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert name in done.stdout.split()


def test_no_such_shell(joey: Joey) -> None:
    done = joey("completion", "tcsh", check=False)
    assert (done.returncode, "shells: bash, zsh, fish" in done.stderr) == (2, True)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_theirs(joey: Joey, tmp_path: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    script = tmp_path / "script"
    script.write_text(joey("completion", shell).stdout)
    subprocess.run([shell, "-n", str(script)] if shell == "fish" else [shell, "-c", f"autoload -U compinit && compinit -u -d {tmp_path}/dump; source {script}"], check=True)  # fmt: skip
