"""What an inventory holds. Everything is plain data, so that it can be saved, compared and shown anywhere."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Service:
    """Something that the machine starts: `kind` is its init's ("systemd", "sysvinit", ...); `command` as configured."""

    name: str
    kind: str
    command: str = ""
    user: str = ""
    hardware: bool = False  # for a machine's hardware or its start, and of no use in a container


@dataclass
class Port:
    """A port that a service is configured to listen on; `where` says which file says so."""

    number: int
    protocol: str
    service: str
    where: str


@dataclass
class Account:
    name: str
    uid: int
    gid: int
    home: str
    shell: str
    password: bool  # whether it can be logged in with by a password
    keys: int  # lines of its authorized_keys


@dataclass
class Job:
    """A line of cron or a file of at: `when` as written."""

    where: str
    user: str
    when: str
    command: str


@dataclass
class Found:
    """Something found at a path: a database, a log folder, a key; `size` in bytes, 0 where it does not matter."""

    kind: str
    path: str
    size: int = 0
    note: str = ""


@dataclass
class Inventory:
    """One machine. `sizes` are bytes by folder, two levels deep; `settings` everything that is a few lines of text."""

    source: str = ""
    distribution: str = ""
    distribution_id: str = ""
    release: str = ""
    architecture: str = ""
    hostname: str = ""
    init: str = ""
    runlevel: str = ""
    time_zone: str = ""
    selinux: str = ""
    kernels: list[str] = field(default_factory=list)
    package_manager: str = ""
    packages: list[dict[str, str]] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)
    ports: list[Port] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    groups: int = 0
    sudo: list[str] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    mounts: list[dict[str, str]] = field(default_factory=list)
    databases: list[Found] = field(default_factory=list)
    logs: list[Found] = field(default_factory=list)
    secrets: list[Found] = field(default_factory=list)
    data: list[Found] = field(default_factory=list)
    settings: dict[str, list[str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    entries: int = 0
    size: int = 0
    notes: list[str] = field(default_factory=list)
    score: int = 0
    rules: list[dict[str, str | int]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)
