"""OCI `linux.resources` as the files to write, for v1 and v2. Pure: nothing here touches the kernel.

Source: runtime-spec config-linux.md "Control groups"; the kernel's cgroup-v1 and cgroup-v2 documents; the v1 to v2
conversions are those of runc and crun (shares to weight, swap as a difference).
"""

from __future__ import annotations

from ..errors import BundleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Setting:
    """One write: `value` into `file` of the group that carries `controller`, asked for by `field` of config.json.

    `other` is the file's name on other kernels.
    """

    __slots__ = ("controller", "field", "file", "other", "value")

    def __init__(self, controller: str, file: str, value: str, field: str, other: str = "") -> None:
        self.other = other
        self.controller = controller
        self.file = file
        self.value = value
        self.field = field


def controllers_needed(resources: dict[str, Any]) -> dict[str, str]:
    """v1 controller names the section asks for, with the field that asks; `unified` is named by its files' prefixes."""
    needed = {}
    for section, controller in (
        ("memory", "memory"), ("pids", "pids"), ("blockIO", "blkio"), ("hugepageLimits", "hugetlb"), ("rdma", "rdma"),
    ):  # fmt: skip
        if resources.get(section):
            needed[controller] = f"linux.resources.{section}"
    cpu = resources.get("cpu") or {}
    if any(key not in ("cpus", "mems") for key in cpu):
        needed["cpu"] = "linux.resources.cpu"
    if cpu.get("cpus") or cpu.get("mems"):
        needed["cpuset"] = "linux.resources.cpu.cpus"
    network = resources.get("network") or {}
    if network.get("classID"):
        needed["net_cls"] = "linux.resources.network.classID"
    if network.get("priorities"):
        needed["net_prio"] = "linux.resources.network.priorities"
    return needed


def settings(resources: dict[str, Any], versions: dict[str, int]) -> list[Setting]:
    """The writes in the order the kernel wants them. `versions` maps each controller to the hierarchy's version."""
    out = []
    for controller, make in (
        ("cpuset", _cpuset), ("cpu", _cpu), ("memory", _memory), ("pids", _pids), ("blkio", _blkio),
        ("hugetlb", _hugetlb), ("rdma", _rdma), ("net_cls", _net_cls), ("net_prio", _net_prio),
    ):  # fmt: skip
        if controller in versions:
            out += make(resources, versions[controller])
    for name, value in (resources.get("unified") or {}).items():
        if "/" in name or name in ("", ".", ".."):
            raise BundleError(f"linux.resources.unified[{name!r}]", "must be a plain file name of the cgroup")
        out.append(Setting(name.split(".")[0], name, value, f"linux.resources.unified[{name!r}]"))
    return out


def _memory(resources: dict[str, Any], version: int) -> list[Setting]:
    memory = resources.get("memory") or {}
    where = "linux.resources.memory"
    limit, swap = memory.get("limit"), memory.get("swap")
    out = []
    if version == 2:
        if swap and limit is None and swap > 0:
            raise BundleError(f"{where}.swap", "needs memory.limit beside it on cgroup v2: it counts memory and swap")
        if limit:
            out.append(Setting("memory", "memory.max", _or_max(limit), f"{where}.limit"))
        if swap:
            if swap > 0 and limit is not None and 0 < swap < limit:
                raise BundleError(f"{where}.swap", f"{swap} is below memory.limit {limit}")
            only_swap = swap - limit if swap > 0 and limit and limit > 0 else swap
            out.append(Setting("memory", "memory.swap.max", _or_max(only_swap), f"{where}.swap"))
        if memory.get("reservation"):
            out.append(Setting("memory", "memory.low", _or_max(memory["reservation"]), f"{where}.reservation"))
        return out
    if memory.get("useHierarchy"):
        out.append(Setting("memory", "memory.use_hierarchy", "1", f"{where}.useHierarchy"))
    if limit:
        out.append(Setting("memory", "memory.limit_in_bytes", str(limit), f"{where}.limit"))
    if swap:
        out.append(Setting("memory", "memory.memsw.limit_in_bytes", str(swap), f"{where}.swap"))
    if memory.get("kernel"):
        out.append(Setting("memory", "memory.kmem.limit_in_bytes", str(memory["kernel"]), f"{where}.kernel"))
    for key, file in (
        ("reservation", "memory.soft_limit_in_bytes"), ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"),
    ):  # fmt: skip
        if memory.get(key):
            out.append(Setting("memory", file, str(memory[key]), f"{where}.{key}"))
    if memory.get("swappiness") is not None:
        out.append(Setting("memory", "memory.swappiness", str(memory["swappiness"]), f"{where}.swappiness"))
    if memory.get("disableOOMKiller"):
        out.append(Setting("memory", "memory.oom_control", "1", f"{where}.disableOOMKiller"))
    return out


