"""The command line: a table of commands, each loaded only when it is called, and the one place errors are printed."""

from __future__ import annotations

import os
import sys

from .. import __version__
from ..compat.errors import JoeyError, UsageError
from . import log
from .options import Command, Option, describe, parse
from .state import default_root

# name -> (module in commands/ or, with dots, below the package, one line for the list). Grouped as the help shows them.
COMMANDS = {
    "look at a kernel": {
        "probe": ("probe", "try what this kernel can do, and show what each absence costs"),
        "plan": ("plan", "show which mechanism a bundle would get for each feature, and why"),
        "check": ("check", "say beforehand whether an image runs on a host"),
    },
    "run containers": {
        "run": ("run", "create a container, start it, and wait for its end"),
        "create": ("create", "create a container that waits to be started"),
        "start": ("start", "start a created container"),
        "state": ("state", "print a container's state as JSON"),
        "kill": ("kill", "send a signal to a container's first process"),
        "delete": ("delete", "remove a stopped container"),
        "exec": ("exec", "run a process in a running container"),
        "list": ("list", "list containers"),
        "ps": ("ps", "list the processes of a container"),
        "pause": ("pause", "stop every process of a container where it is"),
        "resume": ("resume", "let a paused container go on"),
        "update": ("update", "change the limits of a container"),
        "checkpoint": ("checkpoint", "save a running container to files, with CRIU"),
        "restore": ("restore", "make a container from a checkpoint and let it go on"),
        "events": ("events", "print a container's counters, and tell when it ran out of memory"),
        "spec": ("spec", "write a config.json to start from"),
        "features": ("features", "print what joey can do on this machine, as the runtime-spec asks"),
        "version": ("version", "print the version"),
    },
    "look after many hosts": {
        "fleet": ("migrate.fleet.commands.fleet", "look at many hosts over SSH, and roll out to them"),
    },
    "move machines": {
        "migrate": ("migrate.commands.migrate", "make an image of a machine's disks or an application's files"),
        "image": ("migrate.commands.image", "look at images, check, unpack and move them"),
        "rich": ("migrate.rich.commands.rich", "run a whole machine in a container, by its own init"),
    },
    "look after joey itself": {
        "doctor": ("migrate.commands.doctor", "say what is wrong with joey and its containers here, and what helps"),
        "completion": ("completion", "print a script that lets a shell complete joey's command lines"),
    },
}

GLOBAL_OPTIONS = (
    Option("--root", "DIR", "where containers are kept", default=default_root()),
    Option("--log", "FILE", "append errors and warnings to FILE"),
    Option("--log-format", "FORMAT", "format of the log: text or json", default="text"),
    Option("--debug", "", "print each step of a start as it runs"),
    Option("--policy", "POLICY", "strict: refuse weaker protection; permissive: go on and say what is lost"),
    Option("--systemd-cgroup", "", "refused: joey has no systemd cgroup driver"),
    Option("--rootless", "WORD", "true, false or auto: accepted for runc's clients; joey looks for itself"),
    Option("--criu", "PATH", "accepted for runc's clients, and ignored"),
    Option("--version -v", "", "print the version"),
    Option("--help -h", "", "print this help, or a command's: joey COMMAND --help"),
)

HELP_HINT = "see: joey --help"


def main(argv: list[str]) -> int:
    """Run one command line; returns the exit status. Errors are printed once, to stderr and the --log file."""
    try:
        return _main(argv)
    except JoeyError as error:
        _print_error(error)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _print_error(JoeyError(f"{where}{error.strerror or error}"))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if "--debug" in argv:
            raise
        hint = "a fault of joey's, not yours: `joey --debug ...` shows where it happened"
        _print_error(JoeyError(f"unexpected {type(error).__name__}: {error}", hint))
        return 1


