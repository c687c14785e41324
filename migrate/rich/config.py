"""The bundle of a rich container: config.json, its layers, its volumes."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
from typing import Any

from ...compat import treecopy
from ...compat.constants import CAPABILITIES
from ...compat.errors import JoeyError, KernelError, UsageError
from ...compat.files import read_text, write_atomically
from ...compat.mountflags import TRACKING
from ...compat.network.words import networks as parse_networks
from ...compat.rootpath import Root
from ...probes.cache import cached_or_probed
from ...runtime.commands.spec import template
from ...runtime.layers import FOLDER as LAYERS
from ...runtime.needs import LAYERS_ANNOTATION, NETWORK_ANNOTATION, QUOTA_ANNOTATION, VIEW_ANNOTATION
from . import blocks, disk, fixes, inits, resolving, shifted
from .guest import Guest
from .model import BY_RUNTIME, Hook, Rich, Volume, parse_id_map
from .seccomp import PROFILE
from .store import Container

# what docker gives: enough for services that start as root and give their rights up
_BOUNDED = ("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
            "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT")  # fmt: skip
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OLDER = ("sysvinit", "upstart", "openrc", "busybox")
_PERIOD = 100_000  # microseconds


def guest_of(container: Container, rich: Rich) -> Guest:
    """The container's files as they are when it is down: what it has written, and the image below."""
    return Guest(f"{container.bundle}/{LAYERS}/upper", f"{container.bundle}/rootfs", rich.lower)


def identity_of(guest: Guest) -> dict[str, fixes.Fix]:
    """What tells a machine from others, and is not to change: its machine-id and its ssh host keys."""
    keys = [f"/etc/ssh/{name}" for name in guest.names("/etc/ssh") if name.startswith("ssh_host_")]
    found = {path: guest.text(path) for path in ["/etc/machine-id", *keys]}
    return {
        path: fixes.Fix(path, "its identity, kept", text, mode=guest.mode(path) & 0o777)
        for path, text in found.items()
        if text.strip()
    }


def write_fixes(
    container: Container, rich: Rich, init: inits.Init, identity: dict[str, fixes.Fix] | None = None
) -> None:
    """Make the layer of fixes anew. `identity`: what it is to keep; that of the layer as it is where it is None."""
    folder = f"{container.folder}/fixes"
    kept = identity_of(Guest(folder)) if identity is None else identity
    lower = Guest(rich.lower)
    made = {fix.path: fix for fix in (fixes.of(init.kind, lower, rich) if rich.fixes else [])}
    made.update(kept)
    new = f"{folder}.new"
    if os.path.lexists(new):
        shutil.rmtree(new)
    os.mkdir(new, 0o755)
    for fix in made.values():
        # where a directory of the image is a link (/etc/rc.d -> ...), what it leads to is covered
        path = f"{new}{lower.settled(os.path.dirname(fix.path))}/{os.path.basename(fix.path)}"
        _make_parents(new, os.path.dirname(path), lower)
        if os.path.lexists(path):
            continue
        if fix.target:
            os.symlink(fix.target, path)
        else:
            write_atomically(path, fix.text.encode("utf-8", "surrogateescape"), fix.mode)
    shifted.own(container, rich, new)
    if os.path.isdir(folder):
        shutil.rmtree(folder)
    os.rename(new, folder)
    rows = [{"path": fix.path, "why": fix.why} for fix in made.values()]
    write_atomically(f"{container.folder}/fixes.json", json.dumps(rows, indent=1) + "\n")


def has_moved(container: Container, rich: Rich) -> bool:
    """Whether the name server that its layer of fixes names is at another address now: its bridge was made anew."""
    written = Guest(f"{container.folder}/fixes").text("/etc/resolv.conf")
    return bool(rich.fixes and written) and written != resolving.resolv_conf(Guest(rich.lower), rich)[0]


def _make_parents(top: str, folder: str, lower: Guest) -> None:
    """Directories of the layer have the modes of the image's, for they cover them."""
    below = folder[len(top) :].strip("/")
    path = top
    for part in below.split("/") if below else []:
        path = f"{path}/{part}"
        if not os.path.isdir(path):
            os.mkdir(path)
            os.chmod(path, lower.mode(path[len(top) :]) & 0o7777 or 0o755)


