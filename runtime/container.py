"""A container that has been made (see prepare.py): started, killed, taken down."""

from __future__ import annotations

import os

from ..compat import terminal
from ..compat.constants import SIGKILL
from ..compat.errors import JoeyError, StateError, StepError
from . import log, state
from .channel import Channel
from .state import START_SOCKET, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# How long a removal waits for another command, or for what is left of a killed one.
LOCK_SECONDS = 10.0


def start(container: State) -> None:
    """Start a created container: connect to its process, which runs its startContainer hooks and execs."""
    held = state.lock(container.folder)
    try:
        status = container.status()
        if status != "created":
            words = "an already running container" if status == "running" else f"a container that is {status}"
            raise StateError(f"cannot start {words}: {container.id}", slug="not-created")
        path = f"{container.folder}/{START_SOCKET}"
        channel = Channel()
        channel.program = lambda: str(container.config().process["args"][0])
        if container.listener:
            from .listener import forwarder

            channel.takes[b"listener"] = forwarder(container.config(), container, lambda: container.pid, "created")
        channel.switch(terminal.connect_unix(path))
        os.unlink(path)  # connected is started, whatever becomes of this joey
        try:
            channel.wait_for_exec()
        except JoeyError:
            kill_process(container)  # it is about to end: a command after this one is to find it stopped
            raise
        finally:
            channel.close()
    finally:
        state.unlock(held)
    poststart(container)


def poststart(container: State) -> None:
    """Run poststart hooks; a failing one stops the container, as runc and crun do."""
    if "poststart" not in container.hooks:
        return
    from .hooks import run_hooks

    hooks = container.config().hooks("poststart")
    try:
        run_hooks("poststart", hooks, container.oci("running"), container.bundle)
    except JoeyError:
        container.cgroup.kill()
        kill_process(container)
        raise


def kill_process(container: State) -> None:
    """SIGKILL the first process, if it lives, and wait until the kernel has let go of it."""
    import time

    deadline = time.monotonic() + 10
    while container.alive():
        try:
            os.kill(container.pid, 9)
        except ProcessLookupError:
            return
        if time.monotonic() > deadline:
            raise StateError(f"process {container.pid} does not die", "it may hang in the kernel: see /proc/PID/stack")
        time.sleep(0.002)


def take_down(container: State) -> None:
    """Kill what is left of a container, remove its cgroups, run its poststop hooks, forget it.

    Works on whatever a killed joey left: half a folder, no process, cgroups without a process.
    """
    try:
        held = state.lock(container.folder)
    except StateError:
        _kill_all(container)  # what another command is at, or a process that outlived its joey, ends with the container
        held = state.lock(container.folder, seconds=LOCK_SECONDS)
    try:
        _kill_all(container)
        container.cgroup.remove()
        if container.quotas:
            from .steps.quotas import lift

            lift(container)
        if container.networks:
            from . import network

            network.take_down(container)
        if container.program:
            from . import capable

            capable.remove(container)
        if container.views:
            from . import views

            views.take_down(container)
        if container.is_pretended:
            from . import unprivileged

            unprivileged.remove(container)
        if container.layers:
            from . import layers

            layers.unmount(container)
        hooks = _poststop_hooks(container)
        had_process = container.pid != 0
        container.forget()
    finally:
        state.unlock(held)
    if hooks and had_process:
        _run_poststop(container, hooks)


def poststop_of_failed(container: State) -> None:
    """Run the poststop hooks of a container that could not be made: what its earlier hooks set up is taken down."""
    hooks = _poststop_hooks(container)
    if hooks:
        _run_poststop(container, hooks)


def _run_poststop(container: State, hooks: list[dict[str, Any]]) -> None:
    from .hooks import run_hooks

    for hook in hooks:
        try:
            run_hooks("poststop", [hook], container.oci("stopped"), container.bundle)
        except StepError as error:
            log.warn(str(error))


def _poststop_hooks(container: State) -> list[dict[str, Any]]:
    if "poststop" not in container.hooks:
        return []
    try:
        return container.config().hooks("poststop")
    except (JoeyError, OSError) as error:
        log.warn(f"poststop hooks can't run: {error}")
        return []


def _kill_all(container: State) -> None:
    if container.cgroup.groups:
        container.cgroup.kill()
    elif container.alive():
        from . import members

        members.send(members.pids(container), SIGKILL)  # before the first: what it leaves behind can't be found
    kill_process(container)
