"""What a host's kernel can do, from outside: nothing is installed there, and nothing stays.

By the best of: the host kit, where it is deployed; joey itself, sent to a Python of 3.11 or later and loaded from
memory; collect.py, by any Python since 2.6; sh. Each tries things; what a way can't try is not in its report, and a
plan takes it as not there.
"""

from __future__ import annotations

import functools
import io
import json
import marshal
import shlex
import sys
import threading
import zipfile
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...compat import jsonio
from ...compat.errors import JoeyError
from ...compat.syscalls import AARCH64, X86_64
from ...probes import catalog, report
from ...probes.groups import cgroups, syscalls
from ...probes.report import STATES, Finding, KernelReport
from .link import LinkError, script

if TYPE_CHECKING:
    from .link import Done, Link

WAYS = ("kit", "memory", "collector", "sh")
_PACKAGE = Path(__file__).parent.parent.parent  # joey's, by its links
_LARGEST = 8 << 20
_MAKING = threading.Lock()
_LONG = 4096  # characters of a text that a host says
_USEFUL = ("clone unshare mount umount2 pivot_root prctl ptrace setns seccomp newfstatat capset setresuid keyctl "
           "getppid mount_setattr open_tree move_mount getdents64 open sched_yield fallocate").split()  # fmt: skip

# whether the kit is there, and the first Python that has what collect.py wants
_CHOICE = """
[ -x {kit}/bin/joey ] && {kit}/bin/joey version >/dev/null 2>&1 && echo kit
for p in python3 /usr/libexec/platform-python python python2; do
  v=$("$p" -c 'import sys, ctypes, json; print("%d %d" % sys.version_info[:2])' 2>/dev/null) || continue
  echo "python $v $p"; break
done
"""
_FROM_MEMORY = """
import os, sys
data = sys.stdin.buffer.read()
fd = os.memfd_create("joey")
os.write(fd, data) == len(data) or sys.exit("short write")
sys.path.insert(0, "/proc/self/fd/%d" % fd)
from joey.compat import jsonio
from joey.probes.run import probe_machine
print(jsonio.dumps(probe_machine().as_json()))
"""
_COLLECTOR = "import sys; n = int(sys.stdin.readline()); exec(compile(sys.stdin.read(n), 'collect.py', 'exec'))"


def look(link: Link, only: str = "") -> KernelReport:
    """The report of the host at the other end; `only`: this way and no other. Raises LinkError."""
    if not link.become_root():
        link.notes.append("it was probed as a plain user: there is no root and no sudo without a password")
    chosen = link.run_as_root(_CHOICE.format(kit=shlex.quote(link.host.kit)))
    lines = [line.split() for line in chosen.out.decode("utf-8", "replace").splitlines()]
    version, python = (0, 0), ""
    for words in lines:
        if words[:1] == ["python"] and len(words) == 4 and words[1].isdigit() and words[2].isdigit():
            version, python = (int(words[1]), int(words[2])), words[3]
    ways = [["kit"] in lines, version >= (3, 11), version >= (2, 6), True]
    failed = ""
    for way, there in zip(WAYS, ways, strict=True):
        if only and way != only:
            continue
        if not there:
            failed = failed or f"it has nothing for the way {way}"
            continue
        try:
            found = _BY[way](link, python, version)
        except JoeyError as error:  # a kit of another version answers what is no report of ours
            failed = str(error)
            link.notes.append(f"{way}: {error}")
            continue
        _check(found)
        found.machine["by"] = way + (
            f", Python {'.'.join(map(str, version))}" if way in ("memory", "collector") else ""
        )
        return found
    raise LinkError(f"it can't be probed: {failed}")


def _check(found: KernelReport) -> None:
    """Raise LinkError for a report that can't be kept, or is larger than any: hosts say what they like."""
    try:
        text = jsonio.dumps(found.as_json())
    except (ValueError, TypeError, RecursionError) as error:
        raise LinkError(f"it answered what is no report: {error}") from None
    if len(text.encode("utf-8", "surrogatepass")) > _LARGEST:
        raise LinkError(f"it answered a report of more than {_LARGEST >> 20} MiB")
    for place in (found.machine, found.key):
        place.update({name[:_LONG]: word[:_LONG] for name, word in place.items()})


def untried(found: KernelReport) -> list[str]:
    """The features that the way it was looked at by could not try."""
    return [feature for feature in catalog.by_feature() if feature not in found.findings]


def _by_kit(link: Link, python: str, version: tuple[int, int]) -> KernelReport:
    return _report(link, link.run_as_root(f"exec {shlex.quote(link.host.kit)}/bin/joey probe --json", limit=_LARGEST))


def _by_memory(link: Link, python: str, version: tuple[int, int]) -> KernelReport:
    command = f"exec {shlex.quote(python)} -I -c {shlex.quote(_FROM_MEMORY)}"
    return _report(link, link.run_as_root(command, archive(version == sys.version_info[:2]), _LARGEST))


def _report(link: Link, done: Done) -> KernelReport:
    if done.status:
        raise LinkError(f"the probe failed there: {done.reason}")
    try:
        found = report.parse(done.out.decode("utf-8", "replace"), link.host.name)
    except RecursionError:
        raise LinkError("it answered what is no report") from None
    return found


def _by_collector(link: Link, python: str, version: tuple[int, int]) -> KernelReport:
    program = (Path(__file__).parent / "there/collect.py").read_bytes()
    data = b"%d\n" % len(program) + program + json.dumps(tables()).encode() + b"\n"
    done = link.run_as_root(f"exec {shlex.quote(python)} -c {shlex.quote(_COLLECTOR)}", data, _LARGEST)
    if done.status:
        raise LinkError(f"collect.py failed there: {done.reason}")
    return collected(done.out)


