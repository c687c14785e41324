"""Paths never leave their root: with openat2, by the walk, and by the walk on a kernel that ignores O_PATH."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from joey.compat import rootpath
from joey.compat.errors import KernelError
from joey.compat.rootpath import Root, remove_created


@pytest.fixture(params=["openat2", "walk", "walk without O_PATH"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Root]:
    if request.param == "walk without O_PATH":
        monkeypatch.setattr(rootpath, "_HANDLE", rootpath._HANDLE & ~os.O_PATH)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    inside = tmp_path / "root"
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "a" / "file").write_text("inside")
    for name, target in {
        "absolute": "/a/file", "relative": "a/file", "up": "../../../../a/file", "out": "../outside/secret",
        "host": str(tmp_path / "outside" / "secret"), "dir": "a", "loop": "loop", "chain": "up", "conf": "/etc",
    }.items():  # fmt: skip
        (inside / name).symlink_to(target)
    opened = Root(str(inside), native=request.param == "openat2")
    opened.attach()
    yield opened
    opened.close()


def error_number(error: Exception) -> int | None:
    assert isinstance(error, OSError | KernelError)
    return error.errno


def name_of(root: Root, fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").removeprefix(root.path)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "path", ["a/file", "/a/file", "absolute", "relative", "up", "chain", "dir/file", "a/../../a/file", "//a//./file"]
)
def test_links_and_dots_resolve_inside(root: Root, path: str) -> None:
    assert name_of(root, root.open(path)) == "/a/file"


@pytest.mark.parametrize("path", ["out", "host", "../outside/secret", "dir/../../outside/secret", "conf/passwd"])
def test_no_path_leads_out(root: Root, path: str) -> None:
    with pytest.raises((OSError, KernelError)) as caught:
        root.open(path)
    assert error_number(caught.value) == errno.ENOENT


def test_a_loop_of_links_is_an_error(root: Root) -> None:
    with pytest.raises((OSError, KernelError)) as caught:
        root.open("loop")
    assert error_number(caught.value) == errno.ELOOP


def test_a_file_is_no_directory(root: Root) -> None:
    with pytest.raises((OSError, KernelError)) as caught:
        root.open("a/file/x")
    assert error_number(caught.value) == errno.ENOTDIR


def test_targets_are_made_inside_and_taken_back(root: Root, tmp_path: Path) -> None:
    (Path(root.path) / "trap").symlink_to(tmp_path / "outside")
    assert name_of(root, root.make_directories("/new/deep")) == "/new/deep"
    assert name_of(root, root.make_file("dir/made")) == "/a/made"
    os.close(root.make_directories("trap/inside"))
    assert not (tmp_path / "outside" / "inside").exists()
    (Path(root.path) / "new" / "kept").write_text("somebody's")
    remove_created(root.path, root.created)
    assert not (Path(root.path) / "a" / "made").exists()
    assert not (Path(root.path) / "new" / "deep").exists()
    assert (Path(root.path) / "new" / "kept").exists()
    assert (Path(root.path) / "a" / "file").exists()


def test_an_existing_file_is_kept(root: Root) -> None:
    assert name_of(root, root.make_file("relative")) == "/a/file"
    assert root.created == []


def test_taking_back_follows_no_link_out(root: Root, tmp_path: Path) -> None:
    (tmp_path / "outside" / "empty").touch()
    (Path(root.path) / "swapped").symlink_to(tmp_path / "outside")
    remove_created(root.path, ["/swapped/empty", "/../outside/empty"])
    assert (tmp_path / "outside" / "empty").exists()
