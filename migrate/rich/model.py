"""What a rich container is: what was asked for, kept as rich.json. Every field has the default of what is not asked."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any

from ...compat.errors import JoeyError, UsageError
from ...compat.files import read_text, write_atomically

SCHEMA = 1
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PHASES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
          "before-init", "after-services", "before-stop", "on-upgrade")  # fmt: skip
PLACES = ("host", "container")
POLICIES = ("no", "on-failure", "always", "unless-stopped")
BY_RUNTIME = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@dataclass
class Hook:
    """A command at a phase of a container's life. `failure`: "fail" ends the start, "ignore" is only logged."""

    phase: str
    command: list[str]
    place: str = "host"
    seconds: int = 60
    failure: str = "fail"


@dataclass
class Volume:
    """`source`: a host's absolute path, or a volume's name; "" for a tmpfs."""

    source: str
    destination: str
    options: list[str] = field(default_factory=list)


@dataclass
class Health:
    command: list[str]
    interval: float = 30.0
    seconds: float = 30.0
    retries: int = 3
    start: float = 0.0


@dataclass
class Rich:
    """A container. `asked` is the init that was asked for, `init` the one it has. `lower` is the image's files;
    what was written to them is in the container's folder."""

    name: str
    lower: str
    image: str = ""
    init: str = "none"
    asked: str = "auto"
    argv: list[str] = field(default_factory=list)
    user: dict[str, Any] = field(default_factory=dict)
    cwd: str = "/"
    env: dict[str, str] = field(default_factory=dict)
    hostname: str = ""
    networks: list[str] = field(default_factory=list)
    ports: list[str] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    quotas: list[str] = field(default_factory=list)
    memory: int = 0
    cpus: float = 0.0
    pids: int = 0
    io_weight: int = 0
    io: dict[str, dict[str, int]] = field(default_factory=dict)  # option -> path -> rate
    views: bool = False
    privileged: bool = False
    id_map: str = ""
    capabilities: list[str] = field(default_factory=list)
    hooks: list[Hook] = field(default_factory=list)
    scripts: str = ""
    restart: str = "no"
    most_restarts: int = 0
    wait: list[str] = field(default_factory=list)
    wait_seconds: float = 120.0
    stop_seconds: float = 30.0
    stop_signal: int = 0
    health: Health | None = None
    fixes: bool = True
    beside: dict[str, list[str]] = field(default_factory=dict)  # services joey adds: name -> command
    labels: dict[str, str] = field(default_factory=dict)
    isolation: str = "container"  # or "vm"
    kernel: str = ""  # vm: a kernel that was named
    accel: str = "auto"  # vm: kvm, tcg, or what works
    policy: str = ""
    force: list[str] = field(default_factory=list)
    created: str = ""

    def save(self, path: str) -> None:
        value = {"schema": SCHEMA, **dataclasses.asdict(self)}
        write_atomically(path, json.dumps(value, indent=1) + "\n")


