"""What several verbs of `joey rich` share: their options, and finding the container."""

from __future__ import annotations

import os

from ....compat.errors import JoeyError, UsageError
from ....runtime.options import Arguments, Option
from ...sizes import parse_size
from .. import blocks, control
from ..model import (
    Health,
    Rich,
    parse_hook,
    parse_id_map,
    parse_port,
    parse_restart,
    parse_variable,
    parse_volume,
)
from ..store import Container, Store

STORE = Option("--store", "DIR", "where rich containers are kept (default: $JOEY_RICH or /var/lib/joey/rich)")
LIMITS = (
    Option("--memory", "SIZE", "memory limit, such as 512M or 2G"),
    Option("--cpus", "N", "CPU time, in CPUs: 0.5 is half of one"),
    Option("--pids", "N", "processes and threads"),
    Option("--blkio-weight", "N", "share of disk time, 10 to 1000"),
    Option(
        "--device-read-bps", "PATH:SIZE", "bytes a second read from the disk at PATH, or below it; 0: any", many=True
    ),
    Option("--device-write-bps", "PATH:SIZE", "the same for what is written; both may be repeated", many=True),
    Option("--device-read-iops", "PATH:N", "reads a second of that disk", many=True),
    Option("--device-write-iops", "PATH:N", "writes a second", many=True),
    Option("--restart", "POLICY", "no, on-failure[:N], always or unless-stopped"),
    Option("--env -e", "NAME=VALUE", "for its init, services, logins, ssh and cron; may be repeated", many=True),
    Option("--stop-timeout", "SECONDS", "how long it may take to shut down"),
    Option(
        "--wait-for",
        "WHAT",
        "what tells that it is up: init, target:NAME, service:NAME, port:N, command:CMD",
        many=True,
    ),
    Option("--wait-timeout", "SECONDS", "how long it may take to come up"),
    Option("--hook", "PHASE[,SETTING]:COMMAND", "run a command at a phase of its life; may be repeated", many=True),
    Option("--health", "COMMAND", "a command inside that says whether it is well; none switches it off"),
    Option("--health-interval", "SECONDS", "time between two of them"),
    Option("--label", "NAME=VALUE", "a note on it; may be repeated", many=True),
)
MAKING = (
    STORE,
    Option("--name", "NAME", "its name (default: the image's)"),
    Option("--rootfs", "DIR", "its files are those of a directory, which stays as it is; no IMAGE then"),
    Option(
        "--init", "KIND", "systemd, sysvinit, upstart, openrc, busybox, tini or none (default: what is found)", "auto"
    ),
    Option("--hostname", "NAME", "its host name (default: its name)"),
    Option("--network", "NETWORK", "as `joey run` has it, or host, none, container:NAME; may be repeated", many=True),
    Option("--publish -p", "[ADDRESS:]HOST:PORT", "lead a port of the host to one of it; /udp may follow", many=True),
    Option(
        "--volume -v",
        "SOURCE:DIR[:OPTIONS]",
        "a directory of the host or a named volume; DIR alone is a tmpfs",
        many=True,
    ),
    Option("--disk-quota", "[DIRS=]SIZE", "limit its disk, as `joey run` does; may be repeated", many=True),
    Option("--views", "", "have free, top and nproc show its own memory and CPUs"),
    Option("--id-map", "HOST[:COUNT]", "its ids from 0 on are the host's from HOST on: its root is nobody's"),
    Option("--cap-add", "NAME", "one more capability; may be repeated", many=True),
    Option("--isolation", "container|vm", "vm: a kernel of its own, in QEMU", "container"),
    Option("--kernel", "FILE|DIR", "that kernel (default: the image's own, else the host's)"),
    Option("--accel", "auto|kvm|tcg", "how QEMU runs it (default: KVM, where it is seen to work)", "auto"),
    Option("--privileged", "", "every capability, no masks: as good as root of the host"),
    Option("--scripts", "DIR", "hooks as files: DIR/PHASE/NAME"),
    Option("--beside", "NAME:COMMAND", "one more service of its init; may be repeated", many=True),
    Option("--no-fixes", "", "change nothing of the machine's files"),
    *LIMITS,
    Option("--policy", "POLICY", "strict: refuse weaker protection; permissive: go on and say what is lost"),
    Option("--force", "FEATURE=MECHANISM", "use this mechanism for a feature; may be repeated", many=True),
)


def store_of(arguments: Arguments) -> Store:
    if os.geteuid() != 0:
        raise JoeyError("rich containers take root", "plain users run bundles: joey run")
    return Store(arguments.text("store"))


