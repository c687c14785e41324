"""The start path imports few modules: each costs time on every start of every container."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ..conftest import Joey, MakeBundle

SRC = Path(__file__).parent.parent.parent / "src"

# Loaded by the interpreter itself, or C modules without a cost.
CHEAP = {"_abc", "binascii", "_codecs", "_collections_abc", "_ctypes", "_io", "_json", "_signal", "_socket", "_stat", "_struct",
         "_frozen_importlib_external", "abc", "codecs", "encodings", "encodings.aliases", "encodings.utf_8", "errno",
         "fcntl", "genericpath", "io", "marshal", "os", "posix", "posixpath", "resource", "select", "stat", "termios",
         "time", "zipimport", "_locale", "_bootlocale"}  # fmt: skip
# Python modules that the start path pays for.
PAID = {"__future__", "struct"}


def imported_by(joey: Joey, *words: str) -> set[str]:
    """The modules one real command imported, as the interpreter tells."""
    script = (
        f"import sys; sys.path.insert(0, {str(SRC)!r}); from joey.runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-I", "-S", "-X", "importtime", "-c", script, "--root", str(joey.root), *words]
    with tempfile.TemporaryFile("w+") as err:  # no pipe: a created container keeps its streams
        status = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=err, check=False).returncode
        err.seek(0)
        text = err.read()
    assert status == 0, text
    lines = [line for line in text.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines[1:]}


@pytest.mark.root
@pytest.mark.parametrize("command", ["run", "create", "exec", "state", "kill"])
def test_only_known_modules_are_imported(command: str, joey: Joey, bundle: MakeBundle) -> None:
    path, name = str(bundle("sleep", "100") if command != "run" else bundle("true")), joey.id()
    if command not in ("run", "create"):
        joey("run", "--detach", "-b", path, name)
    words = {"run": ["run", "-b", path, name], "create": ["create", "-b", path, name], "exec": ["exec", name, "true"],
             "state": ["state", name], "kill": ["kill", name, "CONT"]}[command]  # fmt: skip
    joey("plan", "-b", path)  # fills the cache of the report
    modules = {name for name in imported_by(joey, *words) if not name.startswith("joey")}
    allowed = CHEAP | PAID | ({"pwd"} if command == "state" else set())
    assert not modules - allowed


@pytest.mark.root
def test_help_imports_no_command(joey: Joey) -> None:
    modules = imported_by(joey, "--help")
    assert not {name for name in modules if name.startswith(("joey.runtime.commands", "joey.probes"))}