def _main(argv: list[str]) -> int:
    shared = parse(GLOBAL_OPTIONS, argv, stop_at_word=True, hint=HELP_HINT)
    if shared.switch("version"):
        print(version(), end="")
        return 0
    if not shared.words:
        if shared.switch("help"):
            print(_help(), end="")
            return 0
        raise UsageError("no command given", HELP_HINT)
    if shared.switch("systemd-cgroup"):
        raise UsageError(
            "--systemd-cgroup: joey has no systemd cgroup driver",
            "use the cgroupfs driver: podman --cgroup-manager cgroupfs; containerd SystemdCgroup = false; "
            'docker "exec-opts": ["native.cgroupdriver=cgroupfs"]',
        )
    if shared.text("rootless") not in ("", "true", "false", "auto"):
        raise UsageError(f'--rootless: unknown value "{shared.text("rootless")}"', "values: true, false, auto")
    if shared.text("log-format") not in ("text", "json"):
        raise UsageError(f'--log-format: unknown format "{shared.text("log-format")}"', "formats: text, json")
    log.configure(shared.text("log"), shared.text("log-format"), shared.switch("debug"))
    name, *rest = shared.words
    if name == "help":
        print(_help_of(rest), end="")
        return 0
    command = load(name)
    if command.run is None and rest and rest[0] not in command.verbs and not rest[0].startswith("-"):
        raise UsageError(f'joey {name} has no "{rest[0]}"', "it has: " + ", ".join(command.shown))
    if rest and rest[0] in command.verbs:
        command = load_verb(command, rest.pop(0))
        name = command.name
    if shared.switch("help"):
        print(command.help(), end="")
        return 0
    hint = f"see: joey {name} --help"
    arguments = parse((*command.options, GLOBAL_OPTIONS[-1]), rest, command.stop_at_word, hint)
    if arguments.switch("help"):
        print(command.help(), end="")
        return 0
    count = len(arguments.words)
    if count < command.least or (command.most >= 0 and count > command.most):
        raise UsageError(f"usage: joey {name} {command.words}".rstrip() + f" ({count} given)", hint)
    arguments.shared = shared
    if command.run is None:
        raise UsageError(f"joey {name}: which of " + ", ".join(command.shown) + "?", hint)
    return command.run(arguments)


def version() -> str:
    """What --version prints, in runc's form."""
    return f"joey version {__version__}\nspec: 1.2.0\n"


def load(name: str) -> Command:
    """A command's module, imported. Raises UsageError for an unknown name."""
    for group in COMMANDS.values():
        if name in group:
            return _import(group[name][0])
    raise UsageError(f'unknown command "{name}"', HELP_HINT)


def load_verb(command: Command, verb: str) -> Command:
    """The module of a command's verb, imported."""
    return _import(command.verbs[verb][0])


def _import(name: str) -> Command:
    """What stands above this package is loaded by its name, and only when it is called for: no import goes upward."""
    module = f"{__package__.rpartition('.')[0]}.{name}" if "." in name else f"{__package__}.commands.{name}"
    __import__(module)
    command: Command = sys.modules[module].COMMAND
    return command


def _help_of(words: list[str]) -> str:
    if not words:
        return _help()
    command = load(words[0])
    return (load_verb(command, words[1]) if len(words) > 1 and words[1] in command.verbs else command).help()


def _help() -> str:
    parts = [
        "joey [global options] COMMAND [options] [words]\n\n"
        "Run OCI containers on Linux kernels from 2.6.32 to today's. joey tries what the kernel can do, picks a\n"
        "mechanism for each feature, says why, and then only executes."
    ]
    for title, group in COMMANDS.items():
        rows = "\n".join(f"  {name:<10} {summary}" for name, (_, summary) in group.items())
        parts.append(f"Commands to {title}:\n{rows}")
    parts.append("Global options:\n" + describe(GLOBAL_OPTIONS))
    parts.append(
        "Examples:\n  joey probe\n  joey plan -b BUNDLE\n  joey run -b BUNDLE mycontainer\n\n"
        "Exit status: that of the container for `run` and `exec`; 1 for an error, 2 for a wrong command line."
    )
    return "\n\n".join(parts) + "\n"


def _print_error(error: JoeyError) -> None:
    text = f"joey: {error.message}"
    if error.hint:
        text += f"\n  hint: {error.hint}"
    if not text.isprintable():  # names come from bundles and images: none of them gets to drive a terminal
        text = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
    sys.stdout.flush()
    os.write(2, text.encode("utf-8", "replace") + b"\n")
    log.write("error", error.message)
