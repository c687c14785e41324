"""The shape of config.json, checked field by field; an error names the field as "process.user.uid" or "mounts[2].type".

Unknown fields are ignored, as the runtime-spec asks ("Extensibility"); fields joey knows and can't honour are refused
by name in `bundle`. A JSON null counts as absent. Source: runtime-spec 1.2, config.md and config-linux.md.
"""

from __future__ import annotations

from ..compat.errors import BundleError
from ..compat.mountflags import PROPAGATION
from ..compat.scheduling import IO_CLASSES, POLICIES, SCHEDULER_FLAGS, parse_cpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Check = Callable[[Any, str], None]

MAX_UINT32 = (1 << 32) - 1
MAX_INT64 = (1 << 63) - 1
MAX_UINT64 = (1 << 64) - 1


def text(value: Any, field: str) -> None:
    """A string that can be a path or an argument: no NUL bytes, no halves of surrogate pairs."""
    if not isinstance(value, str):
        raise BundleError(field, f"expected a string, found {_kind(value)}")
    if "\0" in value:
        raise BundleError(field, "has a NUL byte in it")
    if not value.isascii():
        try:
            value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise BundleError(field, "has half of a surrogate pair in it (\\ud800 to \\udfff)") from None


def full_text(value: Any, field: str) -> None:
    """A string that is not empty."""
    text(value, field)
    if not value:
        raise BundleError(field, "must not be empty")


def absolute(value: Any, field: str) -> None:
    """An absolute path."""
    text(value, field)
    if not value.startswith("/"):
        raise BundleError(field, f'"{value}" is not an absolute path')


def boolean(value: Any, field: str) -> None:
    if not isinstance(value, bool):
        raise BundleError(field, f"expected true or false, found {_kind(value)}")


