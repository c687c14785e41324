"""A running rich container beside the machine it came from: what of the machine is not there, and why."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...compat.errors import JoeyError, StateError
from ...compat.files import read_text
from ...runtime import network
from ..inventory.take import take
from ..sources.contract import Opened
from ..trees.folder import FolderTree
from . import control

if TYPE_CHECKING:
    from .store import Container

# packages that a machine has for what a container has not
_OF_A_MACHINE = re.compile(
    r"(linux-image|linux-headers|linux-modules|kernel|kernel-core|kernel-modules|grub|grub2|shim|initramfs-tools|dracut|"
    r"microcode|intel-microcode|amd64-microcode|firmware|linux-firmware|os-prober|plymouth|efibootmgr|open-vm-tools)"
)
_OWN = {"resolver": "its network's", "network": "joey has set the network up", "modules": "the kernel is the host's"}


@dataclass
class Difference:
    """`why` is "" where nothing explains it."""

    what: str
    old: str
    new: str
    why: str = ""


def read_inventory(path: str) -> dict[str, Any]:
    """An inventory that joey migrate inspect --json wrote. Raises OSError, JoeyError."""
    try:
        value = json.loads(read_text(path, 64 << 20))
        if not isinstance(value["packages"], list) or not isinstance(value["services"], list):
            raise TypeError("no inventory")
    except (ValueError, KeyError, TypeError) as error:
        raise JoeyError(f"{path} is no inventory: {error}", "joey migrate inspect SOURCE --json makes one") from None
    return dict(value)


def compare(container: Container, old: dict[str, Any]) -> list[Difference]:
    """All differences. Raises StateError where the container does not run."""
    state = container.running()
    if state is None:
        raise StateError(f"{container.name} does not run", f"joey rich start {container.name}", "not-running")
    tree = FolderTree(f"{container.bundle}/rootfs")
    try:
        new = take(Opened(tree, "folder", container.name)).as_json()
    finally:
        tree.close()
    fixes = {item["path"]: item["why"] for item in _fixes(container)}
    out: list[Difference] = []
    keys = ("distribution", "release", "architecture", "time_zone", "groups")
    out += [Difference(key, str(old.get(key)), str(new.get(key))) for key in keys if old.get(key) != new.get(key)]
    out += _packages(old, new)
    for key, name in (("accounts", "account"), ("sudo", "sudo"), ("jobs", "job")):
        out += _lists(name, old.get(key) or [], new.get(key) or [])
    out += _services(container, old, new, fixes)
    out += _ports(old, control.listening_in(container, state.pid))
    out += _mounts(container, old)
    out += [Difference("network", "as its CNI list says", line) for line in network.check(state)]
    out += _settings(container, old, new)
    return out


def _fixes(container: Container) -> list[dict[str, str]]:
    path = f"{container.folder}/fixes.json"
    return list(json.loads(read_text(path))) if os.path.exists(path) else []


def _packages(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    before, after = ({item["name"]: item["version"] for item in value["packages"]} for value in (old, new))
    out = []
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            why = "a container has no kernel, firmware or boot loader" if _OF_A_MACHINE.match(name) else ""
            why = why or ("" if name in before else "it was installed here")
            out.append(Difference(f"package {name}", before.get(name, ""), after.get(name, ""), why))
    return out


def _lists(name: str, old: list[Any], new: list[Any]) -> list[Difference]:
    before, after = ({json.dumps(item, sort_keys=True) for item in value} for value in (old, new))
    out = [Difference(name, item, "") for item in sorted(before - after)]
    return out + [Difference(name, "", item, "it was made here") for item in sorted(after - before)]


def _services(
    container: Container, old: dict[str, Any], new: dict[str, Any], fixes: dict[str, str]
) -> list[Difference]:
    enabled = {item["name"] for item in new["services"]}
    out = []
    for item in old["services"]:
        name, kind = item["name"], item["kind"]
        paths = (f"/etc/systemd/system/{name}.service", f"/etc/systemd/system/{name}", f"/etc/init.d/{name}",
                 f"/etc/init/{name}.conf", f"/etc/rc.d/init.d/{name}")  # fmt: skip
        why = next((fixes[path] for path in paths if path in fixes), "")
        why = why or ("it is for a machine's hardware" if item.get("hardware") else "")
        if name not in enabled:
            out.append(Difference(f"service {name}", "starts", "does not start", why))
        elif kind == "systemd" and (found := _state_of(container, name)) not in ("active", "activating"):
            why = why or ("it has done its work" if found == "inactive" and _is_oneshot(container, name) else "")
            out.append(Difference(f"service {name}", "runs", found, why))
    return out


def _state_of(container: Container, unit: str) -> str:
    return control.inside(container, ["systemctl", "is-active", unit]).stdout.strip() or "unknown"


def _is_oneshot(container: Container, unit: str) -> bool:
    """Whether a unit does something and ends, did not fail, or waits for a condition that is not there."""
    words = ["systemctl", "show", "--property=Type,Result,ConditionResult", unit]
    told = dict(line.partition("=")[::2] for line in control.inside(container, words).stdout.splitlines())
    return told.get("Result") == "success" and (told.get("Type") == "oneshot" or told.get("ConditionResult") == "no")


def _ports(old: dict[str, Any], listening: set[int]) -> list[Difference]:
    wanted = {item["number"]: item["service"] for item in old["ports"] if item["protocol"] == "tcp"}
    out = [Difference(f"port {port}", f"{service} listens", "nobody listens") for port, service in wanted.items()
           if port not in listening]  # fmt: skip
    return out + [Difference(f"port {port}", "", "somebody listens", "it was opened here")
                  for port in sorted(listening - set(wanted))]  # fmt: skip


def _mounts(container: Container, old: dict[str, Any]) -> list[Difference]:
    given = {volume.destination for volume in container.rich().volumes}
    out = []
    for item in old["mounts"]:
        if item["target"] in given or item["kind"] in ("swap", "none"):
            continue
        local = item["device"].startswith(("/dev/", "UUID=", "LABEL=", "PARTUUID="))
        virtual = item["type"] in ("proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "debugfs", "cgroup", "hugetlbfs")
        why = "the image has its files" if local else "the runtime mounts what it needs" if virtual else ""
        out.append(Difference(f"mount {item['target']}", item["device"], "", why))
    return out


def _settings(container: Container, old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    out = []
    for key, lines in old["settings"].items():
        if key == "sysctl":
            out += _sysctls(container, lines)
        elif lines != new["settings"].get(key, []):
            gone = [line for line in lines if line not in new["settings"].get(key, [])]
            out.append(
                Difference(
                    f"settings: {key}", "; ".join(gone)[:200], "", _OWN.get(key, "") if gone else "in another order"
                )
            )
    return out


def _sysctls(container: Container, lines: list[str]) -> list[Difference]:
    out = []
    for line in lines:
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not re.match(r"[a-z0-9_./-]+$", name) or ".." in name:
            continue
        path = "/proc/sys/" + name.replace(".", "/")
        found = control.inside(container, ["cat", path])
        now = " ".join(found.stdout.split())
        if found.returncode == 0 and now != " ".join(value.split()):
            why = "" if name.startswith("net.") else "it is the host kernel's: set it there"
            out.append(Difference(f"kernel setting {name}", value, now, why))
    return out
