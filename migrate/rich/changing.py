"""Changes of a rich container: limits and environment while it runs, and another image with a way back."""

from __future__ import annotations

import os
import shutil
import subprocess

from ...compat import treecopy
from ...compat.errors import JoeyError, StateError
from ...compat.files import write_atomically
from ...compat.quota.words import pools
from ...runtime.layers import FOLDER as LAYERS
from . import config, control, disk, fixes, inits
from .guest import Guest
from .model import Rich
from .store import RUNNING, Container

_BEFORE = "before"
_KEPT = ("rich.json", "fixes", "fixes.json", "bundle")
_IDENTITY = ("etc/ssh", "etc/machine-id", "etc/hostname")


def update(container: Container, rich: Rich, quotas: list[str], env: bool) -> None:
    """Change a container to what `rich` is: what can be changed while it runs is, all or nothing. Raises JoeyError."""
    running = container.running()
    if running:
        words = ["--memory", str(rich.memory)] if rich.memory else []
        words += ["--cpu-quota", str(int(rich.cpus * 100_000)), "--cpu-period", "100000"] if rich.cpus else []
        words += ["--pids-limit", str(rich.pids)] if rich.pids else []
        kept = disk.of_others(quotas) if disk.own(container, rich) else quotas
        words += [word for quota in kept for word in ("--disk-quota", quota)]
        done = control.call(container, "update", *words, container.name) if words else None
        if done and done.returncode:
            raise JoeyError(done.stderr.strip().removeprefix("joey: "))
    if own := disk.of_root(quotas) if disk.own(container, rich) else []:
        disk.grow(container, pools(own[-1:], ["/"])[0].size)
    for quota in quotas:
        head = quota.rpartition("=")[0]
        rich.quotas = [word for word in rich.quotas if word.rpartition("=")[0] != head] + [quota]
    container.save(rich)
    init = inits.of(rich.init, Guest(rich.lower))
    if env or not running:
        config.write_fixes(container, rich, init) if not running else _tell_environment(container, rich, init)


def _tell_environment(container: Container, rich: Rich, init: inits.Init) -> None:
    """Have sessions and services that start from now on get it."""
    text = fixes.environment(config.guest_of(container, rich), rich.env)
    script = 'printf %s "$1" >/etc/environment.new && mv /etc/environment.new /etc/environment'
    control.inside(container, ["sh", "-c", script, "sh", text])
    if init.kind == "systemd" and rich.env:
        control.inside(
            container, ["systemctl", "set-environment", *(f"{key}={value}" for key, value in rich.env.items())]
        )


# --- another image --------------------------------------------------------------------------------------------------


def upgrade(container: Container, lower: str, reference: str, keep: bool) -> None:
    """Put another image in the place of a container's. Raises JoeyError; then it is as it was."""
    if not os.path.isdir(lower):
        raise JoeyError(f"{lower} is not a directory")
    before = f"{container.folder}/{_BEFORE}"
    if os.path.isdir(before):
        raise StateError(
            f"{container.name} has an upgrade that is not confirmed", "joey rich confirm, or rollback", "busy"
        )
    rich = container.rich()
    guest = Guest(lower)
    init = inits.of("auto" if inits.detect(guest) != "none" else rich.init, guest)
    inits.check_kernel(init, guest)
    was_running = container.running() is not None or container.life().wanted == RUNNING
    upper = f"{container.bundle}/{LAYERS}/upper"
    if keep and os.path.isdir(container.bundle) and not os.path.isdir(upper):
        raise JoeyError(
            "what it has written can't be told from its image here: its layers are one directory",
            "--changes discard, with what must stay in a volume",
        )
    control.run_hooks(container, rich, "on-upgrade", {"JOEY_IMAGE": reference or lower, "JOEY_STEP": "before"})
    if was_running:
        control.stop(container)
    with container.locked():
        new = f"{before}.new"
        if os.path.lexists(new):
            shutil.rmtree(new)
        os.mkdir(new, 0o700)
        for name in _KEPT:
            if os.path.exists(f"{container.folder}/{name}"):
                (shutil.copy2 if name == "rich.json" else os.rename)(f"{container.folder}/{name}", f"{new}/{name}")
        os.rename(new, before)
        try:
            rich.lower, rich.image, rich.init = lower, reference, init.kind
            container.save(rich)
            os.makedirs(container.bundle, 0o700, exist_ok=True)
            disk.prepare(container, rich)
            if os.path.exists(f"{before}/bundle/disk.img"):
                disk.remount(f"{before}/bundle")
            _carry_over(container, f"{before}/bundle/{LAYERS}/upper", keep)
            config.write_fixes(container, rich, init)
            _keep_identity(container, before)
        except BaseException:
            _put_back(container)
            raise
    if not was_running:
        return
    try:
        control.start(container)
        health = rich.health
        if health and control.inside(container, health.command, health.seconds).returncode:
            raise JoeyError("it is not well by its health check")
        control.run_hooks(container, rich, "on-upgrade", {"JOEY_IMAGE": reference or lower, "JOEY_STEP": "after"})
    except (JoeyError, OSError) as error:
        rollback(container)
        raise JoeyError(f"the new one did not come up, the old one runs again: {error}",
                        f"joey rich logs {container.name}", "upgrade") from None  # fmt: skip


