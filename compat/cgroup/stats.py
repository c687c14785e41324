"""What a container's groups count: CPU, memory, pids, block I/O, huge pages, RDMA, in the shape of runc's `events`.

Missing controllers and files give empty sections. Times are in ns, sizes in bytes. Source: the kernel's cgroup-v1 and
cgroup-v2 documents; the JSON is that of runc's types/events.go, which go-runc and its users parse.
"""

from __future__ import annotations

import os

from .. import files
from .group import Cgroup, Group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_UINT64 = (1 << 64) - 1
_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")

# v1 file, key in the JSON
_BLKIO_V1 = (
    ("blkio.throttle.io_service_bytes_recursive", "ioServiceBytesRecursive"),
    ("blkio.throttle.io_serviced_recursive", "ioServicedRecursive"),
)
_BLKIO_V1_OLD = (
    ("blkio.throttle.io_service_bytes", "ioServiceBytesRecursive"),
    ("blkio.throttle.io_serviced", "ioServicedRecursive"),
)
_CPUSET_V1 = (
    ("cpus", "cpus"), ("cpu_exclusive", "cpu_exclusive"), ("mems", "mems"), ("mem_exclusive", "mem_exclusive"),
    ("mem_hardwall", "mem_hardwall"), ("memory_migrate", "memory_migrate"),
    ("memory_spread_page", "memory_spread_page"), ("memory_spread_slab", "memory_spread_slab"),
    ("memory_pressure", "memory_pressure"), ("sched_load_balance", "sched_load_balance"),
    ("sched_relax_domain_level", "sched_relax_domain_level"),
)  # fmt: skip
_CPUSET_V2 = (("cpus.effective", "cpus"), ("mems.effective", "mems"))
_IO_STAT = (("rbytes", "ioServiceBytesRecursive", "Read"), ("wbytes", "ioServiceBytesRecursive", "Write"),
            ("rios", "ioServicedRecursive", "Read"), ("wios", "ioServicedRecursive", "Write"))  # fmt: skip