def _cpu(resources: dict[str, Any], version: int) -> list[Setting]:
    cpu = resources.get("cpu") or {}
    where = "linux.resources.cpu"
    shares, quota, period, burst = (cpu.get(key) for key in ("shares", "quota", "period", "burst"))
    out = []
    if version == 2:
        if cpu.get("idle") is not None:
            out.append(Setting("cpu", "cpu.idle", str(cpu["idle"]), f"{where}.idle"))
        if shares:
            out.append(Setting("cpu", "cpu.weight", str(weight_of_shares(shares)), f"{where}.shares"))
        if quota or period:
            amount = str(quota) if quota and quota > 0 else "max"
            out.append(Setting("cpu", "cpu.max", f"{amount} {period or 100000}", f"{where}.quota"))
        if burst is not None:
            out.append(Setting("cpu", "cpu.max.burst", str(burst), f"{where}.burst"))
        return out
    if shares:
        out.append(Setting("cpu", "cpu.shares", str(shares), f"{where}.shares"))
    if period:
        out.append(Setting("cpu", "cpu.cfs_period_us", str(period), f"{where}.period"))
    if quota:
        out.append(Setting("cpu", "cpu.cfs_quota_us", str(quota), f"{where}.quota"))
    if burst is not None:
        out.append(Setting("cpu", "cpu.cfs_burst_us", str(burst), f"{where}.burst"))
    if cpu.get("realtimePeriod"):
        out.append(Setting("cpu", "cpu.rt_period_us", str(cpu["realtimePeriod"]), f"{where}.realtimePeriod"))
    if cpu.get("realtimeRuntime"):
        out.append(Setting("cpu", "cpu.rt_runtime_us", str(cpu["realtimeRuntime"]), f"{where}.realtimeRuntime"))
    if cpu.get("idle") is not None:
        out.append(Setting("cpu", "cpu.idle", str(cpu["idle"]), f"{where}.idle"))
    return out


def weight_of_shares(shares: int) -> int:
    """cpu.weight (1-10000) of v1 cpu.shares (2-262144); runc's and Kubernetes' linear conversion."""
    shares = min(max(shares, 2), 262144)
    return 1 + (shares - 2) * 9999 // 262142


def _cpuset(resources: dict[str, Any], version: int) -> list[Setting]:
    cpu = resources.get("cpu") or {}
    return [
        Setting("cpuset", f"cpuset.{key}", cpu[key], f"linux.resources.cpu.{key}")
        for key in ("cpus", "mems")
        if cpu.get(key)
    ]


def _pids(resources: dict[str, Any], version: int) -> list[Setting]:
    limit = (resources.get("pids") or {}).get("limit")
    if not limit:
        return []
    return [Setting("pids", "pids.max", _or_max(limit), "linux.resources.pids.limit")]


_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", "wiops"),
)


def _blkio(resources: dict[str, Any], version: int) -> list[Setting]:
    block = resources.get("blockIO") or {}
    where = "linux.resources.blockIO"
    out = []
    if block.get("weight"):
        if version == 2:
            out.append(Setting("blkio", "io.weight", str(_io_weight(block["weight"])), f"{where}.weight"))
        else:  # since Linux 5.0 there is only BFQ's
            out.append(
                Setting("blkio", "blkio.weight", str(block["weight"]), f"{where}.weight", other="blkio.bfq.weight")
            )
    if block.get("leafWeight") and version == 1:
        out.append(Setting("blkio", "blkio.leaf_weight", str(block["leafWeight"]), f"{where}.leafWeight"))
    for place, device in enumerate(block.get("weightDevice") or []):
        number = f"{device['major']}:{device['minor']}"
        file = "io.weight" if version == 2 else "blkio.weight_device"
        field = f"{where}.weightDevice[{place}]"
        if device.get("weight"):
            weight = _io_weight(device["weight"]) if version == 2 else device["weight"]
            other = "" if version == 2 else "blkio.bfq.weight_device"
            out.append(Setting("blkio", file, f"{number} {weight}", field, other))
        if device.get("leafWeight") and version == 1:
            out.append(Setting("blkio", "blkio.leaf_weight_device", f"{number} {device['leafWeight']}", field))
    for key, file, word in _THROTTLES:
        for place, device in enumerate(block.get(key) or []):
            number = f"{device['major']}:{device['minor']}"
            if version == 2:
                out.append(
                    Setting("blkio", "io.max", f"{number} {word}={device['rate'] or 'max'}", f"{where}.{key}[{place}]")
                )
            else:
                out.append(Setting("blkio", file, f"{number} {device['rate']}", f"{where}.{key}[{place}]"))
    return out


def _io_weight(weight: int) -> int:
    """io.weight (1-10000) of v1 blkio.weight (10-1000); crun's linear conversion."""
    return 1 + (min(max(weight, 10), 1000) - 10) * 9999 // 990


def _hugetlb(resources: dict[str, Any], version: int) -> list[Setting]:
    ending = "max" if version == 2 else "limit_in_bytes"
    out = []
    for place, entry in enumerate(resources.get("hugepageLimits") or []):
        size = entry["pageSize"]
        if "/" in size:
            raise BundleError(f"linux.resources.hugepageLimits[{place}].pageSize", f'"{size}" is no page size')
        field = f"linux.resources.hugepageLimits[{place}]"
        out.append(Setting("hugetlb", f"hugetlb.{size}.{ending}", str(entry["limit"]), field))
    return out


def _rdma(resources: dict[str, Any], version: int) -> list[Setting]:
    out = []
    for device, limits in (resources.get("rdma") or {}).items():
        words = [
            f"{word}={limits[key]}"
            for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object"))
            if limits.get(key) is not None
        ]
        out.append(Setting("rdma", "rdma.max", " ".join([device, *words]), f"linux.resources.rdma[{device!r}]"))
    return out


def _net_cls(resources: dict[str, Any], version: int) -> list[Setting]:
    class_id = (resources.get("network") or {}).get("classID")
    if not class_id:
        return []
    return [Setting("net_cls", "net_cls.classid", str(class_id), "linux.resources.network.classID")]


def _net_prio(resources: dict[str, Any], version: int) -> list[Setting]:
    field = "linux.resources.network.priorities"
    return [
        Setting("net_prio", "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}", field)
        for entry in (resources.get("network") or {}).get("priorities") or []
    ]


def _or_max(number: int) -> str:
    return str(number) if number >= 0 else "max"
