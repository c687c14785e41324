"""What is wrong with joey on this host, and what helps: its own files, the kernel, containers, networks, leftovers.

Nothing is changed but by `mend`, which puts back what a reloaded firewall or a killed name server took from a network.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__
from ..compat import files, jsonio
from ..compat.errors import JoeyError
from ..compat.network import links, names, nat
from ..compat.network.leases import FOLDER as NETWORKS
from ..compat.network.leases import Leases
from ..probes.cache import cached_or_probed
from ..probes.plan import plan
from ..runtime import bundle as bundles
from ..runtime import state as states
from ..runtime.commands.spec import template
from ..runtime.needs import needs

if TYPE_CHECKING:
    from collections.abc import Iterator

WELL, NOTE, PROBLEM = "well", "note", "problem"
_ROOM, _LITTLE = 1 << 30, 100 << 20
# programs of the host that joey uses where they are, and what is lost without them
_PROGRAMS = {
    "iptables nft": "bridges lead nowhere beyond the host",
    "fuse-overlayfs": "layers are copied where the kernel has no overlay",
    "lxcfs": "joey's own process shows a container its memory and CPUs",
    "criu": "no checkpoint and restore",
    "newuidmap": "plain users get one id in their containers",
    "mkfs.ext4": "no disk quota by a file system in a file",
    "qemu-system-x86_64": "no --isolation vm",
}


class Note(NamedTuple):
    """`state`: well, note or problem. `help`: what to do."""

    check: str
    state: str
    what: str
    help: str = ""


def examine(root: str, store: str) -> list[Note]:
    """All that is found, `root` and `store` being where containers and rich containers are. Raises nothing."""
    found: list[Note] = []
    for look in (_itself, _kernel, _room, _programs):
        found += _safely(look.__name__.strip("_"), look)
    found += _safely("containers", lambda: _containers(root))
    if os.geteuid() == 0:
        found += _safely("rich containers", lambda: _rich(store))
        found += _safely("networks", lambda: _networks(mend=False))
        found += _safely("control groups", lambda: _groups(root, store))
    return found


def mend() -> list[Note]:
    """Put back what can be, of networks. Needs root."""
    return _safely("networks", lambda: _networks(mend=True))


def _safely(check: str, look: Any) -> list[Note]:
    try:
        found = list(look())
    except (JoeyError, OSError, ValueError, LookupError) as error:
        return [Note(check, PROBLEM, f"it can't be looked at: {error}")]
    return found


def _itself() -> Iterator[Note]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Note("joey", WELL, f"joey {__version__}, Python {python}")
    kit = os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))
    try:
        lines = files.read_text(f"{kit}/SHA256SUMS").splitlines()
    except OSError:
        return  # not of a kit
    bad = []
    for line in lines:
        digest, _, name = line.partition("  ./")
        try:
            with open(f"{kit}/{name}", "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    bad.append(name)
        except OSError:
            bad.append(name)
    if bad:
        yield Note(
            "host kit", PROBLEM, f"{len(bad)} files of {kit} are not what they were: {bad[0]}", "unpack it again"
        )
    else:
        yield Note("host kit", WELL, f"{kit}: {len(lines)} files are what they were")


def _kernel() -> Iterator[Note]:
    report = cached_or_probed()
    release = report.machine.get("release", "")
    usual = bundles.parse("/bundle", jsonio.dumps(template()), "config.json")
    strict = plan(report, needs(usual), "strict")
    if not strict.refusals:
        yield Note(
            "kernel", WELL, f"Linux {release}: the usual bundle runs, with {len(strict.losses)} losses", "joey plan"
        )
        return
    choice = strict.refusals[0]
    what = f"Linux {release}: {choice.feature}: {choice.reason}"
    if plan(report, needs(usual), "permissive").refusals:
        yield Note("kernel", PROBLEM, what, "joey probe; joey plan -b BUNDLE")
    else:
        yield Note(
            "kernel", NOTE, f"{what} (refused under the strict policy)", "--policy permissive, if that is enough"
        )


def _room() -> Iterator[Note]:
    places = ("/var/lib/joey", "/run/joey") if os.geteuid() == 0 else (os.path.expanduser("~/.local/share"),)
    for place in places:
        there = place
        while not os.path.isdir(there):
            there = os.path.dirname(there)
        free = os.statvfs(there)
        size = free.f_bavail * free.f_frsize
        state = PROBLEM if size < _LITTLE else NOTE if size < _ROOM and place != "/run/joey" else WELL
        if not os.access(there, os.W_OK):
            yield Note("room", PROBLEM, f"{there} can't be written to", "mount it for writing")
        else:
            yield Note("room", state, f"{place}: {size >> 20} MiB are free", "" if state == WELL else "make room there")


def _programs() -> Iterator[Note]:
    for words, lost in _PROGRAMS.items():
        if not any(files.find_program(name) for name in words.split()):
            yield Note(
                "programs", NOTE, f"there is no {words.replace(' ', ' or ')}: {lost}", "install it, if that is wanted"
            )


def _containers(root: str) -> Iterator[Note]:
    running = 0
    for name in sorted(os.listdir(root)) if os.path.isdir(root) else []:
        if not os.path.isdir(f"{root}/{name}"):
            continue
        try:
            state = states.load(root, name)
        except JoeyError as error:
            if os.path.isdir(f"{root}/{name}"):
                yield Note("containers", PROBLEM, f"{name}: {error}", f"joey --root {root} delete --force {name}")
            continue
        status = state.status()
        running += status == "running"
        if status == "creating" and time.time() - os.stat(state.folder).st_mtime > 60:
            what = f"{name} is being made since more than a minute, by a joey that was killed"
            yield Note("containers", PROBLEM, what, f"joey --root {root} delete --force {name}")
        elif status == "stopped":
            yield Note("containers", NOTE, f"{name} has ended", f"joey --root {root} delete {name}")
    yield Note("containers", WELL, f"{root}: {running} running")


def _rich(path: str) -> Iterator[Note]:
    from .rich.store import RUNNING, Store

    store = Store(path)
    running = 0
    for container in store.all():
        name, status = container.name, container.status()
        try:
            life, rich = container.life(), container.rich()
        except JoeyError as error:
            yield Note("rich containers", PROBLEM, f"{name}: {error}", error.hint)
            continue
        running += status == "running"
        if life.wanted == RUNNING and status == "stopped":
            what = f"{name} should run, and does not: {life.error or 'the host was down'}"
            yield Note("rich containers", PROBLEM, what, f"joey rich logs {name}; joey rich start {name}")
        elif status in ("running", "paused") and not container.supervisor():
            what = f"{name} runs without a supervisor: its log is not kept, and nobody starts it again"
            yield Note("rich containers", PROBLEM, what, f"joey rich start {name}")
        elif status == "restarting" and life.restarts > 2:
            what = f"{name} was started {life.restarts} times again"
            yield Note("rich containers", PROBLEM, what, f"joey rich logs {name}")
        if life.health == "unhealthy":
            yield Note("rich containers", PROBLEM, f"{name} is not well by its health check", f"joey rich logs {name}")
        if status == "running" and life.error:
            yield Note("rich containers", NOTE, f"{name}: {life.error}", f"joey rich logs {name}")
        if os.path.isdir(f"{container.folder}/before"):
            what = f"{name} has an upgrade that is not confirmed; what was before takes room"
            yield Note("rich containers", NOTE, what, f"joey rich confirm {name}, or rollback")
        if not os.path.isdir(rich.lower):
            yield Note(
                "rich containers", PROBLEM, f"{name}: {rich.lower}, its image's files, is gone", "joey rich upgrade"
            )
    yield Note("rich containers", WELL, f"{store.path}: {running} running")


def _networks(mend: bool) -> Iterator[Note]:
    for name in sorted(os.listdir(NETWORKS)) if os.path.isdir(NETWORKS) else []:
        if name.startswith("."):
            continue
        leases = Leases(name)
        with leases.locked():
            record = leases.record()
            if record is None or not leases.taken():
                continue
            yield from _network(leases, name, record, mend)


def _network(leases: Leases, name: str, record: dict[str, Any], mend: bool) -> Iterator[Note]:
    cure = "" if mend else "joey doctor --mend"
    if not links.is_bridge(name):
        yield Note("networks", PROBLEM, f"the bridge {name} is gone, and containers are on it", "start them again")
        return
    well = True
    way = record.get("nat", "")
    if way and not nat.is_open(way, name, record["subnet"]):
        well = False
        if mend:
            nat.open_way(way, name, record["subnet"])
            nat.open_names(way if record.get("names") else "", name, record["gateway"])
        what = f"{name} does not lead beyond the host: the firewall was loaded anew"
        yield Note("networks", NOTE if mend else PROBLEM, what + ("; mended" if mend else ""), cure)
    if record.get("names") and not names.lives(record["names"]):
        well = False
        if mend:
            leases.keep(names.ensure(leases, record))
        what = f"the name server of {name} has ended"
        yield Note("networks", NOTE if mend else PROBLEM, what + ("; mended" if mend else ""), cure)
    if well:
        yield Note("networks", WELL, f"{name}: {record['subnet']}, {len(leases.holders())} containers")


def _groups(root: str, store: str) -> Iterator[Note]:
    """Groups below joey's own without a process, of no container that is known here."""
    from .rich.store import Store

    rich = Store(store)
    known = {state.id for state in states.all_states(root)} | {f"rich-{each.name}" for each in rich.all()}
    known |= {f"{os.path.basename(rich.runtime)}-{each.name}" for each in rich.all()}
    left = []
    for mount in files.mounts():
        if mount.fstype not in ("cgroup", "cgroup2") or not os.path.isdir(f"{mount.target}/joey"):
            continue
        for name in os.listdir(f"{mount.target}/joey"):
            path = f"{mount.target}/joey/{name}"
            if os.path.isdir(path) and name not in known and not _processes(path):
                left.append(path)
    if left:
        yield Note("control groups", NOTE, f"{len(left)} without a process, of no container here: {left[0]}",
                   f"find {re.sub(r'/[^/]*$', '', left[0])} -depth -mindepth 1 -type d -exec rmdir {{}} +")  # fmt: skip


def _processes(path: str) -> bool:
    for folder, _, _ in os.walk(path):
        try:
            if files.read_text(f"{folder}/cgroup.procs").strip():
                return True
        except (OSError, ValueError):
            return True  # it can't be told
    return False
