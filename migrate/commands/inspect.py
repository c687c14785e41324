"""`joey migrate inspect`: what a machine is and does, and how well it fits into a container."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...compat.files import write_atomically
from ...runtime.options import Arguments, Command, Option
from ...runtime.tables import Table, plain
from ..inventory.page import page
from ..inventory.take import take
from ..progress import Progress
from ..sizes import shown_size
from ..sources.open import source_of
from ..work import Work
from .migrate import SOURCE_OPTIONS, options_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..inventory.application import Application
    from ..inventory.model import Inventory

_ROWS = 15  # of a table for people


def run(arguments: Arguments) -> int:
    with (
        Progress() as progress,
        Work(arguments.words, arguments.text("work")) as place,
        source_of(arguments.words, options_of(arguments, place), progress.share) as opened,
    ):
        if opened.application is not None:
            return _application(opened.application, arguments.switch("json"))
        progress.stage("taking the inventory")
        found = take(opened)
    if target := arguments.text("html"):
        write_atomically(target, page(found), 0o644)
    if arguments.switch("json"):
        print(json.dumps(found.as_json(), indent=2))
    elif not target:
        _show(found)
    return 0


def _application(found: Application, as_json: bool) -> int:
    """What an application needs, and how it seems to start."""
    if as_json:
        print(json.dumps({**asdict(found), "static": found.static}, indent=2))
        return 0
    starts = " ".join(found.entrypoint) or "not known"
    table = Table("", "what", "found", "why")
    table.add("starts by", starts, found.reasons.get("entrypoint", ""))
    table.add("architecture", found.architecture, "")
    table.add("runs as", found.user or "root", found.reasons.get("user", ""))
    table.add("is well by", " ".join(found.health) or "not known", found.reasons.get("health", ""))
    for kind, rows in (
        ("interpreter", found.interpreters), ("library", found.libraries),
        ("command", found.commands), ("runtime", found.runtimes),
        ("port", {str(number): where for number, where in found.ports.items()}), ("volume", found.volumes),
    ):  # fmt: skip
        for what, why in list(rows.items())[:_ROWS]:
            table.add(kind, what, why)
    table.print()
    for line in found.advice:
        print(f"base: {plain(line)}")
    return 0


def _show(found: Inventory) -> None:
    system = Table(found.source, "what", "value")
    for what, value in (
        ("distribution", found.distribution),
        ("architecture", found.architecture),
        ("host name", found.hostname),
        ("init", ", starts into ".join(filter(None, (found.init, found.runlevel))) or "none"),
        ("kernels", ", ".join(found.kernels)),
        ("time zone", found.time_zone),
        ("SELinux", found.selinux),
        ("packages", f"{len(found.packages)} ({found.package_manager})" if found.packages else "none"),
        ("groups", str(found.groups)),
        ("files", f"{found.entries} entries, {shown_size(found.size)}"),
    ):
        if value:
            system.add(what, value)
    system.print()
    own = [service for service in found.services if not service.hardware]
    _table("services that start", "name kind user command", [(s.name, s.kind, s.user, s.command) for s in own])
    ports = [(f"{p.number}/{p.protocol}", p.service, p.where) for p in found.ports]
    _table("ports, as configured", "port service where", ports)
    people = [(a.name, str(a.uid), a.home, a.shell, "yes" if a.password else "no", str(a.keys)) for a in found.accounts]
    _table("accounts", "name uid home shell password keys", people)
    _table("cron and at", "where user when command", [(j.where, j.user, j.when, j.command) for j in found.jobs])
    _table("mounts", "device at type", [(m["device"], m["target"], m["type"]) for m in found.mounts])
    _table("databases", "kind path size", [(d.kind, d.path, shown_size(d.size)) for d in found.databases])
    _table("large data of its own", "path size", [(d.path, shown_size(d.size)) for d in found.data])
    _table("certificates and secrets", "kind path", [(s.kind, s.path) for s in found.secrets])
    _table("settings", "about lines", [(about, "; ".join(lines[:3])) for about, lines in found.settings.items()])
    sizes = sorted(found.sizes.items(), key=lambda item: -item[1])[:_ROWS]
    _table("largest folders", "path size", [(path, shown_size(size)) for path, size in sizes])
    for line in found.notes:
        print(f"note: {plain(line)}")
    rules = Table(f"fit for a container: {found.score} of 10", "rule", "kind", "takes", "why")
    for rule in found.rules:
        rules.add(str(rule["rule"]), str(rule["kind"]), str(rule["takes"]), str(rule["why"]))
    rules.print()


def _table(title: str, header: str, rows: Iterable[tuple[str, ...]]) -> None:
    rows = [tuple(_short(cell) for cell in row) for row in rows]
    if not rows:
        return
    more = len(rows) - _ROWS
    table = Table(title + (f" ({more} more: --json)" if more > 0 else ""), *header.split())
    for row in rows[:_ROWS]:
        table.add(*row)
    table.print()


def _short(cell: str) -> str:
    return cell if len(cell) <= 90 else cell[:87] + "..."


COMMAND = Command(
    "migrate inspect",
    "show what a machine is and does, and how well it fits into a container",
    run,
    words="SOURCE...",
    least=1,
    most=-1,
    options=(
        Option("--json", "", "print everything as JSON"),
        Option("--html", "FILE", "write one self-contained page to hand around"),
        *SOURCE_OPTIONS,
    ),
    detail=(
        "Nothing is written and nothing of the source runs. Secrets are told by kind and place; their contents are\n"
        "not read. The score is 10 less what each rule takes; a blocker makes it 0."
    ),
    examples=("joey migrate inspect web1.qcow2", "joey migrate inspect root.vmdk data.vmdk --html db1.html"),
)