def _carry_over(container: Container, upper: str, keep: bool) -> None:
    """What the old one has written: all of it, or what tells it apart from others."""
    target = f"{container.bundle}/{LAYERS}/upper"
    if not os.path.isdir(upper):
        return
    os.makedirs(target)
    if keep:
        source, into = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (upper, target))
        try:
            treecopy.copy_contents(source, into)
        finally:
            os.close(source)
            os.close(into)
        return
    for name in ("etc/ssh", "etc/machine-id"):
        if os.path.lexists(f"{upper}/{name}"):
            os.makedirs(os.path.dirname(f"{target}/{name}"), 0o755, exist_ok=True)
            subprocess.run(["cp", "-a", f"{upper}/{name}", f"{target}/{name}"], check=True)


def _keep_identity(container: Container, before: str) -> None:
    """The machine-id that joey gave, and ssh host keys that the old image had."""
    old = f"{before}/fixes/etc/machine-id"
    new = f"{container.folder}/fixes/etc/machine-id"
    if os.path.isfile(old) and os.path.isfile(new):
        with open(old, "rb") as file:
            write_atomically(new, file.read(), 0o444)
    from .model import load

    guest = Guest(f"{before}/fixes", load(f"{before}/rich.json").lower)
    for name in guest.names("/etc/ssh"):
        if name.startswith("ssh_host_") and (text := guest.text(f"/etc/ssh/{name}")):
            folder = f"{container.folder}/fixes/etc/ssh"
            os.makedirs(folder, 0o755, exist_ok=True)
            write_atomically(f"{folder}/{name}", text.encode("utf-8", "surrogateescape"),
                             0o644 if name.endswith(".pub") else 0o600)  # fmt: skip


def _put_back(container: Container) -> None:
    before = f"{container.folder}/{_BEFORE}"
    for name in _KEPT:
        path = f"{container.folder}/{name}"
        if not os.path.exists(f"{before}/{name}"):
            continue
        if name == "bundle":
            disk.release(path)
        if os.path.isdir(path):
            shutil.rmtree(path)
        os.replace(f"{before}/{name}", path)
    shutil.rmtree(before)


def rollback(container: Container) -> None:
    """Go back to what was before an upgrade. Raises StateError where there was none."""
    if not os.path.isdir(f"{container.folder}/{_BEFORE}"):
        raise StateError(f"{container.name} has no upgrade to go back from", slug="not-upgraded")
    was_running = container.life().wanted == RUNNING or container.running() is not None
    control.stop(container)
    with container.locked():
        _put_back(container)
    if was_running:
        control.start(container)


def confirm(container: Container) -> None:
    """Remove what was before an upgrade."""
    before = f"{container.folder}/{_BEFORE}"
    if not os.path.isdir(before):
        raise StateError(f"{container.name} has no upgrade to confirm", slug="not-upgraded")
    from . import images

    disk.release(f"{before}/bundle")
    shutil.rmtree(before)
    images.drop_unused(container.store)