def container_of(arguments: Arguments) -> Container:
    return store_of(arguments).get(arguments.words[0])


def seconds_of(arguments: Arguments, name: str, default: float) -> float:
    """An option's seconds. Raises UsageError."""
    word = arguments.text(name)
    if not word:
        return default
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise UsageError(f'--{name}: "{word}" is no number of seconds')
    return value


def set_limits(arguments: Arguments, rich: Rich) -> None:
    """What `create` and `update` both set, where it is given. Raises UsageError."""
    if word := arguments.text("memory"):
        rich.memory = _size(word, "memory")
    if word := arguments.text("cpus"):
        try:
            rich.cpus = float(word)
        except ValueError:
            rich.cpus = -1.0
        if not 0 <= rich.cpus <= 8192:
            raise UsageError(f'--cpus: "{word}" is no number of CPUs')
    rich.pids = arguments.number("pids", rich.pids)
    rich.io_weight = arguments.number("blkio-weight", rich.io_weight)
    if arguments.given("blkio-weight") and not 10 <= rich.io_weight <= 1000:
        raise UsageError(f"--blkio-weight: {rich.io_weight} is not 10 to 1000")
    for option in blocks.RATES:
        for word in arguments.many(option):
            blocks.set_rate(rich.io, option, *blocks.parse_rate(word, option))
    if word := arguments.text("restart"):
        rich.restart, rich.most_restarts = parse_restart(word)
    rich.env.update(parse_variable(word) for word in arguments.many("env"))
    rich.stop_seconds = seconds_of(arguments, "stop-timeout", rich.stop_seconds)
    rich.wait_seconds = seconds_of(arguments, "wait-timeout", rich.wait_seconds)
    for word in arguments.many("wait-for"):
        control.check_wait(word)
    rich.wait = arguments.many("wait-for") or rich.wait
    rich.hooks += [parse_hook(word) for word in arguments.many("hook")]
    if arguments.text("health") == "none":
        rich.health = None
    elif word := arguments.text("health"):
        rich.health = Health(["sh", "-c", word])
    if rich.health:
        rich.health.interval = seconds_of(arguments, "health-interval", rich.health.interval)
        if rich.health.interval <= 0:
            raise UsageError("--health-interval: more than no time at all")
    for word in arguments.many("label"):
        name, _, value = word.partition("=")
        rich.labels[name] = value


def set_making(arguments: Arguments, rich: Rich) -> None:
    """What only `create` sets. Raises UsageError."""
    import shlex

    set_limits(arguments, rich)
    rich.asked = rich.init = arguments.text("init")
    rich.hostname = arguments.text("hostname")
    rich.isolation, rich.accel = arguments.text("isolation"), arguments.text("accel")
    rich.kernel = os.path.abspath(word) if (word := arguments.text("kernel")) else ""
    if rich.isolation not in ("container", "vm") or rich.accel not in ("auto", "kvm", "tcg"):
        raise UsageError("--isolation is container or vm, --accel is auto, kvm or tcg")
    if rich.isolation != "vm" and (rich.kernel or rich.accel != "auto"):
        raise UsageError("--kernel and --accel are for --isolation vm")
    rich.networks = arguments.many("network")
    for word in arguments.many("publish"):
        if parse_port(word)[0].startswith("127."):
            raise UsageError(
                f"--publish {word}: packets of the loopback link don't leave it", "another address, or none"
            )
        if any(network in ("none", "host") or network.startswith("container:") for network in rich.networks):
            raise UsageError(f"--publish {word}: it needs a network of its own", "--network bridge")
    rich.ports = arguments.many("publish")
    rich.volumes = [parse_volume(word) for word in arguments.many("volume")]
    rich.quotas = arguments.many("disk-quota")
    rich.views = arguments.switch("views")
    rich.capabilities = [word.removeprefix("CAP_") for word in arguments.many("cap-add")]
    rich.privileged = arguments.switch("privileged")
    rich.id_map = arguments.text("id-map")
    if rich.id_map:
        parse_id_map(rich.id_map)
    rich.scripts = os.path.abspath(arguments.text("scripts")) if arguments.given("scripts") else ""
    rich.fixes = not arguments.switch("no-fixes")
    for word in arguments.many("beside"):
        name, colon, command = word.partition(":")
        if not colon or not name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f'--beside: "{word}" is not NAME:COMMAND')
        rich.beside[name] = shlex.split(command)
    rich.policy = arguments.text("policy")
    rich.force = arguments.many("force")


def _size(word: str, option: str) -> int:
    size = parse_size(word)
    if size is None:
        raise UsageError(f'--{option}: "{word}" is not a size, such as 512M')
    return size