def drop_own_environment(container: Container) -> None:
    """Take away the /etc/environment that an update wrote in it while it ran: the layer of fixes has it by now."""
    root = Root(f"{container.bundle}/{LAYERS}/upper", native=False)
    try:
        root.attach()
    except OSError:
        return
    try:
        if fixes.MARK in Guest(root.path).text("/etc/environment"):
            folder = root.open("/etc")
            try:
                os.unlink("environment", dir_fd=folder)
            finally:
                os.close(folder)
    except (OSError, KernelError):
        return
    finally:
        root.close()


def renew_record(container: Container, rich: Rich) -> None:
    """The runtime's record of the layers names them: they have another name, or are others."""
    path = f"{container.bundle}/{LAYERS}/record.json"
    try:
        value = json.loads(read_text(path))
    except FileNotFoundError:
        return
    value["layers"] = layers_of(container, rich)
    write_atomically(path, json.dumps(value))


def layers_of(container: Container, rich: Rich) -> list[str]:
    return [shifted.lower_of(container, rich), f"{container.folder}/fixes"]


def remember_addresses(container: Container, entries: list[dict[str, Any]]) -> bool:
    """Note what its links have got, for its next starts; whether that is new. `entries` are the state's networks."""
    found = {entry["link"]: entry["address"] for entry in entries if entry.get("address")}
    if not found or found == _addresses(container):
        return False
    write_atomically(f"{container.folder}/addresses.json", json.dumps(found) + "\n")
    return True


def _addresses(container: Container) -> dict[str, str]:
    try:
        value: dict[str, str] = json.loads(read_text(f"{container.folder}/addresses.json"))
    except (FileNotFoundError, ValueError):
        return {}
    return value


def _where_it_was(container: Container, words: list[str]) -> list[str]:
    """The words of its networks, with the addresses that it had where it says none."""
    known = _addresses(container)
    return [
        f"{word},prefer={known[network.link]}"
        if network.kind == "bridge" and not (network.address or network.prefer) and network.link in known
        else word
        for word, network in zip(words, parse_networks(words), strict=True)
    ]


def write_bundle(container: Container, rich: Rich, init: inits.Init, network: str = "") -> None:
    """Write config.json for the next start. `network`: the namespace that it is to join."""
    os.makedirs(container.bundle, 0o700, exist_ok=True)
    config = config_of(container, rich, init)
    for entry in config["linux"]["namespaces"] if network else ():
        if entry["type"] == "network":
            entry["path"] = network
    text = json.dumps(config, indent=1) + "\n"
    write_atomically(f"{container.bundle}/config.json", text)


