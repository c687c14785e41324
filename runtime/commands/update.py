"""`joey update`: change the limits of a container that is there."""

from __future__ import annotations

import sys

from ...compat import files, jsonio
from ...compat.cgroup.settings import controllers_needed, settings
from ...compat.cgroup.stats import memory_usage
from ...compat.errors import BundleError, JoeyError, StateError, UsageError
from .. import bundle as bundles
from .. import schema
from ..options import Arguments, Command, Option
from ..state import State
from .common import container_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# option -> (section, key); sizes may have a unit
SIZES = {
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
}
NUMBERS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-idle": ("cpu", "idle"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-share": ("cpu", "shares"),
    "pids-limit": ("pids", "limit"),
}
WORDS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def run(arguments: Arguments) -> int:
    state = container_of(arguments)
    if state.status() == "stopped":
        raise StateError(f"container not running: {state.id}", slug="not-running")
    for name in ("l3-cache-schema", "mem-bw-schema"):
        if arguments.given(name):
            raise UsageError(f"--{name}: joey has no Intel RDT support")
    change = _from_file(arguments.text("resources")) if arguments.given("resources") else _from_options(arguments)
    quotas = arguments.many("disk-quota")
    if not change and not arguments.given("resources") and not quotas:
        raise UsageError("nothing to change", "give --resources FILE, or a limit such as --memory 512m")
    schema.RESOURCES(change, "")
    bundle = state.config()
    versions = state.cgroup.versions()
    _complete(change, bundle.resources, versions)
    _check_usage(change, state)
    for_cgroups = _by_cgroups(change, state)
    _check_kept(for_cgroups, state, versions)
    if quotas:
        from ..quota import change_limits

        change_limits(state, quotas)
    state.cgroup.update(settings(for_cgroups, versions))
    if "devices" in change:
        from ..resources import device_rules

        try:
            state.cgroup.allow_devices(device_rules(change["devices"], bundle), in_use=True)
        except JoeyError as error:
            raise JoeyError(f"{error.message}; the other limits are changed", error.hint, error.slug) from None
    state.save_resources(merged(bundle.resources, change))
    return 0