def _by_sh(link: Link, python: str, version: tuple[int, int]) -> KernelReport:
    done = link.run_as_root(script("collect.sh"), limit=_LARGEST)
    return said(done.out)


_BY = {"kit": _by_kit, "memory": _by_memory, "collector": _by_collector, "sh": _by_sh}


def archive(compiled: bool) -> bytes:
    """joey's compat and probes as a zip that Python loads: compiled, for a Python of this one's version, or source."""
    with _MAKING:  # once, and not by every host's thread at the same time
        return _archive(compiled)


@functools.cache
def _archive(compiled: bool) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        paths = {_PACKAGE / "__init__.py": "joey/__init__.py"}
        for package in ("compat", "probes"):
            for path in sorted((_PACKAGE / package).rglob("*.py")):
                paths[path] = f"joey/{package}/{path.relative_to(_PACKAGE / package)}"
        for path, name in paths.items():
            if compiled:  # PEP 552: a compiled file that is not compared with its source
                code = compile(path.read_bytes(), name, "exec", dont_inherit=True)
                file.writestr(f"{name}c", MAGIC_NUMBER + b"\1\0\0\0" + bytes(8) + marshal.dumps(code))
            else:
                file.write(path, name)
    return out.getvalue()


def tables() -> dict[str, Any]:
    """What collect.py is told: numbers, and what is tried by table."""
    wanted = {name for name, *_ in syscalls.TABLE} | set(_USEFUL)
    rows = []
    for name, _, args, _ in syscalls.TABLE:
        words = [arg.decode() if isinstance(arg, bytes) else arg for arg in args]
        rows.append([name, words, name in syscalls.EPERM_MEANS_KNOWN])
    return {
        "numbers": {
            machine: {name: number for name, number in numbers.items() if name in wanted}
            for machine, numbers in (("x86_64", X86_64), ("aarch64", AARCH64))
        },
        "syscalls": rows,
        "absent": catalog.ABSENT_ERRNOS,
        "blocked": catalog.BLOCKED_ERRNOS,
        "controllers": list(cgroups.COSTS),
        "knobs": [[feature, controller, names] for feature, controller, names, _ in cgroups.KNOBS],
    }


def collected(data: bytes) -> KernelReport:
    """The report of what collect.py printed. Raises LinkError for what it can't have printed."""
    known = catalog.by_feature()
    try:
        value = json.loads(data, parse_constant=_no_number)
        findings = {}
        for feature, (state, answer, detail) in value["findings"].items():
            if feature not in known or state not in STATES or not isinstance(detail, dict):
                raise ValueError(f"a finding {feature!r}")
            findings[feature] = Finding(feature, state, known[feature].call, _text(answer), detail)
        machine = {
            name: _text(value["machine"][name]) for name in ("release", "version", "machine", "host", "distribution")
        }
        key = {name: _text(value["key"][name]) for name in ("boot", "kernel", "uid")}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise LinkError(f"collect.py answered what it can't have: {error}") from None
    ordered = {feature: findings[feature] for feature in known if feature in findings}
    return KernelReport(ordered, key, machine, __version__, 0.0)


def said(data: bytes) -> KernelReport:
    """The report of what the script for sh printed. Raises LinkError."""
    known = catalog.by_feature()
    machine = {"distribution": ""}
    findings: dict[str, Finding] = {}
    mounts: list[tuple[str, str, str]] = []
    controllers: dict[str, bool] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        name, _, rest = line.partition("\t")
        value, _, answer = rest.partition("\t")
        if name.startswith("@"):
            machine[name[1:]] = machine.get(name[1:]) or _text(value).strip("\"'")
        elif name in ("=cgroup", "=cgroup2"):
            mounts.append((name, value, answer))
        elif name == "=controller":
            controllers[value] = answer == "1"
        elif name in known and value in STATES:
            findings[name] = Finding(name, value, f"{known[name].call}, by sh", _text(answer))
    if not machine.get("release") or not machine.get("machine"):
        raise LinkError("its sh answered nothing of use")
    for name in ("mnt", "uts", "ipc", "net", "pid"):  # clone(2) had these flags before unshare(2) had them
        if (tried := findings.get(f"{name}ns.unshare")) and tried.state == "works":
            call = known[f"{name}ns.clone"].call
            findings[f"{name}ns.clone"] = Finding(f"{name}ns.clone", "works", call, "as unshare(1) works")
    for name in cgroups.COSTS:
        findings[f"cgroup.{name}"] = _controller(name, mounts, controllers)
    key = {"boot": machine.pop("boot", ""), "kernel": machine["release"], "uid": machine.pop("uid", "")}
    return KernelReport(findings, key, machine, __version__, 0.0)


def _controller(name: str, mounts: list[tuple[str, str, str]], enabled: dict[str, bool]) -> Finding:
    call = f"controller {name}, as /proc lists it"
    own = cgroups.V2_NAMES.get(name, name)
    for kind, place, options in mounts:
        version, word = (1, f",{name},") if kind == "=cgroup" else (2, f" {own} ")
        if word in options:
            detail = {"version": version, "mount": _text(place), "files": []}
            return Finding(f"cgroup.{name}", "works", call, f"v{version} at {_text(place)}", detail)
    if enabled.get(name):
        detail = {"version": 1, "mount": "", "files": []}
        return Finding(f"cgroup.{name}", "works", call, "v1, not mounted: joey can mount it", detail)
    return Finding(f"cgroup.{name}", "absent", call, "not in /proc/cgroups")


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text")
    return value[:_LONG]
