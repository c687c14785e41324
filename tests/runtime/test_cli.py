"""The command line: help that teaches, errors with a hint, clear exit statuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from joey.compat.errors import UsageError
from joey.runtime.cli import COMMANDS, load, load_verb
from joey.runtime.commands.kill import signal_number
from joey.runtime.options import Option, parse

from ..conftest import Joey

ALL = [name for group in COMMANDS.values() for name in group]
VERBS = [(name, verb) for name in ALL for verb in load(name).verbs]


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_that_names_its_options(name: str, joey: Joey) -> None:
    done = joey(name, "--help")
    assert done.stdout.startswith(f"joey {name}")
    for option in load(name).options:
        assert option.names[0] in done.stdout
    assert joey("help", name).stdout == done.stdout


@pytest.mark.parametrize(("name", "verb"), VERBS)
def test_every_verb_has_help_of_its_own(name: str, verb: str, joey: Joey) -> None:
    done = joey(name, verb, "--help")
    assert done.stdout.startswith(f"joey {name} {verb}")
    for option in load_verb(load(name), verb).options:
        assert option.names[0] in done.stdout
    assert joey("help", name, verb).stdout == done.stdout
    shown = load(name).shown
    assert (f"  {verb} " in joey(name, "--help").stdout) == (verb in shown)  # others are joey's own


def test_a_command_of_verbs_alone_asks_which(joey: Joey) -> None:
    for words in (["image"], ["image", "frob"]):
        done = joey(*words, check=False)
        assert done.returncode == 2
        assert ('has no "frob"' if len(words) > 1 else "which of") in done.stderr
        assert "unpack" in done.stderr


def test_the_list_of_commands_is_complete(joey: Joey) -> None:
    text = joey("--help").stdout
    assert all(f"  {name} " in text for name in ALL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command given"),
        (["frobnicate"], 'unknown command "frobnicate"'),
        (["--frob"], "unknown option --frob"),
        (["run"], "usage: joey run ID"),
        (["run", "--bundle"], "option --bundle needs a value"),
        (["run", "--frob", "x"], "unknown option --frob"),
        (["state", "a", "b"], "usage: joey state ID"),
        (["--log-format", "xml", "list"], 'unknown format "xml"'),
        (["list", "--format", "xml"], 'unknown format "xml"'),
        (["--policy", "lenient", "plan", "-b", "BUNDLE"], "lenient"),
        (["plan", "-b", "BUNDLE", "--force", "seccomp"], "is not FEATURE=MECHANISM"),
        (["kill", "x", "NOSUCH"], "container does not exist"),
    ],
)
def test_wrong_words_are_told(words: list[str], message: str, joey: Joey, bundle: object) -> None:
    words = [str(bundle()) if word == "BUNDLE" else word for word in words]  # type: ignore[operator]
    done = joey(*words, check=False)
    assert done.returncode == (1 if "not exist" in message else 2)
    assert message in done.stderr


def test_version(joey: Joey) -> None:
    assert joey("--version").stdout.startswith("joey version ")


def test_the_log_file_gets_the_line_that_clients_read(joey: Joey, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text("earlier\n")
    joey("--log", str(log), "--log-format", "json", "state", "nobody", check=False)
    earlier, line = log.read_text().splitlines()
    value = json.loads(line)
    assert (earlier, value["level"], value["msg"]) == ("earlier", "error", "container does not exist")
    assert value["time"].endswith("Z")


def test_spec_writes_once(joey: Joey, tmp_path: Path) -> None:
    joey("spec", "-b", str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["process"]["args"] == ["sh"]
    done = joey("spec", "-b", str(tmp_path), check=False)
    assert (done.returncode, "exists" in done.stderr) == (1, True)


OPTIONS = (
    Option("--bundle -b", "DIR", "x", default="."),
    Option("--detach -d", "", "x"),
    Option("--env -e", "E", "x", many=True),
)


def test_options_in_every_spelling() -> None:
    for argv in (["--bundle", "x"], ["--bundle=x"], ["-b", "x"], ["-b=x"], ["-bundle", "x"], ["-bundle=x"]):
        assert parse(OPTIONS, [*argv, "id"], False, "").text("bundle") == "x"
    got = parse(OPTIONS, ["id", "-d", "-e", "A=1", "--env=B=2"], False, "")
    assert (got.words, got.switch("detach"), got.many("env"), got.text("bundle")) == (["id"], True, ["A=1", "B=2"], ".")
    got = parse(OPTIONS, ["-d", "id", "ls", "-l", "--bundle"], True, "")
    assert got.words == ["id", "ls", "-l", "--bundle"]
    assert parse(OPTIONS, ["--", "-d"], False, "").words == ["-d"]


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigkill", 9),
        ("9", 9),
        ("RTMIN+3", 37),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("WINCH", 28),
    ],
)
def test_signals_by_name_and_number(word: str, number: int) -> None:
    assert signal_number(word) == number


@pytest.mark.parametrize("word", ["65", "-1", "FOO", "RTMIN+99", ""])
def test_unknown_signals_are_refused(word: str) -> None:
    with pytest.raises(UsageError):
        signal_number(word)


def test_a_closed_pipe_is_no_traceback(joey: Joey) -> None:
    import subprocess

    done = subprocess.run(
        ["sh", "-c", f"{' '.join(joey.command('probe', '--only', 'syscalls'))} | head -1"],
        capture_output=True, text=True, check=False, env={**os.environ},
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_an_error_does_not_drive_the_terminal(joey: Joey) -> None:
    done = joey("run", "--bundle", "\x1b]0;title\x07", joey.id(), check=False)
    assert "\\x1b]0;title\\x07" in done.stderr
    assert "\x1b" not in done.stderr
