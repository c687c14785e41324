"""`joey rich exec`: run a command in a rich container."""

from __future__ import annotations

import os

from ....runtime.options import Arguments, Command, Option
from .. import control
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    options = ["--tty"] if arguments.switch("tty") else []
    options += ["--user", arguments.text("user") or "0:0"]
    if word := arguments.text("cwd"):
        options += ["--cwd", word]
    for word in arguments.many("env"):
        options += ["--env", word]
    argv = control.joey(container, "exec", *options, container.name, *arguments.words[1:])
    os.execv(argv[0], argv)
    return 0


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
