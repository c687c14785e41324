"""The container around a virtual machine: what is made for a start, its bundle, and QEMU's command line."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
from typing import TYPE_CHECKING, Any

from ....compat.errors import JoeyError, UsageError
from ....compat.files import find_program, read_text, write_atomically
from ....compat.sealed import own_command
from ....runtime.needs import LAYERS_PLACE_ANNOTATION, VIEW_ANNOTATION, WITHIN_ANNOTATION
from .. import disk
from . import accel, boot, link, wiring
from .kernel import Kernel, choose

if TYPE_CHECKING:
    from ..guest import Guest
    from ..inits import Init
    from ..model import Rich
    from ..store import Container

FRAME = "vm"  # the root of the container around it, in the bundle
_ROOT = "/machine"
_STATE = "/vm"
_MEMORY = 1 << 30
_OWN_MEMORY = 512 << 20  # what QEMU takes beside the machine's memory, at most
_QEMU = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm", "qemu-kvm")
_PARTS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")  # of the host's root, where they are no links into /usr
_FILES = ("/etc/ld.so.cache", "/etc/alternatives")
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP")  # 9p gives files their owners
_POWER_OFF = 38  # SIGRTMIN+4, systemd(1)
_USER_NET = wiring.Wired(0, "eth0", "52:54:00:12:34:56", 1500, "10.0.2.15", 24, "10.0.2.2")


def folder_of(container: Container) -> str:
    return f"{container.folder}/vm"


def check(rich: Rich) -> None:
    """Refuse what a virtual machine can't have. Raises UsageError, JoeyError."""
    refused = {"--id-map": rich.id_map, "--privileged": rich.privileged, "--cap-add": rich.capabilities,
               "--disk-quota DIR=SIZE": disk.of_others(rich.quotas)}  # fmt: skip
    for name, value in refused.items():
        if value:
            raise UsageError(f"{name} is not for --isolation vm: the machine has a kernel of its own for that")
    if any(word.startswith("container:") for word in rich.networks):
        raise UsageError("--network container:NAME is not for --isolation vm", "a bridge, on which they have names")
    inside = [
        hook.phase
        for hook in rich.hooks
        if hook.place == "container" and hook.phase in ("startContainer", "before-init")
    ]
    if inside:
        raise UsageError(f"--hook {inside[0]}: before its init nothing can run in a virtual machine", "after-services")
    if os.uname().machine != "x86_64":
        raise JoeyError("--isolation vm is for x86-64", slug="vm")


def qemu() -> str:
    """QEMU's place. Raises JoeyError."""
    for name in _QEMU:
        path = find_program(name) if "/" not in name else name if os.access(name, os.X_OK) else ""
        if path and os.path.realpath(path).startswith("/usr/"):
            return os.path.realpath(path)
    raise JoeyError(
        "--isolation vm needs QEMU in /usr", "apt-get install qemu-system-x86, or dnf install qemu-kvm", "vm"
    )


def kernel_of(rich: Rich, lower: Guest) -> Kernel:
    return choose(rich.kernel, lower)


def program_env(rich: Rich) -> dict[str, str]:
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "TERM": "linux", "HOME": "/root", **rich.env}


def prepare(container: Container, rich: Rich, init: Init, lower: Guest) -> None:
    """Make what the next start takes: kernel, initial file system, frame. Raises JoeyError, OSError."""
    check(rich)
    folder = folder_of(container)
    for name in ("boot", "locks"):
        os.makedirs(f"{folder}/{name}", 0o700, exist_ok=True)
    if os.path.lexists(f"{folder}/run"):
        shutil.rmtree(f"{folder}/run")  # of the last time
    os.mkdir(f"{folder}/run", 0o700)
    if not os.path.exists(f"{folder}/status"):
        os.mkfifo(f"{folder}/status", 0o600)
    kernel = kernel_of(rich, lower)
    image = kernel.image()
    is_program = init.kind in ("none", "tini")
    program = b""
    argv = [*init.argv, *rich.argv]
    if is_program:
        user = rich.user or {}
        ids = (user.get("uid", 0), user.get("gid", 0), list(user.get("additionalGids") or []))
        program = link.request(argv, program_env(rich), ids, rich.cwd, None)
    first = boot.script(argv, program_env(rich), init.tmpfs, is_program, rich.pids)
    base = boot.archive(kernel, first, rich.hostname or rich.name, program)
    if rich.networks == ["host"]:
        base += boot.cpio([("links", 0o100644, wiring.commands([_USER_NET]).encode())])
    by_kvm = rich.accel != "tcg" and accel.works(qemu(), image)
    if rich.accel == "kvm" and not by_kvm:
        raise JoeyError(f"--accel kvm: KVM does not run kernel {kernel.release} here", "--accel auto, or tcg", "vm")
    for name, data in (("boot/kernel", image), ("base", base), ("boot/initrd", base)):
        write_atomically(f"{folder}/{name}", data)
    record = {
        "kernel": kernel.release,
        "from": kernel.source,
        "accel": "kvm" if by_kvm else "tcg",
        "program": is_program,
    }
    write_atomically(f"{folder}/machine.json", json.dumps(record) + "\n")
    _make_frame(f"{container.bundle}/{FRAME}")


