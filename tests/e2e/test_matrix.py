"""tools/matrix: kernels of the matrix booted here, and what is told of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from .oldkernel import TOP

pytestmark = [pytest.mark.slow, pytest.mark.root, pytest.mark.timeout(2700)]


def matrix(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([TOP / "tools/matrix", *words], capture_output=True, text=True, check=False)


def test_a_kernel_like_2_6_32_and_debians_are_as_expected(tmp_path: Path) -> None:
    done = matrix("run", "--only", "as-if-2.6.32", "--only", "debian-12", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("as-if-2.6.32", "debian-12"):
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert [item["test"] for item in result["tests"] if item["result"] != "passed"] == []
        assert not result["drift"]
        suite = ET.parse(tmp_path / name / "junit.xml").getroot()
        assert len(suite) == len(result["tests"]) >= 13
        report = tmp_path / name / "report.json"
        planned = subprocess.run([TOP / ".venv/bin/joey", "probe", "--report", report], capture_output=True, text=True, check=True)  # fmt: skip
        assert result["release"] in planned.stdout
    assert "unproven" in (tmp_path / "matrix.html").read_text(), "what was not run is told as that"


def test_kernels_without_a_namespace(tmp_path: Path) -> None:
    """The one is refused, and everything else goes on."""
    names = {"as-if-2.6.32-no-pidns": "pidns", "as-if-2.6.32-no-netns": "netns"}
    words = [word for name in names for word in ("--only", name)]
    done = matrix("run", *words, "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    for name, feature in names.items():
        result = json.loads((tmp_path / name / "result.json").read_text())
        assert result["mechanisms"][feature] == ""
        assert {item["said"] for item in result["tests"] if item["result"] == "refused"} == {
            f"{feature} is refused by the plan"
        }
        assert sum(item["result"] == "passed" for item in result["tests"]) >= 11


def test_a_drift_fails(tmp_path: Path) -> None:
    file = tmp_path / "matrix.toml"
    file.write_text(
        '[expect]\n[[kernel]]\nname = "one"\nrelease = "6.2"\nlocal = "debian bookworm"\nalso = {enter = "agent"}\n'
    )
    done = matrix("--file", str(file), "run", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert "enter is setns, not agent" in done.stdout
    assert "the kernel is 6.1." in done.stdout
    failures = ET.parse(tmp_path / "out/one/junit.xml").getroot().findall("testcase/failure")
    assert len(failures) == 2


@pytest.mark.skipif(shutil.which("vagrant") is None, reason="needs vagrant")
def test_the_vagrantfile_has_every_box() -> None:
    done = subprocess.run(["vagrant", "validate"], cwd=TOP / "vagrant", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    status = subprocess.run(
        ["vagrant", "status"], cwd=TOP / "vagrant", capture_output=True, text=True, check=True
    ).stdout
    shutil.rmtree(TOP / "vagrant/.vagrant", ignore_errors=True)
    boxed = [line.split()[0] for line in matrix("list").stdout.splitlines() if "generic/" in line]
    assert len(boxed) > 10
    assert all(f"\n{name} " in status for name in boxed)


@pytest.mark.skipif(
    not Path("/usr/sbin/libvirtd").exists(), reason="needs libvirt-daemon, vagrant-libvirt and extlinux"
)
def test_a_box_is_brought_up_runs_the_suite_and_is_destroyed(tmp_path: Path) -> None:
    """A real box with a real Vagrant and libvirt, by QEMU's own emulation of a processor."""
    box = subprocess.run(
        [TOP / "tools/vagrant-box", "bookworm"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {**os.environ, "JOEY_LIBVIRT_DRIVER": "qemu", "JOEY_BOX_DEBIAN_12": box, "TMPDIR": str(tmp_path)}
    command: list[str | Path] = [TOP / "tools/with-libvirt", TOP / "tools/matrix", "run", "--provider", "vagrant"]
    done = subprocess.run(
        [*command, "--only", "debian-12", "--out", tmp_path / "out"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "out/debian-12/log").read_text()[-3000:]
    result = json.loads((tmp_path / "out/debian-12/result.json").read_text())
    assert (result["provider"], result["release"][:4], result["drift"]) == ("vagrant", "6.1.", [])
    assert [item["test"] for item in result["tests"] if item["result"] != "passed"] == []
    assert "==> debian-12: Removing domain..." in (tmp_path / "out/debian-12/log").read_text()
    assert os.listdir(tmp_path) == ["out"], "its machines, disks and daemons are gone with it"
