"""A container's life, for the commands: made, started, waited for, taken down."""

from __future__ import annotations

import os

from ..compat import files, terminal
from ..compat.errors import JoeyError, StateError, StepError, UsageError
from . import build, launch, log, state
from .build import Options, Start
from .bundle import Bundle
from .channel import Channel
from .state import START_SOCKET, State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..probes.plan import Plan


# How long a removal waits for another command, or for what is left of a killed one.
LOCK_SECONDS = 10.0


def create(
    root: str, container: str, bundle: Bundle, plan: Plan, options: Options, config_text: str
) -> tuple[State, Start]:
    """Make a container and bring its process up to the point before the exec. On failure nothing is left behind."""
    _check_terminal(bundle, options)
    made, held = state.create(root, container, bundle)
    try:
        made.set_plan(plan)
        files.write_atomically(f"{made.folder}/config.json", config_text)
        start = build.steps(bundle, plan, made, options)
        listen_for_seccomp(start, bundle, made, "creating")
        launch.run_parent(start.parent)
    except BaseException:
        made.forget()
        raise
    finally:
        state.unlock(held)
    return made, start


def _check_terminal(bundle: Bundle, options: Options) -> None:
    """A terminal needs somebody at its other end (runtime.md; runc's words)."""
    wants = bool(bundle.process.get("terminal"))
    if wants and options.detach and not options.console_socket:
        raise UsageError("process.terminal is true: a detached container needs --console-socket")
    if options.console_socket and not wants:
        raise UsageError("--console-socket given, but process.terminal is false")
    if options.console_socket and not options.detach:
        raise UsageError("--console-socket needs a detached container: use create, or --detach")


def listen_for_seccomp(start: Start, bundle: Bundle, state: State, status: str) -> None:
    """Have the seccomp listener of a start handed to the bundle's agent, where there is one."""
    if (bundle.linux.get("seccomp") or {}).get("listenerPath"):
        from .listener import forwarder

        start.channel.on_listener = forwarder(bundle, state, lambda: start.clone.pid, status)


def release(channel: Channel) -> None:
    """Let the prepared process exec, and wait until it has. Raises StepError when the exec failed."""
    channel.send(b"go")
    channel.wait_for_exec()


def start(container: State) -> None:
    """Start a created container: connect to its process, which runs its startContainer hooks and execs."""
    held = state.lock(container.folder)
    try:
        status = container.status()
        if status != "created":
            raise StateError(f"cannot start a container that is {status}: {container.id}", slug="not-created")
        path = f"{container.folder}/{START_SOCKET}"
        channel = Channel()
        if (container.config().linux.get("seccomp") or {}).get("listenerPath"):
            from .listener import forwarder

            channel.on_listener = forwarder(container.config(), container, lambda: container.pid, "created")
        channel.switch(terminal.connect_unix(path))
        os.unlink(path)  # connected is started, whatever becomes of this joey
        try:
            channel.wait_for_exec()
        finally:
            channel.close()
    finally:
        state.unlock(held)
    poststart(container)


def poststart(container: State) -> None:
    """Run poststart hooks; a failing one stops the container, as runc and crun do."""
    hooks = container.config().hooks("poststart")
    if not hooks:
        return
    from .hooks import run_hooks

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
        hooks = []
        try:
            hooks = container.config().hooks("poststop")
        except (JoeyError, OSError):
            pass  # killed before its config was copied: no hook was promised yet
        had_process = container.pid != 0
        container.forget()
    finally:
        state.unlock(held)
    if hooks and had_process:
        from .hooks import run_hooks

        for hook in hooks:
            try:
                run_hooks("poststop", [hook], container.oci("stopped"))
            except StepError as error:
                log.warn(str(error))


def _kill_all(container: State) -> None:
    if container.cgroup.groups:
        container.cgroup.kill()
    kill_process(container)
