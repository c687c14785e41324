"""Changes of a rich container: limits and environment while it runs, and another image with a way back."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ...compat import treecopy
from ...compat.errors import JoeyError, StateError
from ...compat.files import write_atomically
from ...compat.quota.words import pools
from ...runtime.layers import FOLDER as LAYERS
from . import blocks, config, control, disk, fixes, inits
from .guest import Guest
from .model import Rich, load
from .store import BEFORE, KEPT, RUNNING, Container, remove_tree

if TYPE_CHECKING:
    from typing import Any

_TRIAL = 3.0  # seconds that an upgraded container has to live


def update(container: Container, rich: Rich, quotas: list[str], env: bool) -> None:
    """Change a container to what `rich` is: what can be changed while it runs is, all or nothing. Raises JoeyError."""
    running = container.running()
    if running:
        is_vm = rich.isolation == "vm"  # its memory and tasks are the machine's, from its next start on
        old = container.rich()
        block = {"weight": rich.io_weight} if rich.io_weight != old.io_weight else {}
        block |= blocks.changes(old.io, rich.io)
        limits = {**_lifted(old, rich), **config.limits(rich)}
        limits = {key: value for key, value in limits.items() if not is_vm or key == "cpu"}
        limits |= {"blockIO": block} if block else {}
        kept = disk.of_others(quotas) if disk.own(container, rich) else quotas
        words = [word for quota in kept for word in ("--disk-quota", quota)]
        words += ["--resources", "-"] if limits else []
        done = control.call(container, "update", *words, container.name, text=json.dumps(limits)) if words else None
        if done and done.returncode:
            raise JoeyError(done.stderr.strip().removeprefix("joey: "))
    if own := disk.of_root(quotas) if disk.own(container, rich) else []:
        disk.grow(container, pools(own[-1:], ["/"])[0].size)
    for quota in quotas:
        head = quota.rpartition("=")[0]
        rich.quotas = [word for word in rich.quotas if word.rpartition("=")[0] != head] + [quota]
    init = inits.of(rich.init, Guest(rich.lower))
    container.save(rich)
    if running and env:
        _tell_environment(container, rich, init)
    elif not running:
        config.write_fixes(container, rich, init)


def _lifted(old: Rich, new: Rich) -> dict[str, Any]:
    """What takes limits away that were there."""
    out: dict[str, Any] = {}
    if old.memory and not new.memory:
        out["memory"] = {"limit": -1}
    if old.cpus and not new.cpus:
        out["cpu"] = {"quota": -1}
    if old.pids and not new.pids:
        out["pids"] = {"limit": -1}
    return out


def _tell_environment(container: Container, rich: Rich, init: inits.Init) -> None:
    """Have sessions and services that start from now on get it. Raises JoeyError."""
    text = fixes.environment(config.guest_of(container, rich), rich.env)
    script = "cat >/etc/environment.new && mv /etc/environment.new /etc/environment"
    done = control.inside(container, ["sh", "-c", script], text=text)
    if done.returncode:
        raise JoeyError(f"/etc/environment can't be written in it: {done.stderr.strip()[:200]}")
    if init.kind == "systemd" and rich.env:
        words = [f"{key}={value}" for key, value in rich.env.items()]
        done = control.inside(container, ["systemctl", "set-environment", *words])
        if done.returncode:
            raise JoeyError(f"systemd does not take its environment: {done.stderr.strip()[:200]}")


# --- another image --------------------------------------------------------------------------------------------------


def upgrade(container: Container, lower: str, reference: str, keep: bool) -> None:
    """Put another image in the place of a container's. Raises JoeyError; then it is as it was."""
    if not os.path.isdir(lower):
        raise JoeyError(f"{lower} is not a directory")
    with container.changing():
        _upgrade(container, lower, reference, keep)