def load(path: str) -> Rich:
    """Raises OSError, JoeyError for what is no such file."""
    try:
        value = json.loads(read_text(path))
        if value.pop("schema") != SCHEMA:
            raise JoeyError(f"{path} is of another joey", "use the version that made it")
        if newer := sorted(value.keys() - {field.name for field in dataclasses.fields(Rich)}):
            raise JoeyError(f"{path} is of a newer joey: it has {', '.join(newer)}", "use the version that made it")
        value["hooks"] = [Hook(**item) for item in value["hooks"]]
        value["volumes"] = [Volume(**item) for item in value["volumes"]]
        value["health"] = Health(**value["health"]) if value.get("health") else None
        return Rich(**value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise JoeyError(f"{path} is damaged: {error}", "`joey rich rm --force` removes the container") from None


def check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(f'"{name}" is no name for a container', "letters, digits, _ . and -, 63 at most")


def parse_variable(word: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME for what it is here. The value is all behind the first "="."""
    name, equals, value = word.partition("=")
    if not _VARIABLE.fullmatch(name):
        raise UsageError(f'--env: "{word}" is not NAME=VALUE')
    if "\n" in value or "\0" in value:
        raise UsageError(f"--env: the value of {name} has a line break, which no login session can be given")
    return name, value if equals else os.environ.get(name, "")


def parse_volume(word: str) -> Volume:
    """SOURCE:DESTINATION[:OPTIONS], DESTINATION alone for a tmpfs."""
    parts = word.split(":")
    if len(parts) == 1:
        parts = ["", *parts]
    source, destination = parts[0], parts[1]
    options = parts[2].split(",") if len(parts) > 2 else []
    known = {"ro", "rw", "nosuid", "nodev", "noexec", "nocopy", "rbind", "bind"}
    bad = [option for option in options if option not in known and not option.startswith(("size=", "mode="))]
    if len(parts) > 3 or not destination.startswith("/") or ".." in destination.split("/") or bad:
        raise UsageError(
            f'--volume: "{word}" is not SOURCE:DESTINATION[:OPTIONS]', "options: " + ", ".join(sorted(known))
        )
    if source and not source.startswith("/"):
        check_name(source)
    return Volume(source, destination, options)


def parse_port(word: str) -> tuple[str, int, int, str]:
    """[ADDRESS:]HOST:CONTAINER[/tcp|/udp] as address ("" for all), host's port, container's port, protocol."""
    import ipaddress

    head, _, protocol = word.partition("/")
    address, _, rest = head.rpartition(":")
    address, _, outer = address.rpartition(":")
    ports = [int(text) if text.isdigit() else 0 for text in (outer, rest)]
    try:
        if address:
            ipaddress.IPv4Address(address)
    except ValueError:
        ports = [0, 0]
    if not all(0 < port < 65536 for port in ports) or protocol not in ("", "tcp", "udp"):
        raise UsageError(f'--publish: "{word}" is not [ADDRESS:]HOST:CONTAINER[/tcp|/udp]')
    return address, ports[0], ports[1], protocol or "tcp"


def parse_hook(word: str) -> Hook:
    """PHASE[,place=host|container][,seconds=N][,failure=fail|ignore]:COMMAND, the command as a shell has it."""
    import shlex

    head, colon, command = word.partition(":")
    phase, *settings = head.split(",")
    if not colon or phase not in PHASES:
        raise UsageError(f'--hook: "{word}" is not PHASE[,SETTING...]:COMMAND', "phases: " + ", ".join(PHASES))
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f'--hook: "{command}": {error}') from None
    inside = phase in ("before-init", "after-services", "before-stop", "startContainer")
    hook = Hook(phase, words, "container" if inside else "host")
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "place" and value in PLACES:
            hook.place = value
        elif key == "seconds" and value.isdigit() and int(value):
            hook.seconds = int(value)
        elif key == "failure" and value in ("fail", "ignore"):
            hook.failure = value
        else:
            raise UsageError(
                f'--hook: unknown setting "{setting}"', "place=host|container, seconds=N, failure=fail|ignore"
            )
    if not words:
        raise UsageError(f'--hook: "{word}" has no command')
    fixed = {"prestart": "host", "createRuntime": "host", "poststart": "host", "poststop": "host",
             "createContainer": "host", "startContainer": "container", "on-upgrade": "host"}  # fmt: skip
    if fixed.get(phase, hook.place) != hook.place:
        raise UsageError(f"--hook: {phase} runs on the {fixed[phase]}")
    return hook


def parse_id_map(word: str) -> tuple[int, int]:
    """HOST[:COUNT]: the container's ids from 0 on are the host's from there on."""
    host, colon, count = word.partition(":")
    found = int(host) if host.isdigit() else 0, int(count) if count.isdigit() else 0 if colon else 65536
    if not 0 < found[0] < 1 << 31 or not 0 < found[1] < 1 << 31:
        raise UsageError(f'--id-map: "{word}" is not HOST[:COUNT]', "for instance 100000:65536")
    return found


def parse_restart(word: str) -> tuple[str, int]:
    policy, colon, most = word.partition(":")
    if policy not in POLICIES or (colon and not (policy == "on-failure" and most.isdigit())):
        raise UsageError(f'--restart: unknown policy "{word}"', "no, on-failure[:N], always, unless-stopped")
    return policy, int(most) if most else 0
