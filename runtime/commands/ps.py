"""`joey ps`: a container's processes, read from its cgroups and /proc."""

from __future__ import annotations

import os
import time

from ...compat import files, jsonio, process
from ...compat.errors import StateError, UsageError
from .. import members
from ..options import Arguments, Command, Option
from .common import container_of
from .list import print_table
from .state import owner_name

_PPID, _TTY, _UTIME, _STIME, _START = 1, 4, 11, 12, 19  # of proc(5)'s stat, from the state on


def run(arguments: Arguments) -> int:
    state = container_of(arguments)
    pids = members.pids(state)
    if arguments.text("format") == "json":
        print(jsonio.dumps(pids or None))
        return 0
    if arguments.text("format") != "table":
        raise UsageError(f'--format: unknown format "{arguments.text("format")}"', "formats: table, json")
    if len(arguments.words) > 1:
        return _by_program(pids, arguments.words[1:])
    print_table([["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], *filter(None, map(_row, pids))])
    return 0


def _row(pid: int) -> list[str]:
    """A process as ps(1) -f shows it; empty where it has ended."""
    try:
        name, fields = process.stat(pid)
        uid = os.stat(f"/proc/{pid}").st_uid
        words = files.read_text(f"/proc/{pid}/cmdline").split("\0")
        up = float(files.read_line("/proc/uptime").split()[0])
    except OSError:
        return []
    if not fields:
        return []
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(fields[_UTIME]) + int(fields[_STIME])) // ticks
    lived = max(up - int(fields[_START]) / ticks, 0.0)
    began = time.time() - lived
    begun = time.strftime(
        "%H:%M" if time.localtime(began)[:3] == time.localtime()[:3] else "%b%d", time.localtime(began)
    )
    spent = f"{used // 3600:02}:{used // 60 % 60:02}:{used % 60:02}"
    share = str(min(int(100 * used / lived), 99)) if lived >= 1 else "0"
    command = " ".join(words).strip() or f"[{name}]"
    return [
        owner_name(uid) or str(uid),
        str(pid),
        fields[_PPID],
        share,
        begun,
        _terminal(int(fields[_TTY])),
        spent,
        command,
    ]


def _terminal(number: int) -> str:
    """The name of a terminal by its device number. Source: the kernel's admin-guide/devices.txt."""
    major, minor = os.major(number), os.minor(number)
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return "?" if not number else "console" if (major, minor) == (5, 1) else f"{major}:{minor}"


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