def _upgrade(container: Container, lower: str, reference: str, keep: bool) -> None:
    if os.path.isdir(f"{container.folder}/{BEFORE}"):
        raise StateError(
            f"{container.name} has an upgrade that is not confirmed", "joey rich confirm, or rollback", "busy"
        )
    container.recover()
    rich = container.rich()
    guest = Guest(lower)
    init = inits.of(rich.asked, guest)
    config.check_kernel(rich, init, guest)
    config.config_of(container, replace(rich, lower=lower, image=reference, init=init.kind), init)  # told before a stop
    was_running = container.running() is not None or container.life().wanted == RUNNING
    disk.prepare(container, rich)
    upper = f"{container.bundle}/{LAYERS}/upper"
    if keep and os.path.isdir(f"{container.bundle}/rootfs") and not os.path.isdir(upper):
        raise JoeyError(
            "what it has written can't be told from its image here: its layers are one directory",
            "--changes discard, with what must stay in a volume",
        )
    control.run_hooks(container, rich, "on-upgrade", {"JOEY_IMAGE": reference or lower, "JOEY_STEP": "before"})
    control.stop(container)
    try:
        with container.locked():
            _exchange(container, rich, lower, reference, init, keep)
    except BaseException:
        container.recover()
        if was_running:
            control.start(container, wait=False)
        raise
    if not was_running:
        return
    try:
        control.start(container)
        _stays(container)
        health = rich.health
        if health and control.inside(container, health.command, health.seconds).returncode:
            raise JoeyError("it is not well by its health check")
        control.run_hooks(container, rich, "on-upgrade", {"JOEY_IMAGE": reference or lower, "JOEY_STEP": "after"})
    except (JoeyError, OSError) as error:
        _go_back(container, was_running=True)
        raise JoeyError(f"the new one did not come up, the old one runs again: {error}",
                        f"joey rich logs {container.name}", "upgrade") from None  # fmt: skip


def _exchange(container: Container, rich: Rich, lower: str, reference: str, init: inits.Init, keep: bool) -> None:
    """Move what it was to `before`, and make what it is to be. What fails amid it is taken back by `recover`."""
    before = f"{container.folder}/{BEFORE}"
    os.mkdir(f"{before}.new", 0o700)
    shutil.copy2(f"{container.folder}/rich.json", f"{before}.new/rich.json")
    for name in KEPT:
        if os.path.exists(f"{container.folder}/{name}"):
            os.rename(f"{container.folder}/{name}", f"{before}.new/{name}")
    rich.lower, rich.image, rich.init = lower, reference, init.kind
    os.makedirs(container.bundle, 0o700, exist_ok=True)
    disk.prepare(container, rich)
    if os.path.exists(f"{before}.new/bundle/disk.img"):
        disk.remount(f"{before}.new/bundle")
    _carry_over(container, f"{before}.new/bundle/{LAYERS}/upper", keep)
    old = load(f"{before}.new/rich.json")
    config.write_fixes(container, rich, init, config.identity_of(Guest(f"{before}.new/fixes", old.lower)))
    container.save(rich)
    os.rename(f"{before}.new", before)


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
    guest = Guest(upper)  # links in what it has written lead nowhere else
    keys = [f"/etc/ssh/{name}" for name in guest.names("/etc/ssh") if name.startswith("ssh_host_")]
    for path in ["/etc/machine-id", *keys]:
        if text := guest.text(path):
            os.makedirs(os.path.dirname(f"{target}{path}"), 0o755, exist_ok=True)
            write_atomically(f"{target}{path}", text.encode("utf-8", "surrogateescape"), guest.mode(path) & 0o777)


def _put_back(container: Container) -> None:
    os.rename(f"{container.folder}/{BEFORE}", f"{container.folder}/{BEFORE}.new")
    container.recover()


def rollback(container: Container) -> None:
    """Go back to what was before an upgrade. Raises StateError where there was none."""
    with container.changing():
        container.recover()
        if not os.path.isdir(f"{container.folder}/{BEFORE}"):
            raise StateError(f"{container.name} has no upgrade to go back from", slug="not-upgraded")
        _go_back(container)


def _stays(container: Container) -> None:
    """Raises JoeyError for one that ends again soon: an init that is up at once tells nothing by that."""
    begun = container.life().starts
    until = time.monotonic() + _TRIAL
    while time.monotonic() < until:
        if container.running() is None or container.life().starts != begun:
            raise JoeyError("it ended again at once")
        time.sleep(0.1)


def _go_back(container: Container, was_running: bool = False) -> None:
    was_running = was_running or container.life().wanted == RUNNING or container.running() is not None
    control.stop(container, by_force=True)
    with container.locked():
        _put_back(container)
    if was_running:
        control.start(container)


def confirm(container: Container) -> None:
    """Remove what was before an upgrade."""
    with container.changing():
        container.recover()
        before = f"{container.folder}/{BEFORE}"
        if not os.path.isdir(before):
            raise StateError(f"{container.name} has no upgrade to confirm", slug="not-upgraded")
        remove_tree(before)
    from . import images

    images.drop_unused(container.store)
