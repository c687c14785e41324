"""What an application needs and how it starts, guessed from its files; every guess says why.

ELF files tell their interpreter, libraries and the C library's version. Others tell by their names and first lines.
Nothing of it runs.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..trees.entry import first_bytes, read, shown
from . import script, starters
from .elf import MAGIC, parse

if TYPE_CHECKING:
    from ..trees.entry import Entry, Tree

_HEAD = 256
_LARGEST_TEXT = 1 << 20
_MOST_ELF = 5000
_STARTERS = ("start.sh", "run.sh", "startup.sh", "entrypoint.sh", "docker-entrypoint.sh", "catalina.sh", "start", "run")
_USERS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"^[ \t]*User=([a-z_][a-z0-9_-]{0,31})[ \t]*$",
        r"--chuid[ =]([a-z_][a-z0-9_-]{0,31})\b",
        r"\brunuser -u ([a-z_][a-z0-9_-]{0,31})\b",
        r"\bsu (?:- ?|-l )?([a-z_][a-z0-9_-]{0,31}) -c\b",
        r"\b(?:gosu|setuidgid|su-exec) ([a-z_][a-z0-9_-]{0,31})\b",
    )
)
_CHECK = re.compile(r"(docker-)?health[-_]?check(\.sh|\.py)?|check[-_]?health(\.sh|\.py)?")
_WRITTEN = ("logs", "log", "data", "work", "temp", "tmp", "var", "cache", "uploads", "run")
_PORTS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r'<Connector\b[^<>]{0,500}?\bport="(\d{2,5})"',
        r"^[ \t]*server\.port[ \t]*[=:][ \t]*(\d{2,5})\b",
        r"^[ \t]*(?:http[._-]?|listen[._-]?|bind[._-]?)?port[ \t]*[=:][ \t]*[\"']?(\d{2,5})\b",
        r"^[ \t]*listen[ \t]+(?:[\d.*]{1,20}:)?(\d{2,5})\b",
        r"^EXPOSE[ \t]+(\d{2,5})",
    )
)
_OF_GLIBC = re.compile(r"(libc|libm|libdl|libpthread|librt|ld-linux)[.-]")
_CONFIGURATION = (".conf", ".cfg", ".ini", ".properties", ".xml", ".yml", ".yaml", ".toml", "Dockerfile")
_RUNTIMES = (
    (re.compile(rb"\.(jar|war)$"), "java", "it has Java archives", "a base image with a JRE"),
    (re.compile(rb"(^|/)package\.json$"), "node", "it has a package.json", "a base image with Node.js"),
    (re.compile(rb"(^|/)(requirements\.txt|pyproject\.toml|setup\.py)$"), "python", "it is Python", "python:3"),
    (re.compile(rb"(^|/)Gemfile$"), "ruby", "it has a Gemfile", "a base image with Ruby"),
    (re.compile(rb"\.runtimeconfig\.json$"), "dotnet", "it has a .runtimeconfig.json", "a base image with .NET"),
    (re.compile(rb"(^|/)composer\.json$"), "php", "it has a composer.json", "a base image with PHP"),
)  # fmt: skip


@dataclass
class Application:
    """`libraries` are those that none of its own files is; `missing` of them what a base does not have either."""

    programs: list[str] = field(default_factory=list)
    architecture: str = ""
    interpreters: dict[str, str] = field(default_factory=dict)  # of ELF and of scripts: path -> who wants it
    libraries: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)  # that env(1) looks for: name -> who wants it
    glibc: str = ""
    runtimes: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    working_directory: str = ""
    ports: dict[int, str] = field(default_factory=dict)
    volumes: dict[str, str] = field(default_factory=dict)
    user: str = ""
    health: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)

    @property
    def static(self) -> bool:
        """Whether it needs nothing but a kernel."""
        return bool(self.programs) and not (self.interpreters or self.libraries or self.runtimes)


def look(tree: Tree, prefix: bytes) -> Application:
    """What the files below a prefix need. Raises OSError, TreeError."""
    found = Application(working_directory=shown(prefix) if prefix else "/")
    own: set[str] = set()
    needed: dict[str, str] = {}
    executables: list[tuple[str, str]] = []
    count = 0
    for entry in tree.entries():
        name = entry.path.rpartition(b"/")[2].decode("utf-8", "replace")
        if entry.kind == "directory":
            if name in _WRITTEN and entry.path.count(b"/") <= prefix.count(b"/") + 2 and entry.path.startswith(prefix):
                found.volumes.setdefault(shown(entry.path), f"its name, {name}, is that of what programs write to")
            continue
        own.add(name)
        if entry.open is None or entry.first:
            continue
        for pattern, runtime, why, _ in _RUNTIMES:
            if pattern.search(entry.path):
                found.runtimes.setdefault(runtime, f"{why} ({shown(entry.path)})")
        head = first_bytes(entry, _HEAD)
        if head.startswith(MAGIC) and count < _MOST_ELF:
            count += 1
            if _elf(entry, found, needed) and entry.mode & 0o111:
                executables.append((shown(entry.path), "program"))
        elif head.startswith(script.MAGIC):
            path, command = script.interpreter(head)
            if path:
                found.interpreters.setdefault(path, f"the script {shown(entry.path)}")
            if command:
                found.commands.setdefault(command, f"the script {shown(entry.path)}")
            if entry.mode & 0o111:
                executables.append((shown(entry.path), "script"))
            if "user" not in found.reasons and entry.size < _LARGEST_TEXT:
                _user(tree, entry, found)
        elif name.endswith(".service") and entry.size < _LARGEST_TEXT:
            _user(tree, entry, found)
            _unit(tree, entry, found)
        elif name.endswith(_CONFIGURATION) and entry.size < _LARGEST_TEXT:
            _ports(tree, entry, found)
    found.libraries = {library: who for library, who in needed.items() if library not in own}
    found.programs = [path for path, kind in executables if kind == "program"]
    _entrypoint(tree, found, executables, prefix)
    found.reasons.setdefault("user", "no unit and no script of its names another")
    _health(found, executables)
    _advise(found)
    return found


def _elf(entry: Entry, found: Application, needed: dict[str, str]) -> bool:
    """Note what an ELF file needs; whether it is a program."""
    elf = parse(entry)
    if elf is None:
        return False
    who = shown(entry.path)
    found.architecture = found.architecture or elf.architecture
    if elf.interpreter:
        found.interpreters.setdefault(elf.interpreter, who)
    for library in elf.libraries:
        needed.setdefault(library, who)
    for version in elf.versions:
        _glibc(found, version)
    return elf.program


def _glibc(found: Application, name: str) -> None:
    match = re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", name)
    if match:
        version = f"{match[1]}.{match[2]}"
        if not found.glibc or _parts(version) > _parts(found.glibc):
            found.glibc = version


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _ports(tree: Tree, entry: Entry, found: Application) -> None:
    data = (read(tree, entry.path, _LARGEST_TEXT) or b"").decode("utf-8", "replace")
    for pattern in _PORTS:
        for number in pattern.findall(data)[:20]:
            if 0 < int(number) < 65536:
                found.ports.setdefault(int(number), shown(entry.path))


def _entrypoint(tree: Tree, found: Application, executables: list[tuple[str, str]], prefix: bytes) -> None:
    """Which of its executables starts it."""
    name = prefix.rpartition(b"/")[2].decode("utf-8", "replace")
    stem = re.split(r"[-_.]\d", name)[0]
    places = [(path, path.rpartition("/")[2]) for path, _ in executables]
    shallow = [path for path, _ in places if path.count("/") <= prefix.count(b"/") + 3]
    if started := found.reasons.pop("unit", ""):
        unit, _, command = started.partition(": ")
        found.entrypoint, found.reasons["entrypoint"] = shlex.split(command), f"{unit} starts it so"
        return
    if start := starters.by_procfile(tree, prefix):
        found.entrypoint, found.reasons["entrypoint"] = start.command, start.why
        return
    for wanted in (name, stem, f"{stem}.sh", f"{stem}d"):
        for path, last in places:
            if wanted and last == wanted and path in shallow:
                found.entrypoint, why = [path], f"it is called {last}, like the application"
                found.reasons["entrypoint"] = why
                return
    for wanted in _STARTERS:
        for path, last in places:
            if last == wanted and path in shallow:
                found.entrypoint = [path, "run"] if wanted == "catalina.sh" else [path]
                found.reasons["entrypoint"] = f"{last} is a usual name for what starts an application"
                return
    if start := starters.by_runtime(tree, prefix, found.runtimes):
        found.entrypoint, found.reasons["entrypoint"] = start.command, start.why
        for number, where in start.ports.items():
            found.ports.setdefault(number, where)
        return
    programs = [path for path, kind in executables if kind == "program" and ".so" not in path.rpartition("/")[2]]
    for group, what in ((programs, "program"), ([path for path, _ in executables], "executable")):
        if len(group) == 1:
            found.entrypoint = [group[0]]
            found.reasons["entrypoint"] = f"it is the only {what} there"
            return
    found.reasons["entrypoint"] = "no file tells how it starts: name it" if not executables else (
        f"one of {len(executables)} executables, and none stands out: name it"
    )  # fmt: skip


def _user(tree: Tree, entry: Entry, found: Application) -> None:
    """Whom its unit or script runs it as. Only told: its files are root's, and a base need not know that name."""
    data = (read(tree, entry.path, _LARGEST_TEXT) or b"").decode("utf-8", "replace")
    for pattern in _USERS:
        if (match := pattern.search(data)) and match[1] != "root":
            found.reasons["user"] = f"{shown(entry.path)} runs it as {match[1]}: name that user, where the base has it"
            return


