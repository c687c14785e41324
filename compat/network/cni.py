"""CNI lists: found, and their plugins called. Source: CNI specification 1.1.0, sections 1 to 4.

A list and its plugins are the administrator's; what plugins answer is checked where it is used.
"""

from __future__ import annotations

import os
import subprocess

from .. import files, jsonio, libc
from ..constants import MNT_DETACH, MS_BIND
from ..errors import JoeyError, KernelError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CONFIGURATIONS = "/etc/cni/net.d"
_PLUGINS = ("/opt/cni/bin", "/usr/libexec/cni", "/usr/lib/cni")
_NAMESPACES = "/run/netns"  # that of iproute2
_TIMEOUT = 120  # seconds; a plugin may wait for a DHCP server


def find(name: str) -> dict[str, Any]:
    """A list by its name, or by its absolute path. Raises UsageError for what is none."""
    if name.startswith("/"):
        return _read(name)
    folder = os.environ.get("CNI_CONFIG_DIR") or _CONFIGURATIONS
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    known = []
    for file in names:
        if file.endswith((".conflist", ".conf", ".json")):
            found = _read(f"{folder}/{file}")
            if found["name"] == name:
                return found
            known.append(found["name"])
    raise UsageError(f'there is no CNI list "{name}" in {folder}', "lists: " + (", ".join(known) or "none"))


def _read(path: str) -> dict[str, Any]:
    try:
        value = jsonio.loads(files.read_text(path, 1 << 20))
    except OSError as error:
        raise UsageError(f"CNI list {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"CNI list {path} is not JSON: {error}") from None
    if isinstance(value, dict) and "plugins" not in value:  # a single plugin's configuration
        value = {"cniVersion": value.get("cniVersion"), "name": value.get("name"), "plugins": [value]}
    plugins = value.get("plugins") if isinstance(value, dict) else None
    if not isinstance(plugins, list) or not plugins or not isinstance(value.get("name"), str):
        raise UsageError(f"CNI list {path} has no name, or no plugins")
    for plugin in plugins:
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind or kind.startswith("."):
            raise UsageError(f"CNI list {path}: a plugin's type is a program's name")
    value["cniVersion"] = str(value.get("cniVersion") or "0.2.0")
    return dict(value)


def missing(config: dict[str, Any]) -> list[str]:
    """The plugins of a list that are not installed."""
    return sorted({plugin["type"] for plugin in config["plugins"] if not _plugin(plugin["type"])})


def namespace_path(name: str) -> str:
    """Where a network namespace is kept: where `ip netns` has its own."""
    return f"{_NAMESPACES}/joey-{name}"


def keep_namespace(path: str, pid: int) -> None:
    """Have a process's network namespace stay at a `namespace_path`. Raises JoeyError, OSError.

    Plugins' DEL is called when the container's processes have ended, and some do little without it (bridge's ipMasq).
    """
    os.makedirs(_NAMESPACES, 0o755, exist_ok=True)
    drop_namespace(path)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    libc.mount(f"/proc/{pid}/ns/net", path, "", MS_BIND)


def drop_namespace(path: str) -> None:
    """Let go of a namespace that was kept; one that is gone is no error."""
    try:
        libc.umount(path, MNT_DETACH)
    except KernelError:
        pass  # it was never mounted, or somebody was quicker
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


class Attachment:
    """A container's attachment to a list's network: `container` is an id that is unique on the host, `namespace` the
    path of its network namespace ("" once it is gone), `link` the name inside."""

    __slots__ = ("config", "container", "link", "namespace")

    def __init__(self, config: dict[str, Any], container: str, namespace: str, link: str) -> None:
        self.config = config
        self.container = container
        self.namespace = namespace
        self.link = link

    def add(self) -> dict[str, Any]:
        """Call each plugin's ADD, in order; the last one's result. Raises JoeyError."""
        result: dict[str, Any] = {}
        for plugin in self.config["plugins"]:
            result = self._call("ADD", plugin, result)
        return result

    def check(self, result: dict[str, Any]) -> None:
        """Call each plugin's CHECK, in order, with the result of ADD. Raises JoeyError for what is not as it was made.

        Versions before 0.4.0 have no CHECK, and a list may forbid it (disableCheck): nothing is called then.
        """
        version = tuple(int(part) if part.isdigit() else 0 for part in self.config["cniVersion"].split(".")[:2])
        if version < (0, 4) or self.config.get("disableCheck") is True:
            return
        for plugin in self.config["plugins"]:
            self._call("CHECK", plugin, result)

    def delete(self, result: dict[str, Any]) -> None:
        """Call each plugin's DEL, in reverse order, also after one has failed. Raises JoeyError for the first."""
        failed: JoeyError | None = None
        for plugin in reversed(self.config["plugins"]):
            try:
                self._call("DEL", plugin, result)
            except JoeyError as error:
                failed = failed or error
        if failed:
            raise failed

    def _call(self, command: str, plugin: dict[str, Any], previous: dict[str, Any]) -> dict[str, Any]:
        kind = plugin["type"]
        path = _plugin(kind)
        if not path:
            raise JoeyError(f"there is no CNI plugin {kind}", f"looked in {':'.join(_folders())}", "network")
        config = {key: value for key, value in plugin.items() if key != "capabilities"}
        config |= {"cniVersion": self.config["cniVersion"], "name": self.config["name"]}
        if previous:
            config["prevResult"] = previous
        environment = {
            **os.environ,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.container,
            "CNI_NETNS": self.namespace,
            "CNI_IFNAME": self.link,
            "CNI_PATH": ":".join(_folders()),
        }
        try:
            done = subprocess.run(
                [path], input=jsonio.dumps(config).encode(), env=environment, capture_output=True,
                timeout=_TIMEOUT, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise JoeyError(f"CNI plugin {kind} {command}: {error}", slug="network") from None
        try:
            answer = jsonio.loads(done.stdout[: 1 << 20].decode()) if done.stdout.strip() else {}
        except ValueError:
            answer = {}
        if not isinstance(answer, dict):
            answer = {}
        if done.returncode:
            said = answer.get("msg") or done.stderr[-300:].decode("utf-8", "replace").strip()
            details = f": {answer['details']}" if answer.get("details") else ""
            raise JoeyError(f"CNI plugin {kind} {command}: {said}{details}", slug="network")
        return answer


def addresses(result: dict[str, Any]) -> list[str]:
    """The addresses of a result, as text."""
    found = result.get("ips")
    return [str(item.get("address", "")) for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _folders() -> list[str]:
    given = [folder for folder in os.environ.get("CNI_PATH", "").split(":") if folder]
    return given or [folder for folder in _PLUGINS if os.path.isdir(folder)] or [_PLUGINS[0]]


def _plugin(kind: str) -> str:
    for folder in _folders():
        path = f"{folder}/{kind}"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return ""
