"""`joey ps`: a container's processes, read from its cgroups and /proc."""

from __future__ import annotations

from ...compat import files, jsonio
from ...compat.errors import StateError, UsageError
from .. import members
from ..options import Arguments, Command, Option
from .common import container_of
from .list import print_table


def run(arguments: Arguments) -> int:
    state = container_of(arguments)
    pids = members.pids(state)
    if arguments.text("format") == "json":
        print(jsonio.dumps(pids))
        return 0
    if arguments.text("format") != "table":
        raise UsageError(f'--format: unknown format "{arguments.text("format")}"', "formats: table, json")
    if len(arguments.words) > 1:
        return _by_program(pids, arguments.words[1:])
    table = [["UID", "PID", "PPID", "STATE", "COMMAND"]]
    for pid in pids:
        row = _row(pid)
        if row:
            table.append(row)
    print_table(table)
    return 0


def _row(pid: int) -> list[str]:
    try:
        fields = {}
        for line in files.read_text(f"/proc/{pid}/status").splitlines():
            name, _, value = line.partition(":")
            fields[name] = value.split()
        words = files.read_text(f"/proc/{pid}/cmdline").split("\0")
    except OSError:
        return []
    command = " ".join(words).strip() or f"[{fields['Name'][0]}]"
    return [fields["Uid"][0], str(pid), fields["PPid"][0], fields["State"][0], command]


def _by_program(pids: list[int], words: list[str]) -> int:
    """Filter ps(1)'s own output by the PID column, as runc does."""
    import subprocess

    try:
        text = subprocess.run(["ps", *words], check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        raise StateError("ps(1) is not installed", "leave out its options for joey's own table") from None
    except subprocess.CalledProcessError as error:
        raise StateError(f"ps {' '.join(words)}: {error.stderr.strip()}") from None
    lines = text.splitlines()
    header = lines[0].split()
    if "PID" not in header:
        raise StateError("ps printed no PID column", "add one to its options")
    column = header.index("PID")
    print(lines[0])
    for line in lines[1:]:
        fields = line.split()
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            print(line)
    return 0


COMMAND = Command(
    "ps",
    "list the processes of a container",
    run,
    words="ID [PS OPTIONS]",
    least=1,
    most=-1,
    options=(Option("--format -f", "FORMAT", "table or json (host pids)", default="table"),),
    stop_at_word=True,
    examples=("joey ps web", "joey ps web -ef"),
)
