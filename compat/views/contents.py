"""What /proc's files about the machine say of a container. Source: proc(5); the kernel's cgroup documents.

Figures are the container's where its cgroups or processes tell them; what is left is the host's.
"""

from __future__ import annotations

import math
import os
import time

from .. import files, process
from ..cgroup import stats
from ..cgroup.group import Cgroup
from ..limits import watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_SECTOR = 512
_AGES = (60.0, 300.0, 900.0)  # seconds that the load is averaged over
_FRESH = 0.2  # seconds for which figures of cgroups are good


class View:
    """A container as its files show it. `pids` gives its processes, `memory_limit` the limit that no cgroup keeps.

    Until `start` it shows a container without processes.
    """

    def __init__(self, cgroup: Cgroup, pids: Callable[[], list[int]], memory_limit: Callable[[], int]) -> None:
        self.cgroup = cgroup
        self._pids = pids
        self._memory_limit = memory_limit
        self._first = 0
        self._started = time.monotonic()
        self._load = [0.0, 0.0, 0.0]
        self._sampled = time.monotonic()
        self._stats: tuple[float, dict[str, Any]] = (-1.0, {})

    def start(self, first: int) -> None:
        """Show the container of this first process."""
        self._first = first
        lived = float(files.read_line("/proc/uptime").split()[0]) - process.start_time(first) / _TICKS
        self._started = time.monotonic() - lived

    def read(self, name: str) -> bytes:
        """A file of views/__init__.TARGETS."""
        return str(getattr(self, name)()).encode()

    def _figures(self) -> dict[str, Any]:
        now = time.monotonic()
        if now - self._stats[0] > _FRESH:
            self._stats = (now, stats.stats(self.cgroup))
        return self._stats[1]

    # --- memory ---

    def meminfo(self) -> str:
        lines = [line.partition(":")[::2] for line in files.read_text("/proc/meminfo").splitlines()]
        host = {name: int(rest.split()[0]) << 10 for name, rest in lines if rest.split()}
        known = self._memory(host)
        out = []
        for name, rest in lines:
            words = rest.split()
            unit = " kB" if words[1:] == ["kB"] else ""
            value = known[name] >> 10 if name in known else int(words[0])
            out.append(f"{name}:{' ' * max(1, 16 - len(name) - 1)}{value:>8}{unit}\n")
        return "".join(out)

    def _memory(self, host: dict[str, int]) -> dict[str, int]:
        """Bytes of what is the container's in meminfo."""
        memory = self._figures()["memory"]
        raw = memory.get("raw") or {}
        limit, used = memory["usage"].get("limit", 0), memory["usage"].get("usage", 0)
        if not raw:
            limit, used = 0, sum(watch.own_memory(pid) for pid in self._pids())

        def of(*names: str) -> int:
            """A figure by its names: v1's of all below, v1's, v2's."""
            return next((raw[name] for name in names if name in raw), 0)

        limits = limit, of("hierarchical_memory_limit"), self._memory_limit(), host["MemTotal"]
        total = min(value for value in limits if value > 0)
        used = min(used, total)
        cache = of("total_cache", "file")
        kinds = {
            f"{state}({kind})": of(f"total_{state.lower()}_{kind}", f"{state.lower()}_{kind}")
            for state in ("Active", "Inactive")
            for kind in ("anon", "file")
        }
        reclaimable = of("slab_reclaimable")
        free = total - used
        out = {
            "MemTotal": total,
            "MemFree": free,
            "MemAvailable": min(total, free + kinds["Active(file)"] + kinds["Inactive(file)"] + reclaimable),
            "Buffers": 0,
            "Cached": cache,
            "SwapCached": 0,
            **kinds,
            "Active": kinds["Active(anon)"] + kinds["Active(file)"],
            "Inactive": kinds["Inactive(anon)"] + kinds["Inactive(file)"],
            "Unevictable": of("total_unevictable", "unevictable"),
            "Dirty": of("total_dirty", "file_dirty"),
            "Writeback": of("total_writeback", "file_writeback"),
            "AnonPages": of("total_rss", "anon"),
            "Mapped": of("total_mapped_file", "file_mapped"),
            "Shmem": of("total_shmem", "shmem"),
            "Slab": of("slab"),
            "KReclaimable": reclaimable,
            "SReclaimable": reclaimable,
            "SUnreclaim": of("slab_unreclaimable"),
        }
        swap, swapped = self._swap(host, memory)
        return {**out, "SwapTotal": swap, "SwapFree": swap - swapped}

    def _swap(self, host: dict[str, int], memory: dict[str, Any]) -> tuple[int, int]:
        """Bytes of swap the container may use, and uses."""
        there = host.get("SwapTotal", 0)
        both, usage = memory["swap"], memory["usage"]
        if not both.get("limit"):
            return there, there - host.get("SwapFree", there)
        swap = min(there, max(0, both["limit"] - usage["limit"]))
        return swap, min(swap, max(0, both.get("usage", 0) - usage.get("usage", 0)))

    def swaps(self) -> str:
        lines = files.read_text("/proc/meminfo").splitlines()
        host = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines if len(line.split()) > 1}
        swap, swapped = self._swap(host, self._figures()["memory"])
        head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        return head + (f"none{' ' * 36}virtual\t\t{swap >> 10}\t{swapped >> 10}\t0\n" if swap else "")

    # --- CPUs ---

    def _cpus(self) -> list[int]:
        """The host's numbers of the CPUs that it may use: as many as its quota is worth."""
        try:
            allowed = sorted(os.sched_getaffinity(self._first))
        except OSError:
            allowed = sorted(os.sched_getaffinity(0))
        return allowed[: max(1, math.ceil(self._quota() or len(allowed)))]

    def _quota(self) -> float:
        """How many CPUs' time it may use; 0 for no limit."""
        group = self.cgroup.group_of("cpu")
        if group is None:
            return 0
        if group.version == 2:
            words = files.read_line(f"{group.path}/cpu.max").split()
        else:
            words = [files.read_line(f"{group.path}/cpu.cfs_{name}_us") for name in ("quota", "period")]
        return int(words[0]) / int(words[1]) if len(words) == 2 and all(word.isdigit() for word in words) else 0

    def cpuinfo(self) -> str:
        blocks = files.read_text("/proc/cpuinfo").split("\n\n")
        wanted = self._cpus()
        out: list[str] = []
        for block in blocks:
            head, _, rest = block.partition("\n")
            name, _, number = head.partition(":")
            if name.strip() == "processor" and number.strip().isdigit():
                if int(number) in wanted:
                    out.append(f"{name}: {len(out)}\n{rest}")
            elif block.strip():
                out.append(block)  # some machines have a last block about the whole
        return "\n\n".join(out) + "\n\n"

    def online(self) -> str:
        count = len(self._cpus())
        return "0\n" if count == 1 else f"0-{count - 1}\n"

    def _used(self) -> list[tuple[int, int, int]]:
        """For each of its CPUs: ticks of user, system and idle time."""
        cpus = self._cpus()
        usage = self._figures()["cpu"]["usage"]
        total, system = usage["total"], usage["kernel"]
        if not total and not self.cgroup.groups:
            times = [_times(pid) for pid in self._pids()]
            total, system = sum(user + kernel for user, kernel in times), sum(kernel for _, kernel in times)
        share = system / (system + usage["user"]) if system + usage["user"] else (system / total if total else 0)
        # what ran on a CPU that is not shown counts as well: then each has its part of the whole
        percpu = usage["percpu"] if len(usage["percpu"]) == len(cpus) else []
        lived = int((time.monotonic() - self._started) * _TICKS)
        out = []
        for place in range(len(cpus)):
            ticks = (percpu[place] if percpu else total // len(cpus)) * _TICKS // 1_000_000_000
            out.append((round(ticks * (1 - share)), round(ticks * share), max(0, lived - ticks)))
        return out

    def stat(self) -> str:
        used = self._used()
        sums = [sum(column) for column in zip(*used, strict=True)]
        out = [_cpu_line("cpu ", *sums)]
        out += [_cpu_line(f"cpu{number}", *ticks) for number, ticks in enumerate(used)]
        running, blocked, total = self._tasks()
        own = {
            "btime": int(time.time() - (time.monotonic() - self._started)),
            "processes": total,
            "procs_running": running,
            "procs_blocked": blocked,
        }
        for line in files.read_text("/proc/stat").splitlines():
            name, _, rest = line.partition(" ")
            if not name.startswith("cpu"):
                whole = rest.partition(" ")[0] if name in ("intr", "softirq") else rest  # not the devices of the host
                out.append(f"{name} {own.get(name, whole)}\n")
        return "".join(out)

    def uptime(self) -> str:
        idle = sum(ticks[2] for ticks in self._used()) / _TICKS
        return f"{time.monotonic() - self._started:.2f} {idle:.2f}\n"

    # --- processes ---

    def _tasks(self) -> tuple[int, int, int]:
        """Processes that run or could, that wait for a disk, and all; of threads the first counts."""
        running = blocked = 0
        found = self._pids()
        for pid in found:
            _, fields = process.stat(pid)
            running += bool(fields) and fields[0] == "R"
            blocked += bool(fields) and fields[0] == "D"
        return running, blocked, len(found)

    def sample(self) -> None:
        """Take the load into account; to be called every five seconds or so."""
        now = time.monotonic()
        running, blocked, _ = self._tasks()
        for place, age in enumerate(_AGES):
            weight = math.exp(-(now - self._sampled) / age)
            self._load[place] = self._load[place] * weight + (running + blocked) * (1 - weight)
        self._sampled = now

    def loadavg(self) -> str:
        running, _, total = self._tasks()
        return " ".join(f"{load:.2f}" for load in self._load) + f" {running}/{total} {total}\n"

    # --- disks ---

    def diskstats(self) -> str:
        block = self._figures()["blkio"]
        figures: dict[tuple[int, int], dict[str, int]] = {}
        for section, unit in (("ioServicedRecursive", 1), ("ioServiceBytesRecursive", _SECTOR)):
            for entry in block.get(section, []):
                device = figures.setdefault((entry["major"], entry["minor"]), {})
                device[f"{section}{entry['op']}"] = entry["value"] // unit
        out = []
        for line in files.read_text("/proc/diskstats").splitlines():
            major, minor, name, *rest = line.split()
            counted = figures.get((int(major), int(minor)))
            if not counted:
                continue
            values = [0] * len(rest)
            for place, key in enumerate(("ioServicedRecursiveRead", "", "ioServiceBytesRecursiveRead", "",
                                         "ioServicedRecursiveWrite", "", "ioServiceBytesRecursiveWrite")):  # fmt: skip
                values[place] = counted.get(key, 0)
            out.append(f"{major:>4} {minor:>7} {name} {' '.join(str(value) for value in values)}\n")
        return "".join(out)


def _cpu_line(name: str, user: int, system: int, idle: int) -> str:
    return f"{name} {user} 0 {system} {idle} 0 0 0 0 0 0\n"


def _times(pid: int) -> tuple[int, int]:
    """Nanoseconds of user and system time of a process."""
    _, fields = process.stat(pid)
    if len(fields) < 13:
        return 0, 0
    return int(fields[11]) * 1_000_000_000 // _TICKS, int(fields[12]) * 1_000_000_000 // _TICKS
