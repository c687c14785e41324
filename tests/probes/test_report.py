"""Reports on disk: written whole, read back the same, and refused when broken or of another schema."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from joey.probes import report
from joey.probes.report import Finding, KernelReport

from ..conftest import REPORTS, Joey


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_reports_load_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    loaded = report.load(str(path))
    loaded.save(str(tmp_path / "again.json"))
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())


BROKEN = {
    "not JSON": "hello",
    "cut off": '{"schema": 1, "findings": {',
    "no schema": "{}",
    "a list": "[]",
    "another schema": '{"schema": 99}',
    "no findings": '{"schema": 1, "joey": "", "key": {}, "machine": {}, "seconds": 0}',
    "an unknown state": '{"schema": 1, "joey": "", "key": {}, "machine": {}, "seconds": 0, '
    '"findings": {"x": {"state": "odd", "call": "", "answer": ""}}}',
    "a wrong type": '{"schema": 1, "joey": "", "key": {}, "machine": {}, "seconds": 0, '
    '"findings": {"x": {"state": "works", "call": 7, "answer": ""}}}',
    "findings of another kind": '{"schema": 1, "joey": "", "key": {}, "machine": {}, "seconds": 0, "findings": []}',
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("command", ["plan", "probe", "diff"])
def test_a_broken_report_is_one_clear_error(
    kind: str, command: str, joey: Joey, tmp_path: Path, bundle: object
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(BROKEN[kind])
    words = {
        "probe": ["probe", "--report", str(path)],
        "diff": ["probe", "--diff", str(path), str(REPORTS / "vanilla-2.6.32.json")],
        "plan": ["plan", "-b", str(bundle()), "--report", str(path)],  # type: ignore[operator]
    }[command]
    done = joey(*words, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"joey: {path}")
    assert "Traceback" not in done.stderr


def test_a_missing_report_says_how_to_make_one(joey: Joey) -> None:
    done = joey("probe", "--report", "/nowhere.json", check=False)
    assert done.returncode == 1
    assert "joey probe --save" in done.stderr


def test_diff_shows_what_differs_and_answers_like_diff(joey: Joey) -> None:
    old, new = str(REPORTS / "vanilla-2.6.32.json"), str(REPORTS / "centos6-2.6.32.json")
    done = joey("probe", "--diff", old, new, check=False)
    assert done.returncode == 1
    assert any(line.split()[:3] == ["no-new-privs", "absent", "(EINVAL)"] for line in done.stdout.splitlines())
    rows = {row["feature"] for row in json.loads(joey("probe", "--json", "--diff", old, new, check=False).stdout)}
    assert {"syscall.setns", "setns.mnt", "cgroup.blkio"} <= rows
    assert "pidns.clone" not in rows
    assert joey("probe", "--diff", old, old).stdout == "no feature differs\n"


def test_a_saved_report_of_this_machine_can_be_shown(joey: Joey, tmp_path: Path) -> None:
    joey("probe", "--only", "setns", "--save", str(tmp_path / "r.json"))
    assert "setns.pid" in joey("probe", "--report", str(tmp_path / "r.json")).stdout


def test_a_finding_tells_its_evidence() -> None:
    finding = Finding("x", "absent", "call()", "ENOSYS")
    assert finding.evidence == "call(): ENOSYS"
    made = KernelReport({"x": finding}, {}, {}, "", 0)
    assert made.evidence("x") == "x absent (call(): ENOSYS)"
    assert made.evidence("y") == "y was not probed"