def config_of(container: Container, rich: Rich, init: inits.Init) -> dict[str, Any]:
    config = template()
    process, linux = config["process"], config["linux"]
    process.update(terminal=False, noNewPrivileges=False, cwd=rich.cwd, args=[*init.argv, *rich.argv])
    if not process["args"]:
        raise UsageError("no program: the image names none", "give one, or --init for a machine's own")
    del process["rlimits"]
    if init.kind in ("none", "tini"):
        process["user"] = rich.user or {"uid": 0, "gid": 0}
    env = {"PATH": _PATH, "container": "joey", "TERM": "linux", **rich.env}
    process["env"] = [f"{name}={value}" for name, value in env.items()]
    names = [*_BOUNDED, *rich.capabilities, *(["SYS_BOOT"] if init.boots and may_reboot() else [])]
    held = list(CAPABILITIES) if rich.privileged else [f"CAP_{name}" for name in dict.fromkeys(names)]
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), held)
    config["root"] = {"path": "rootfs", "readonly": False}
    config["hostname"] = rich.hostname or rich.name
    volumes = _volumes(container, rich)
    config["mounts"] = [*_mounts(config["mounts"], rich, init), *volumes]
    if init.kind != "systemd":  # which takes a terminal there, or nothing
        config["mounts"].append(
            {"destination": "/dev/console", "type": "bind", "source": container.console, "options": ["bind"]}
        )
    linux["namespaces"].append({"type": "cgroup"})
    linux["cgroupsPath"] = f"/joey/rich-{rich.name}" if container.store.runtime == "/run/joey/rich" else (
        f"/joey/{os.path.basename(container.store.runtime)}-{rich.name}")  # fmt: skip
    if rich.privileged:
        linux["maskedPaths"], linux["readonlyPaths"] = [], []
    lost = {}
    if not rich.privileged:
        if cached_or_probed().works("seccomp.filter"):
            linux["seccomp"] = PROFILE
        else:  # a tracer of a whole machine would cost every call of it
            lost["io.joey.rich.lost.seccomp"] = (
                "this kernel has no seccomp filters: calls are held back by capabilities alone"
            )
    linux["resources"] = {**linux["resources"], **resources(rich)}
    _network(rich, linux)
    config["annotations"] = {
        LAYERS_ANNOTATION: ";".join(layers_of(container, rich)),
        **{f"io.joey.rich.label.{key}": value for key, value in rich.labels.items()},
    }
    networks = _where_it_was(container, resolving.words(Guest(rich.lower), rich))
    quotas = disk.of_others(rich.quotas) if disk.own(container, rich) else rich.quotas
    notes = {
        NETWORK_ANNOTATION: ";".join(networks),
        QUOTA_ANNOTATION: ";".join(quotas),
        VIEW_ANNOTATION: "on" if rich.views else "",
    }
    config["annotations"].update({key: value for key, value in {**notes, **lost}.items() if value})
    hooks = _hooks(rich, container.console)
    if rich.id_map:
        first, count = parse_id_map(rich.id_map)
        linux["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            linux[name] = [{"containerID": 0, "hostID": first, "size": count}]
        hooks.setdefault("createRuntime", []).insert(0, _own_cgroups(linux["cgroupsPath"], first))
    if hooks:
        config["hooks"] = hooks
    if rich.isolation == "vm":
        from .vm import machine

        return machine.around(container, rich, config, volumes)
    return config


def check_kernel(rich: Rich, init: inits.Init, lower: Guest) -> None:
    """Raise JoeyError where a machine's init can't run on the kernel that it gets."""
    release = ""
    if rich.isolation == "vm":
        from .vm import machine

        machine.check(rich)
        release = machine.kernel_of(rich, lower).release
    inits.check_kernel(init, lower, release)


def may_reboot() -> bool:
    """Whether reboot(2) in a pid namespace ends that alone: before Linux 3.4 it is the host's."""
    return cached_or_probed().works("pidns.reboot")


def _mounts(given: list[dict[str, Any]], rich: Rich, init: inits.Init) -> list[dict[str, Any]]:
    out = []
    writable = {"/sys/fs/cgroup"} if init.kind == "systemd" else set()
    writable |= {"/sys"} if rich.privileged else set()
    for mount in given:
        if mount["destination"] == "/sys/fs/cgroup" and init.kind in _OLDER:
            continue  # which would try to use them
        options = [word for word in mount.get("options") or [] if word not in ("ro", "relatime")]
        if mount["destination"] == "/sys/fs/cgroup" and not rich.privileged:
            options += ["ro", TRACKING]  # its own limits are not its own to lift
        out.append({**mount, "options": options} if mount["destination"] in writable else mount)
    for path, mode in init.tmpfs.items():
        options = ["nosuid", "nodev", f"mode={mode}"]
        out.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options})
    return out


def _volumes(container: Container, rich: Rich) -> list[dict[str, Any]]:
    out = []
    for volume in rich.volumes:
        if not volume.source:
            options = ["nosuid", "nodev", *(volume.options or ["mode=1777"])]
            out.append({"destination": volume.destination, "type": "tmpfs", "source": "tmpfs", "options": options})
            continue
        source = volume.source if volume.source.startswith("/") else container.store.volume(volume.source)
        words = [word for word in volume.options if word not in ("rw", "nocopy")]
        kind = [] if "bind" in words or "rbind" in words else ["rbind"]
        out.append({"destination": volume.destination, "type": "bind", "source": source, "options": [*kind, *words]})
    return out


def prepare_volumes(container: Container, rich: Rich) -> None:
    """Make named volumes that are not there; what the image has at their place is copied into a new one."""
    for volume in rich.volumes:
        if volume.source.startswith("/"):
            if not os.path.exists(volume.source):
                raise JoeyError(f"--volume: {volume.source} does not exist", "make it first")
        elif volume.source:
            _make_volume(container, rich, volume)


