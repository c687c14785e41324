"""`joey rich logs`: show what a rich container's init has printed."""

from __future__ import annotations

import os
import sys

from ....runtime.options import Arguments, Command, Option
from .. import control, logs
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    show = (lambda line: line) if arguments.switch("times") else logs.without_time
    since = arguments.text("since")
    folder = f"{container.folder}/log"
    if arguments.switch("journal"):
        words = ["journalctl", "--no-pager", "--boot", "--output", "short-iso"]
        words += ["--lines", arguments.text("tail")] if arguments.given("tail") else []
        words += ["--since", since] if since else []
        words += ["--follow"] if arguments.switch("follow") else []
        argv = control.joey(container, "exec", container.name, *words)
        os.execv(argv[0], argv)
    for line in logs.lines(folder, arguments.number("tail", -1), since):
        sys.stdout.buffer.write(show(line) + b"\n")
    sys.stdout.flush()
    if arguments.switch("follow"):
        for line in logs.follow(folder):
            if line:
                sys.stdout.buffer.write(show(line) + b"\n")
                sys.stdout.flush()
    return 0


COMMAND = Command(
    "rich logs",
    "show what a rich container's init has printed",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(
        STORE,
        Option("--follow -f", "", "go on with what comes"),
        Option("--tail -n", "N", "only the last N lines"),
        Option("--since", "TIME", "only from a time on, such as 2026-11-25T12:00"),
        Option("--journal", "", "what systemd and its services have said, by its own journal"),
        Option("--times -t", "", "with the time of each line, in UTC"),
    ),
    detail="Lines that begin with joey: are of its supervisor. Five files of 10 MiB are kept.",
)