def _unit(tree: Tree, entry: Entry, found: Application) -> None:
    """What a unit starts; several units say nothing."""
    data = (read(tree, entry.path, _LARGEST_TEXT) or b"").decode("utf-8", "replace")
    commands = re.findall(r"^[ \t]*ExecStart=[-@:+!]{0,3}(/[^\n\\$%]{1,1000})$", data, re.MULTILINE)
    try:
        words = shlex.split(commands[0]) if len(commands) == 1 else []
    except ValueError:
        words = []
    if not words:
        return
    several = "unit" in found.reasons or "units" in found.reasons
    found.reasons.pop("unit", "")
    if several:
        found.reasons["units"] = "several units start something"
    else:
        found.reasons["unit"] = f"{shown(entry.path)}: {commands[0]}"


def _health(found: Application, executables: list[tuple[str, str]]) -> None:
    """What tells whether it is well: a check of its own, else whether somebody listens on its port."""
    own = [path for path, _ in executables if _CHECK.fullmatch(path.rpartition("/")[2])]
    if own:
        found.health = ["CMD", own[0]]
        found.reasons["health"] = f"{own[0].rpartition('/')[2]} is a usual name for a check"
    elif found.ports:
        port = min(found.ports, key=lambda number: (number not in (80, 443, 8080, 8443), number))
        words = f"nc -z 127.0.0.1 {port} 2>/dev/null || bash -c ': </dev/tcp/127.0.0.1/{port}'"
        found.health = ["CMD-SHELL", words]
        found.reasons["health"] = (
            f"whether somebody listens on {port}, by nc or bash: a page of its own would tell more"
        )
    else:
        found.reasons["health"] = "it has no check of its own, and no port is known"


def _advise(found: Application) -> None:
    for _, runtime, _, base in _RUNTIMES:
        if runtime in found.runtimes:
            found.advice.append(f"{found.runtimes[runtime]}: {base}")
    loaders = [path for path in found.interpreters if "ld-linux" in path or "ld-musl" in path or "/ld.so" in path]
    if any("ld-musl" in path for path in loaders):
        found.advice.append("its programs are linked with musl: alpine")
    elif loaders:
        version = f" {found.glibc} or later" if found.glibc else ""
        found.advice.append(f"its programs want glibc{version}: debian:12-slim has 2.36")
    scripts = [path for path in (*found.interpreters, *found.commands) if path not in loaders]
    if scripts:
        found.advice.append("its scripts want " + ", ".join(scripts[:5]))
    others = [
        library
        for library in found.libraries
        if not re.match(r"(libc|libm|libdl|libpthread|librt|ld-linux)[.-]", library)
    ]
    if others:
        found.advice.append("libraries that are not its own: " + ", ".join(sorted(others)[:10]))
    if found.static:
        found.advice.append("its programs are static: it needs no base")