def integer(least: int, most: int) -> Check:
    """A whole number from `least` to `most`."""

    def check(value: Any, field: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise BundleError(field, f"expected a whole number, found {_kind(value)}")
        if not least <= value <= most:
            raise BundleError(field, f"{value} is outside {least} to {most}")

    return check


def one_of(*words: str) -> Check:
    """One of a few words."""

    def check(value: Any, field: str) -> None:
        text(value, field)
        if value not in words:
            raise BundleError(field, f'unknown value "{value}"', "one of: " + ", ".join(words))

    return check


def list_of(item: Check) -> Check:
    """A JSON array whose entries all pass `item`."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, list):
            raise BundleError(field, f"expected an array, found {_kind(value)}")
        for place, entry in enumerate(value):
            item(entry, f"{field}[{place}]")

    return check


def map_of(item: Check) -> Check:
    """A JSON object with any keys, whose values all pass `item`."""

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            raise BundleError(field, f"expected an object, found {_kind(value)}")
        for key, entry in value.items():
            text(key, f"{field}[{key!r}]")
            item(entry, f"{field}[{key!r}]")

    return check


def cpu_list(value: Any, field: str) -> None:
    """CPU numbers and ranges: "0-3,7"."""
    text(value, field)
    try:
        parse_cpus(value)
    except ValueError as error:
        raise BundleError(field, str(error), 'such as "0-3,7"') from None


def record(required: str = "", /, **fields: Check) -> Check:
    """A JSON object with known fields; `required` names, space-separated, must be there."""
    names = required.split()

    def check(value: Any, field: str) -> None:
        if not isinstance(value, dict):
            raise BundleError(field, f"expected an object, found {_kind(value)}")
        prefix = f"{field}." if field else ""
        for name in names:
            if name not in value:
                raise BundleError(f"{prefix}{name}", "is missing")
        for name, entry in value.items():
            test = fields.get(name)
            if test is not None:
                test(entry, prefix + name)

    return check


def without_nulls(value: Any, depth: int = 0) -> Any:
    """A copy without the null members of objects. Raises BundleError for a document nested beyond reason."""
    if depth > 64:
        raise BundleError("", "config.json is nested more than 64 levels deep")
    if isinstance(value, dict):
        return {key: without_nulls(entry, depth + 1) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [without_nulls(entry, depth + 1) for entry in value]
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the string "{value[:40]}"'
    return "an array" if isinstance(value, list) else "an object"


uint32 = integer(0, MAX_UINT32)
# the kernel takes (uid_t)-1 as "unchanged"
identity = integer(0, MAX_UINT32 - 1)
int64 = integer(-MAX_INT64 - 1, MAX_INT64)
uint64 = integer(0, MAX_UINT64)
texts = list_of(text)

CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")

HOOK = record("path", path=absolute, args=texts, env=texts, timeout=integer(1, 86400))
ID_MAPPING = record("containerID hostID size", containerID=uint32, hostID=uint32, size=integer(1, MAX_UINT32))
DEVICE_RATE = record("major minor rate", major=int64, minor=int64, rate=uint64)

PROCESS = record(
    "cwd args",
    terminal=boolean,
    consoleSize=record("height width", height=integer(0, 65535), width=integer(0, 65535)),
    cwd=absolute,
    env=texts,
    args=list_of(text),
    rlimits=list_of(record("type soft hard", type=text, soft=uint64, hard=uint64)),
    capabilities=record("", **dict.fromkeys(CAPABILITY_SETS, texts)),
    noNewPrivileges=boolean,
    oomScoreAdj=integer(-1000, 1000),
    apparmorProfile=text,
    selinuxLabel=text,
    scheduler=record(
        "policy", policy=one_of(*POLICIES), nice=integer(-20, 19), priority=integer(0, 99),
        flags=list_of(one_of(*SCHEDULER_FLAGS)), runtime=uint64, deadline=uint64, period=uint64,
    ),
    ioPriority=record("class", **{"class": one_of(*IO_CLASSES)}, priority=integer(0, 7)),
    execCPUAffinity=record(initial=cpu_list, final=cpu_list),
    user=record(uid=identity, gid=identity, umask=integer(0, 0o777), additionalGids=list_of(identity)),
)  # fmt: skip

RESOURCES = record(
    devices=list_of(
        record("allow", allow=boolean, type=one_of("a", "b", "c", "u"), major=int64, minor=int64, access=text)
    ),
    memory=record(
        limit=int64, reservation=int64, swap=int64, kernel=int64, kernelTCP=int64, swappiness=integer(0, 100),
        disableOOMKiller=boolean, useHierarchy=boolean, checkBeforeUpdate=boolean,
    ),
    cpu=record(
        shares=uint64, quota=int64, burst=uint64, period=uint64, realtimeRuntime=int64, realtimePeriod=uint64,
        cpus=text, mems=text, idle=integer(0, 1),
    ),
    pids=record(limit=int64),
    blockIO=record(
        weight=integer(0, 1000), leafWeight=integer(0, 1000),
        weightDevice=list_of(record("major minor", major=int64, minor=int64, weight=uint32, leafWeight=uint32)),
        throttleReadBpsDevice=list_of(DEVICE_RATE), throttleWriteBpsDevice=list_of(DEVICE_RATE),
        throttleReadIOPSDevice=list_of(DEVICE_RATE), throttleWriteIOPSDevice=list_of(DEVICE_RATE),
    ),
    hugepageLimits=list_of(record("pageSize limit", pageSize=full_text, limit=uint64)),
    network=record(classID=uint32, priorities=list_of(record("name priority", name=full_text, priority=uint32))),
    rdma=map_of(record(hcaHandles=uint32, hcaObjects=uint32)),
    unified=map_of(text),
)  # fmt: skip

SECCOMP = record(
    "defaultAction",
    defaultAction=full_text,
    defaultErrnoRet=integer(0, 4095),
    architectures=texts,
    flags=texts,
    listenerPath=text,
    listenerMetadata=text,
    syscalls=list_of(
        record(
            "names action",
            names=list_of(full_text),
            action=full_text,
            errnoRet=integer(0, 4095),
            args=list_of(record("index value op", index=integer(0, 5), value=uint64, valueTwo=uint64, op=full_text)),
        )
    ),
)

TIME_OFFSET = record("", secs=int64, nanosecs=integer(0, 999_999_999))
NAMESPACE_TYPES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")

LINUX = record(
    namespaces=list_of(record("type", type=one_of(*NAMESPACE_TYPES), path=text)),
    uidMappings=list_of(ID_MAPPING),
    gidMappings=list_of(ID_MAPPING),
    timeOffsets=record("", monotonic=TIME_OFFSET, boottime=TIME_OFFSET),
    devices=list_of(
        record(
            "type path", type=one_of("c", "b", "u", "p"), path=absolute, major=int64, minor=int64,
            fileMode=integer(0, 0o177777), uid=identity, gid=identity,
        )
    ),
    cgroupsPath=text,
    resources=RESOURCES,
    rootfsPropagation=one_of("", *PROPAGATION),
    maskedPaths=list_of(absolute),
    readonlyPaths=list_of(absolute),
    mountLabel=text,
    personality=record("domain", domain=one_of("LINUX", "LINUX32"), flags=texts),
    sysctl=map_of(text),
    seccomp=SECCOMP,
)  # fmt: skip

HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

CONFIG = record(
    "ociVersion root process",
    ociVersion=full_text,
    process=PROCESS,
    root=record("path", path=full_text, readonly=boolean),
    hostname=text,
    domainname=text,
    mounts=list_of(
        record("destination", destination=full_text, type=text, source=text, options=texts,
               uidMappings=list_of(ID_MAPPING), gidMappings=list_of(ID_MAPPING))
    ),
    hooks=record("", **{kind: list_of(HOOK) for kind in HOOK_KINDS}),
    annotations=map_of(text),
    linux=LINUX,
)  # fmt: skip