def _make_volume(container: Container, rich: Rich, volume: Volume) -> None:
    path = container.store.volume(volume.source)
    folder = os.path.dirname(path)
    os.makedirs(folder, 0o700, exist_ok=True)
    if rich.id_map:
        os.chmod(folder, 0o711)  # to pass through
    lock = os.open(f"{folder}/.{volume.source}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(path):
            return
        new = f"{folder}/.{volume.source}.new"
        if os.path.lexists(new):
            shutil.rmtree(new)  # of one that was killed
        os.mkdir(new, 0o755)
        inside = Guest(rich.lower).real(volume.destination)
        if inside and "nocopy" not in volume.options and os.path.isdir(f"{rich.lower}{inside}"):
            source, target = (os.open(place, os.O_RDONLY | os.O_DIRECTORY) for place in (f"{rich.lower}{inside}", new))
            try:
                treecopy.copy_contents(source, target)
            finally:
                os.close(source)
                os.close(target)
        shifted.own(container, rich, new)
        os.rename(new, path)
    finally:
        os.close(lock)


def resources(rich: Rich) -> dict[str, Any]:
    """Its limits as the spec has them. Raises JoeyError for a disk that is not there."""
    block = blocks.limits(rich.io_weight, rich.io)
    return {**limits(rich), **({"blockIO": block} if block else {})}


def limits(rich: Rich) -> dict[str, Any]:
    """Those of memory, processors and processes."""
    out: dict[str, Any] = {}
    if rich.memory:
        out["memory"] = {"limit": rich.memory}
    if rich.cpus:
        out["cpu"] = {"quota": int(rich.cpus * _PERIOD), "period": _PERIOD}
    if rich.pids:
        out["pids"] = {"limit": rich.pids}
    return out


def _network(rich: Rich, linux: dict[str, Any]) -> None:
    """The network namespace: its own, the host's, or another container's."""
    if rich.networks == ["host"]:
        linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "network"]
    elif len(rich.networks) > 1 and any(word == "host" or word.startswith("container:") for word in rich.networks):
        raise UsageError("--network: host and container:NAME stand alone")


def _hooks(rich: Rich, console: str) -> dict[str, list[dict[str, Any]]]:
    """Those that the runtime runs."""
    out: dict[str, list[dict[str, Any]]] = {}
    for hook in [*rich.hooks, *script_hooks(rich.scripts)]:
        phase = hook.phase
        if phase == "before-init":
            phase = "startContainer" if hook.place == "container" else "createRuntime"
        if phase in BY_RUNTIME:
            out.setdefault(phase, []).append(as_oci(hook, console))
    return out


def _own_cgroups(path: str, first: int) -> dict[str, Any]:
    """Its cgroups are its root's, who makes others below them: systemd does. Source: cgroup-v2, "Delegation"."""
    script = (
        'for group in /sys/fs/cgroup"$1" /sys/fs/cgroup/*"$1"; do [ -d "$group" ] || continue; chown "$2:$2" "$group"; '
        "for file in tasks cgroup.procs cgroup.threads cgroup.subtree_control; do "
        '[ ! -e "$group/$file" ] || chown "$2:$2" "$group/$file"; done; done'
    )
    return {
        "path": "/bin/sh",
        "args": ["sh", "-c", script, "sh", path, str(first)],
        "env": [f"PATH={_PATH}"],
        "timeout": 30,
    }


def as_oci(hook: Hook, console: str) -> dict[str, Any]:
    """A hook of the runtime's. Its program is found by a shell, as its writer would have it found; what it says goes to
    the container's log."""
    log = f"exec >>{shlex.quote(console)} 2>&1; " if hook.place == "host" else ""
    rest = '"$@" || echo "joey: a hook failed with status $?: $*" >&2' if hook.failure == "ignore" else 'exec "$@"'
    return {
        "path": "/bin/sh",
        "args": ["sh", "-c", log + rest, "sh", *hook.command],
        "env": [f"PATH={_PATH}", f"JOEY_PHASE={hook.phase}"],
        "timeout": hook.seconds,
    }


def script_hooks(folder: str) -> list[Hook]:
    """A directory of scripts: FOLDER/PHASE/NAME, run in the order of their names, on the host."""
    out = []
    for phase in (*BY_RUNTIME, "before-init", "after-services", "before-stop", "on-upgrade"):
        place = f"{folder}/{phase}"
        if not folder or not os.path.isdir(place) or phase == "startContainer":
            continue
        paths = [f"{place}/{name}" for name in sorted(os.listdir(place))]
        out += [Hook(phase, [path], "host") for path in paths if os.access(path, os.X_OK) and os.path.isfile(path)]
    return out