def _from_file(path: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == "-" else files.read_text(path, bundles.CONFIG_LIMIT)
        value = schema.without_nulls(jsonio.loads(text))
    except OSError as error:
        raise JoeyError(f"--resources {path}: {error.strerror}") from None
    except ValueError as error:
        raise BundleError("", f"--resources {path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BundleError("", f"--resources {path}: expected an object")
    return value


def _from_options(arguments: Arguments) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, (section, key) in SIZES.items():
        if arguments.given(name):
            out.setdefault(section, {})[key] = size(arguments.text(name), name)
    for name, (section, key) in NUMBERS.items():
        if arguments.given(name):
            out.setdefault(section, {})[key] = arguments.number(name, 0)
    for name, (section, key) in WORDS.items():
        if arguments.given(name):
            out.setdefault(section, {})[key] = arguments.text(name)
    return out


def size(text: str, option: str) -> int:
    """Bytes of "512m", "1g", "-1" or a plain number. Raises UsageError."""
    word = text.lower().removesuffix("b").removesuffix("i")
    factor = UNITS.get(word[-1:], 1)
    number = word[:-1] if factor > 1 else word
    try:
        return int(float(number) * factor) if "." in number else int(number) * factor
    except (ValueError, OverflowError):
        raise UsageError(
            f'--{option}: "{text}" is no size', "a number of bytes, or with a unit: 64k, 512m, 2g"
        ) from None


def _complete(change: dict[str, Any], present: dict[str, Any], versions: dict[str, int]) -> None:
    """Fill in what a changed value is written together with: quota with period, swap with memory."""
    cpu, had = change.get("cpu") or {}, present.get("cpu") or {}
    if ("quota" in cpu) is not ("period" in cpu):
        for key in ("quota", "period"):
            if key not in cpu and had.get(key):
                cpu[key] = had[key]
    memory, had = change.get("memory") or {}, present.get("memory") or {}
    if memory.get("limit") == -1 and "swap" not in memory and had.get("swap"):
        memory["swap"] = -1  # swap counts memory too: it can't stay below (runc does the same)
    if versions.get("memory") == 2 and "swap" in memory and "limit" not in memory and had.get("limit"):
        memory["limit"] = had["limit"]


def _by_cgroups(change: dict[str, Any], state: State) -> dict[str, Any]:
    """The change without what joey's watcher keeps, which reads it in the container's config.json."""
    if state.mechanisms.get("cgroup.cpu.quota") != "watcher" or "cpu" not in change:
        return change
    return {**change, "cpu": {key: value for key, value in change["cpu"].items() if key not in ("quota", "period")}}


def _check_kept(change: dict[str, Any], state: State, versions: dict[str, int]) -> None:
    """Refuse what nothing would keep: no cgroup of the container, and no process that looks after it."""
    plain = {key: value for key, value in change.items() if key != "unified"}
    for controller, field in controllers_needed(plain).items():
        by = state.mechanisms.get(f"cgroup.{controller}", "")
        asked = settings(plain, {controller: 1})  # clients send zeros for what they leave alone
        if asked and controller not in versions and by not in ("watcher", "ptrace"):
            raise JoeyError(
                f"{field}: the container is in no cgroup that carries {controller}",
                f"it was made with {by or 'no limit of that kind'}: make it anew",
                "cgroup",
            )


def _check_usage(change: dict[str, Any], state: State) -> None:
    """Refuse a memory limit below what is used, where config.json asks for that (memory.checkBeforeUpdate)."""
    memory = change.get("memory") or {}
    limit = memory.get("limit", 0)
    if memory.get("checkBeforeUpdate") and limit > 0:
        usage = memory_usage(state.cgroup)
        if usage > limit:
            raise JoeyError(
                f"unable to set memory limit to {limit} (current usage: {usage})", "free memory first", "cgroup"
            )


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the members of `new`, section by section."""
    out = dict(old)
    for section, value in new.items():
        both = isinstance(value, dict) and isinstance(out.get(section), dict)
        out[section] = {**out[section], **value} if both else value
    return out


COMMAND = Command(
    "update",
    "change the limits of a container",
    run,
    words="ID",
    least=1,
    most=1,
    options=(
        Option("--resources -r", "FILE", "the linux.resources section as JSON; - reads it from stdin"),
        Option("--memory", "SIZE", "memory limit; -1 is none"),
        Option("--memory-reservation", "SIZE", "memory the container keeps under pressure"),
        Option("--memory-swap", "SIZE", "limit of memory and swap together; -1 is none"),
        Option("--kernel-memory", "SIZE", "kernel memory limit (v1; ignored by kernels since 5.4)"),
        Option("--kernel-memory-tcp", "SIZE", "TCP buffer limit (v1)"),
        Option("--cpu-share", "N", "share of CPU time under contention (1024 is one share)"),
        Option("--cpu-quota", "US", "microseconds of CPU time in a period; -1 is no limit"),
        Option("--cpu-period", "US", "the period, in microseconds"),
        Option("--cpu-burst", "US", "microseconds that may be saved up"),
        Option("--cpu-idle", "N", "1: run only when the machine is idle"),
        Option("--cpu-rt-period", "US", "real-time period"),
        Option("--cpu-rt-runtime", "US", "real-time budget of a period"),
        Option("--cpuset-cpus", "LIST", "CPUs to use, such as 0-2,4"),
        Option("--cpuset-mems", "LIST", "memory nodes to use"),
        Option("--pids-limit", "N", "processes and threads; -1 is no limit"),
        Option("--blkio-weight", "N", "share of disk time, 10 to 1000"),
        Option("--disk-quota", "[DIRS=]SIZE", "change a disk quota that it has; may be repeated", many=True),
        Option("--l3-cache-schema", "TEXT", "refused: Intel RDT"),
        Option("--mem-bw-schema", "TEXT", "refused: Intel RDT"),
    ),
    detail="All changes are made or none: when the kernel refuses one, those before it are taken back.",
    examples=("joey update --memory 512m --pids-limit 100 web", "joey update -r - web < resources.json"),
)
