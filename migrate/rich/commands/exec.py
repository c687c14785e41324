"""`joey rich exec`: run a command in a rich container."""

from __future__ import annotations

import os

from ....compat.errors import JoeyError, StateError, UsageError
from ....runtime.options import Arguments, Command, Option
from .. import control
from ..model import Rich, parse_variable
from ..store import Container
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    rich = container.rich()
    if rich.isolation == "vm":
        return _in_machine(container, rich, arguments)
    options = ["--tty"] if arguments.switch("tty") else []
    options += ["--user", arguments.text("user") or "0:0"]
    if word := arguments.text("cwd"):
        options += ["--cwd", word]
    for word in arguments.many("env"):
        options += ["--env", word]
    argv = control.joey(container, "exec", *options, container.name, *arguments.words[1:])
    os.execv(argv[0], argv)
    return 0


def _in_machine(container: Container, rich: Rich, arguments: Arguments) -> int:
    from ..vm import link, machine

    if container.running() is None:
        raise StateError(f"{container.name} is not running", f"joey rich start {container.name}", "not-running")
    user, _, group = (arguments.text("user") or "0:0").partition(":")
    if not user.isdigit() or not (group or user).isdigit():
        raise UsageError(f'--user: "{arguments.text("user")}" is not UID[:GID]')
    env = machine.program_env(rich)
    env.update(parse_variable(word) for word in arguments.many("env"))
    ids = (int(user), int(group or user), list[int]())
    cwd = arguments.text("cwd") or "/"

    def request(size: tuple[int, int] | None) -> bytes:
        return link.request(arguments.words[1:], env, ids, cwd, size)

    try:
        return link.attach(machine.folder_of(container), request, arguments.switch("tty"))
    except JoeyError as error:
        error.exit_code = 255
        raise


COMMAND = Command(
    "rich exec",
    "run a command in a rich container",
    run,
    words="NAME PROGRAM [ARGUMENT...]",
    least=1,
    most=-1,
    options=(
        STORE,
        Option("--tty -t", "", "give it a terminal"),
        Option("--user -u", "UID[:GID]", "its user (default: root)"),
        Option("--cwd", "DIR", "its working directory"),
        Option("--env -e", "NAME=VALUE", "add to its environment; may be repeated", many=True),
    ),
    stop_at_word=True,
    detail="The exit status is the command's own; 255 where joey could not run it.",
    examples=("joey rich exec -t shop bash",),
)