def stats(cgroup: Cgroup) -> dict[str, Any]:
    """The `data` member of a stats event."""
    return {
        "cpu": _cpu(cgroup),
        "cpuset": _cpuset(cgroup),
        "memory": _memory(cgroup),
        "pids": _pids(cgroup),
        "blkio": _blkio(cgroup),
        "hugetlb": _hugetlb(cgroup),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def memory_usage(cgroup: Cgroup) -> int:
    """Bytes the container uses now; 0 where no memory controller tells."""
    group = cgroup.group_of("memory")
    if group is None:
        return 0
    return _number(group, "memory.current" if group.version == 2 else "memory.usage_in_bytes")


def _cpu(cgroup: Cgroup) -> dict[str, Any]:
    group = cgroup.group_of("cpuacct") or cgroup.group_of("cpu")
    usage = {"total": 0, "percpu": [0], "kernel": 0, "user": 0}
    throttling: dict[str, int] = {}
    if group is None:
        group = next((item for item in cgroup.groups if item.version == 2), None)  # cpu.stat is there without cpu
    if group is not None and group.version == 2:
        values = _table(group, "cpu.stat")
        usage = {
            "total": values.get("usage_usec", 0) * 1000,
            "percpu": [],
            "kernel": values.get("system_usec", 0) * 1000,
            "user": values.get("user_usec", 0) * 1000,
        }
        throttling = _throttling(values, values.get("throttled_usec", 0) * 1000)
    elif group is not None:
        ticks = _table(group, "cpuacct.stat")
        usage = {
            "total": _number(group, "cpuacct.usage"),
            "percpu": _numbers(group, "cpuacct.usage_percpu"),
            "percpu_kernel": _numbers(group, "cpuacct.usage_percpu_sys"),  # Linux 4.7
            "percpu_user": _numbers(group, "cpuacct.usage_percpu_user"),
            "kernel": ticks.get("system", 0) * _TICK,
            "user": ticks.get("user", 0) * _TICK,
        }
        cpu = cgroup.group_of("cpu")
        if cpu is not None:
            values = _table(cpu, "cpu.stat")
            throttling = _throttling(values, values.get("throttled_time", 0))
    return {"usage": usage, "throttling": throttling}


def _numbers(group: Group, file: str) -> list[int]:
    return [int(word) for word in files.read_line(f"{group.path}/{file}").split()]


def _cpuset(cgroup: Cgroup) -> dict[str, Any]:
    group = cgroup.group_of("cpuset")
    if group is None:
        return {}
    out: dict[str, Any] = {}
    names = _CPUSET_V2 if group.version == 2 else _CPUSET_V1
    for file, key in names:
        word = files.read_line(f"{group.path}/cpuset.{file}")
        if key in ("cpus", "mems"):
            ranges = (part.partition("-")[::2] for part in word.split(",") if part)
            out[key] = [number for low, high in ranges for number in range(int(low), int(high or low) + 1)]
        elif word.isdigit():
            out[key] = int(word)
    return {key: value for key, value in out.items() if value}


def _throttling(values: dict[str, int], nanoseconds: int) -> dict[str, int]:
    named = {"periods": values.get("nr_periods", 0), "throttledPeriods": values.get("nr_throttled", 0),
             "throttledTime": nanoseconds}  # fmt: skip
    return {name: number for name, number in named.items() if number}


def _memory(cgroup: Cgroup) -> dict[str, Any]:
    group = cgroup.group_of("memory")
    if group is None:
        return {"usage": {"limit": 0}, "swap": {"limit": 0}, "kernel": {"limit": 0}, "kernelTCP": {"limit": 0}}
    raw = _table(group, "memory.stat")
    if group.version == 2:
        usage = {
            "limit": _limit(group, "memory.max"),
            "usage": _number(group, "memory.current"),
            "max": _number(group, "memory.peak"),
            "failcnt": _table(group, "memory.events").get("max", 0),
        }
        swap_limit, swap = _limit(group, "memory.swap.max"), _number(group, "memory.swap.current")
        both = MAX_UINT64 if MAX_UINT64 in (swap_limit, usage["limit"]) else swap_limit + usage["limit"]
        return {
            "cache": raw.get("file", 0),
            "usage": usage,
            "swap": {"limit": both, "usage": swap + usage["usage"], "failcnt": 0},
            "kernel": {"limit": MAX_UINT64, "usage": raw.get("kernel", 0), "failcnt": 0},
            "kernelTCP": {"limit": MAX_UINT64, "usage": raw.get("sock", 0), "failcnt": 0},
            "raw": raw,
        }
    return {
        "cache": raw.get("cache", 0),
        "usage": _counter(group, "memory"),
        "swap": _counter(group, "memory.memsw"),
        "kernel": _counter(group, "memory.kmem"),
        "kernelTCP": _counter(group, "memory.kmem.tcp"),
        "raw": raw,
    }


def _counter(group: Group, prefix: str) -> dict[str, int]:
    """The four files of a v1 counter."""
    return {
        "limit": _number(group, f"{prefix}.limit_in_bytes"),
        "usage": _number(group, f"{prefix}.usage_in_bytes"),
        "max": _number(group, f"{prefix}.max_usage_in_bytes"),
        "failcnt": _number(group, f"{prefix}.failcnt"),
    }


def _pids(cgroup: Cgroup) -> dict[str, int]:
    group = cgroup.group_of("pids")
    if group is None:
        return {"current": len(cgroup.pids())}
    limit = _limit(group, "pids.max")
    return {"current": _number(group, "pids.current"), **({"limit": limit} if limit != MAX_UINT64 else {})}


def _blkio(cgroup: Cgroup) -> dict[str, Any]:
    group = cgroup.group_of("blkio")
    out: dict[str, Any] = {}
    if group is None:
        return out
    if group.version == 2:
        for line in _lines(group, "io.stat"):
            device, *words = line.split()
            major, _, minor = device.partition(":")
            values = dict(word.partition("=")[::2] for word in words)
            for key, section, operation in _IO_STAT:
                if key in values:
                    entry = {"major": int(major), "minor": int(minor), "op": operation, "value": int(values[key])}
                    out.setdefault(section, []).append(entry)
        return out
    recursive = os.path.exists(f"{group.path}/{_BLKIO_V1[0][0]}")
    for file, section in _BLKIO_V1 if recursive else _BLKIO_V1_OLD:
        for line in _lines(group, file):
            words = line.split()
            if len(words) == 3 and words[2].isdigit():
                major, _, minor = words[0].partition(":")
                entry = {"major": int(major), "minor": int(minor), "op": words[1], "value": int(words[2])}
                out.setdefault(section, []).append(entry)
    return out


def _hugetlb(cgroup: Cgroup) -> dict[str, Any]:
    group = cgroup.group_of("hugetlb")
    out: dict[str, Any] = {}
    if group is None:
        return out
    ending = ".current" if group.version == 2 else ".usage_in_bytes"
    try:
        names = os.listdir(group.path)
    except OSError:
        return out
    for name in sorted(names):
        if name.startswith("hugetlb.") and name.endswith(ending) and ".rsvd." not in name:
            size = name.removeprefix("hugetlb.").removesuffix(ending)
            if group.version == 2:
                failures = _table(group, f"hugetlb.{size}.events").get("max", 0)
                out[size] = {"usage": _number(group, name), "failcnt": failures}
            else:
                counter = _counter(group, f"hugetlb.{size}")
                out[size] = {key: counter[key] for key in ("usage", "max", "failcnt")}
    return out


def _lines(group: Group, file: str) -> list[str]:
    try:
        return files.read_text(f"{group.path}/{file}").splitlines()
    except OSError:
        return []


def _table(group: Group, file: str) -> dict[str, int]:
    """A file of "name number" lines."""
    out = {}
    for line in _lines(group, file):
        name, _, value = line.partition(" ")
        if value.isdigit():
            out[name] = int(value)
    return out


def _number(group: Group, file: str) -> int:
    text = files.read_line(f"{group.path}/{file}")
    return int(text) if text.isdigit() else 0


def _limit(group: Group, file: str) -> int:
    """A v2 limit; "max" and a missing file are the greatest number, as in runc's JSON."""
    text = files.read_line(f"{group.path}/{file}")
    return int(text) if text.isdigit() else MAX_UINT64
