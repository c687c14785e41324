"""Compiled seccomp profiles: kept by digest, and never taken from a file that could be anything else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from joey.compat.seccomp import profile
from joey.probes import cache
from joey.runtime import filters


def section(name: str = "mkdir") -> dict[str, Any]:
    rules = [{"names": [name], "action": "SCMP_ACT_ERRNO"}]
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "directory", lambda: str(tmp_path / "cache"))
    return tmp_path / "cache" / "seccomp"


def never(section: dict[str, Any]) -> bytes:
    raise AssertionError("compiled again")


def test_a_profile_is_compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = filters.compiled(section())
    assert first == profile.compile_profile(section())
    assert filters.compiled(section("rmdir")) != first
    assert len(list(folder.iterdir())) == 2
    monkeypatch.setattr(profile, "compile_profile", never)
    assert filters.compiled(section()) == first


def spoil(file: Path, way: str) -> None:
    data = file.read_bytes()
    if way == "cut":
        file.write_bytes(data[:-8])
    elif way == "changed":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif way == "empty":
        file.write_bytes(b"")
    elif way == "endless":
        file.write_bytes(data + bytes(1 << 20))
    elif way == "writable":
        file.chmod(0o666)
    elif way == "link":
        file.rename(file.parent / "elsewhere")
        file.symlink_to("elsewhere")
    else:
        file.unlink()
        os.mkfifo(file)


@pytest.mark.parametrize("way", ["cut", "changed", "empty", "endless", "writable", "link", "fifo"])
def test_a_spoiled_file_is_not_used(way: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filters.compiled(section())
    (file,) = folder.iterdir()
    spoil(file, way)
    monkeypatch.setattr(profile, "compile_profile", lambda section: b"compiled")
    assert filters.compiled(section()) == b"compiled"


def test_the_cache_does_not_grow_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "KEPT", 3)
    for name in ("mkdir", "rmdir", "link", "unlink", "rename"):
        filters.compiled(section(name))
    assert len(list(folder.iterdir())) == 3


def test_no_cache_folder_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "directory", lambda: str(tmp_path / "file"))
    assert filters.compiled(section()) == profile.compile_profile(section())