def made(container: Container) -> dict[str, Any]:
    """What was made for the last start: kernel, from, accel, program; {} for nothing yet."""
    try:
        value: dict[str, Any] = json.loads(read_text(f"{folder_of(container)}/machine.json"))
        return value
    except (OSError, ValueError):
        return {}


def _make_frame(path: str) -> None:
    for name in ("dev", "proc", "tmp", "usr", "etc", "etc/alternatives", _ROOT[1:], "vm", "vm/boot", "vm/run"):
        os.makedirs(f"{path}/{name}", 0o755, exist_ok=True)
    for name in ("etc/ld.so.cache", "vm/status"):
        with open(f"{path}/{name}", "a"):
            pass
    for name in _PARTS:
        if os.path.islink(f"/{name}"):
            if not os.path.lexists(f"{path}/{name}"):
                os.symlink(os.readlink(f"/{name}"), f"{path}/{name}")
        elif os.path.isdir(f"/{name}"):
            os.makedirs(f"{path}/{name}", 0o755, exist_ok=True)


def around(container: Container, rich: Rich, config: dict[str, Any], volumes: list[dict[str, Any]]) -> dict[str, Any]:
    """Make a rich container's config.json that of the container around its virtual machine. Raises JoeyError.

    `volumes` are the mounts among the config's that go into the machine.
    """
    check(rich)
    process, linux = config["process"], config["linux"]
    made_for = made(container)
    process.update(args=_command(container, rich, made_for), env=["PATH=/usr/bin:/bin"], cwd="/", noNewPrivileges=True)
    process["user"] = {"uid": 0, "gid": 0}
    held = [f"CAP_{name}" for name in _CAPABILITIES]
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), held)
    config["root"] = {"path": FRAME, "readonly": True}
    given = {mount["destination"]: mount for mount in config["mounts"]}
    config["mounts"] = [
        *(given[place] for place in ("/proc", "/dev", "/dev/pts", "/dev/shm") if place in given),
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
        *(_bind(f"/{name}", f"/{name}", "ro", "nosuid", "nodev") for name in ("usr", *_PARTS)
          if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}")),
        *(_bind(path, path, "ro") for path in _FILES if os.path.exists(path)),
        _bind(f"{container.bundle}/rootfs", _ROOT, "nosuid", "nodev", "noexec"),
        # what it boots can't be written to, and what it tells is in files of the host's making, but for its sockets
        _bind(f"{folder_of(container)}/boot", f"{_STATE}/boot", "ro", "nosuid", "nodev", "noexec"),
        _bind(f"{folder_of(container)}/run", f"{_STATE}/run", "nosuid", "nodev", "noexec"),
        _bind(f"{folder_of(container)}/status", f"{_STATE}/status", "nosuid", "noexec"),
        *({**mount, "destination": _ROOT + mount["destination"]} for mount in volumes),
    ]  # fmt: skip
    resources = linux["resources"]
    resources["memory"] = {"limit": (rich.memory or _MEMORY) + _OWN_MEMORY}
    resources.pop("pids", None)
    devices = [("/dev/kvm", 10, 232)] if made_for.get("accel") == "kvm" else []
    devices += [("/dev/net/tun", 10, 200)] if _wired(rich) else []
    for path, major, minor in devices:
        device = {"path": path, "type": "c", "major": major, "minor": minor, "fileMode": 0o600, "uid": 0, "gid": 0}
        linux.setdefault("devices", []).append(device)
        rule = {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rw"}
        resources.setdefault("devices", []).append(rule)
    notes = config["annotations"]
    notes[LAYERS_PLACE_ANNOTATION] = "rootfs"
    notes[WITHIN_ANNOTATION] = _ROOT  # links of the machine lead volumes nowhere else
    notes.pop(VIEW_ANNOTATION, None)
    if made_for.get("accel") == "tcg":
        notes["io.joey.rich.lost.kvm"] = (
            "KVM does not run its kernel here: its processor is emulated, some ten times slower"
        )
    if _wired(rich):
        command = [*own_command(), "rich", "wire", "--store", container.store.path, container.name]
        hook = {
            "path": command[0],
            "args": command,
            "env": [f"PATH={os.environ.get('PATH', os.defpath)}"],
            "timeout": 60,
        }
        config.setdefault("hooks", {}).setdefault("createRuntime", []).insert(0, hook)
    return config


def _bind(source: str, place: str, *options: str) -> dict[str, Any]:
    return {"destination": place, "type": "bind", "source": source, "options": ["rbind", *options]}


def _wired(rich: Rich) -> bool:
    """Whether the container around it has links that are handed on."""
    return bool(rich.networks) and rich.networks not in (["host"], ["none"])


def _command(container: Container, rich: Rich, made_for: dict[str, Any]) -> list[str]:
    by_kvm = made_for.get("accel") == "kvm"
    words = [
        qemu(), "-name", rich.name, "-machine", "pc", "-accel", "kvm" if by_kvm else "tcg,tb-size=128",
        "-cpu", "host" if by_kvm else "max", "-m", str(max(rich.memory or _MEMORY, 64 << 20) >> 20),
        "-smp", str(max(1, math.ceil(rich.cpus))), "-nodefaults", "-no-user-config", "-display", "none",
        "-serial", "file:/dev/stdout", "-kernel", f"{_STATE}/boot/kernel", "-initrd", f"{_STATE}/boot/initrd",
        "-append", "console=ttyS0 panic=5 quiet", "-device", "virtio-serial-pci",  # first: its ports are vport0p...
        "-fsdev", f"local,id=root,path={_ROOT},security_model=passthrough,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
        "-device", "virtio-rng-pci",
        "-chardev", f"file,id=status,path={_STATE}/status", "-device", "virtserialport,chardev=status,name=status",
    ]  # fmt: skip
    for number in (*range(boot.PORTS), boot.OWN_PORT):
        words += ["-chardev", f"socket,id=exec{number},path={_STATE}/run/exec{number},server=on,wait=off",
                  "-device", f"virtserialport,chardev=exec{number},name=exec{number}"]  # fmt: skip
    if made_for.get("program"):
        words.append("-no-reboot")  # its end is the machine's
    if rich.networks == ["host"]:
        words += ["-netdev", "user,id=net0", "-device", f"virtio-net-pci,netdev=net0,mac={_USER_NET.mac},romfile="]
    elif _wired(rich):
        words += ["-readconfig", f"{_STATE}/boot/links.cfg"]
    return words


def wire(container: Container, pid: int) -> None:
    """Hand the links of the container around a machine on to it: the runtime's hook, before QEMU starts."""
    folder = folder_of(container)
    links = wiring.wire(pid, container.name)
    text = ""
    for each in links:
        text += (f'[netdev "net{each.number}"]\n  type = "tap"\n  ifname = "{each.tap}"\n  script = "no"\n'
                 f'  downscript = "no"\n[device "nic{each.number}"]\n  driver = "virtio-net-pci"\n'
                 f'  netdev = "net{each.number}"\n  mac = "{each.mac}"\n  romfile = ""\n')  # fmt: skip
    write_atomically(f"{folder}/boot/links.cfg", text)
    with open(f"{folder}/base", "rb") as file:
        base = file.read()
    more = boot.cpio([("links", 0o100644, wiring.commands(links).encode())])
    write_atomically(f"{folder}/boot/initrd", base + more)


def ask_to_end(container: Container, init: Init, number: int) -> None:
    """Tell the machine's first process to shut down. Raises JoeyError where no agent hears it."""
    link.kill(folder_of(container), 1, _POWER_OFF if init.kind == "systemd" else number)


def open_status(container: Container) -> int:
    """The pipe that a machine's program tells its status by, which keeps it until it is read; -1 for none."""
    try:
        fd = os.open(f"{folder_of(container)}/status", os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        return -1
    try:
        while os.read(fd, 1 << 16):  # of the last time
            pass
    except BlockingIOError:
        pass
    return fd


def status_of(container: Container, code: int | None, told: int) -> int | None:
    """How a machine ended, by how its QEMU did: its program's status, or a halt (-SIGINT, as of a pid namespace).

    `told` is what `open_status` gave; it is closed.
    """
    text = b""
    if told >= 0:
        try:
            text = os.read(told, 64)
        except BlockingIOError:
            pass
        os.close(told)
    if code != 0:
        return code
    if not made(container).get("program"):
        return -2
    found = re.fullmatch(rb" *([0-9]{1,3})\n?", text)
    return int(found[1]) if found and int(found[1]) < 256 else 255
