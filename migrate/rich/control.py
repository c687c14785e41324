"""What is done to a rich container from outside: start, stop, waiting until its services are up, hooks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from ...compat import process
from ...compat.errors import JoeyError, StateError, UsageError
from ...compat.sealed import own_command
from . import config, disk, inits, ports, shifted
from .guest import Guest
from .model import Hook, Rich
from .store import RUNNING, STOPPED, Container

if TYPE_CHECKING:
    from collections.abc import Callable

_LISTEN = "0A"  # of /proc/net/tcp
_MOST_STARTS = 4  # before it is given up, while somebody waits


def joey(container: Container, *words: str) -> list[str]:
    """A command line of joey's runtime, for the container's."""
    return [*own_command(), "--root", container.store.runtime, *words]


def call(container: Container, *words: str, seconds: float = 60.0, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run one; its output is kept. Raises JoeyError where it takes too long."""
    try:
        return subprocess.run(
            joey(container, *words), input=text, capture_output=True, text=True, errors="replace",
            timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise JoeyError(f"{' '.join(words[:3])} took more than {seconds:.0f} seconds") from None


def inside(
    container: Container, command: list[str], seconds: float = 30.0, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command in the container; status 255 where that can't be."""
    rich = container.rich()
    if rich.isolation == "vm":
        from .vm import link, machine

        body = link.request(command, machine.program_env(rich), (0, 0, []), "/", None)
        return link.run(machine.folder_of(container), body, seconds, text)
    return call(container, "exec", "--user", "0:0", "--cwd", "/", container.name, *command, seconds=seconds, text=text)


def init_of(container: Container, rich: Rich) -> inits.Init:
    return inits.of(rich.init, config.guest_of(container, rich))


# --- start ----------------------------------------------------------------------------------------------------------


def prepare(container: Container, rich: Rich) -> inits.Init:
    """Make what the next start takes: volumes, the layer of fixes, the bundle."""
    if not os.path.isdir(rich.lower):
        raise JoeyError(f"{rich.lower}, the files of its image, is gone", "joey rich upgrade gives it another image")
    guest = Guest(rich.lower)
    init = inits.of(rich.init, guest)
    config.check_kernel(rich, init, guest)
    config.prepare_volumes(container, rich)
    if not os.path.exists(container.console):
        os.mkfifo(container.console, 0o600)
    os.makedirs(container.bundle, 0o700, exist_ok=True)
    disk.prepare(container, rich)
    shifted.prepare(container, rich)
    config.renew_record(container, rich)
    config.drop_own_environment(container)
    if not os.path.isdir(f"{container.folder}/fixes") or config.has_moved(container, rich):
        config.write_fixes(container, rich, init)
    if rich.isolation == "vm":
        from .vm import machine

        machine.prepare(container, rich, init, guest)
    config.write_bundle(container, rich, init, _joined(container, rich))
    return init


def _joined(container: Container, rich: Rich) -> str:
    """The network namespace of the container whose network it shares; "" for its own. Raises StateError."""
    if len(rich.networks) != 1 or not rich.networks[0].startswith("container:"):
        return ""
    other = container.store.get(rich.networks[0].partition(":")[2])
    state = other.running()
    if state is None:
        raise StateError(f"{container.name} shares the network of {other.name}, which does not run",
                         f"joey rich start {other.name}", "not-running")  # fmt: skip
    return f"/proc/{state.pid}/ns/net"


def start(container: Container, wait: bool = True) -> None:
    """Start it, and wait until it is up. Raises JoeyError, with what its log says."""
    if container.status() in ("running", "paused"):
        if not container.supervisor():
            _supervise(container)  # of one that was killed
            return
        raise StateError(f"{container.name} runs already", slug="exists")
    with container.locked(seconds=180):
        if container.status() in ("running", "paused"):
            return  # another joey has started it meanwhile
        container.recover()
        rich = container.rich()
        ports.check(container, rich)
        _wait_for_supervisor(container)
        clear(container)
        prepare(container, rich)
        with container.changed_life() as life:
            life.wanted, life.restarts, life.error = RUNNING, 0, ""
            before, started = life.starts, life.started
        _supervise(container)
    patience = time.monotonic() + 10
    while (life := container.life()).started == started:
        if life.starts == before and not container.supervisor() and time.monotonic() > patience:
            raise JoeyError(f"{container.name} has no supervisor", f"see {container.folder}/supervisor.log")
        if life.starts >= before + _MOST_STARTS:
            with container.changed_life() as life:
                life.wanted = STOPPED
            raise JoeyError(f"{container.name} does not start", f"joey rich logs {container.name}")
        supervised = container.supervisor()
        if container.life().started == started and (not supervised or life.wanted == STOPPED) and life.starts > before:
            raise JoeyError(f"{container.name}: {life.error or 'it has ended'}", f"joey rich logs {container.name}")
        time.sleep(0.02)
    if wait:
        wait_until_up(container, rich)


def _wait_for_supervisor(container: Container, seconds: float = 120.0) -> None:
    """One that is about to end: its container is down, or goes down."""
    deadline = time.monotonic() + seconds
    while container.supervisor():
        if time.monotonic() > deadline:
            raise StateError(f"{container.name} is being started or stopped", "joey rich ps shows it", "busy")
        time.sleep(0.02)


def _supervise(container: Container) -> None:
    """Start its supervisor, which is nobody's child."""
    argv = [*own_command(), "rich", "supervise", "--store", container.store.path, container.name]
    with open(f"{container.folder}/supervisor.log", "ab") as log:
        subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", check=True)


def wait_until_up(container: Container, rich: Rich) -> None:
    """Until all that is waited for is there. Raises JoeyError, with what fails."""
    init = init_of(container, rich)
    waits = rich.wait or (["init"] if init.up else [])
    deadline = time.monotonic() + rich.wait_seconds
    begun = container.life().starts
    for word in waits:
        is_up = condition(container, init, word)
        while True:
            if not container.running() and not container.life().wanted == RUNNING:
                raise JoeyError(f"{container.name} has ended", f"joey rich logs {container.name}")
            if is_up():
                break
            if container.life().starts >= begun + _MOST_STARTS:
                raise JoeyError(f"{container.name} ends again and again", f"joey rich logs {container.name}", "not-up")
            if time.monotonic() > deadline:
                failing = _failing(container, init)
                raise JoeyError(
                    f"{container.name} runs, and {word} is not there after {rich.wait_seconds:.0f} seconds"
                    + (f"; failing: {failing}" if failing else ""),
                    f"joey rich logs {container.name}; joey rich exec {container.name} ...", "not-up",
                )  # fmt: skip
            time.sleep(0.1)


def _failing(container: Container, init: inits.Init) -> str:
    if not init.failing or not container.running():
        return ""
    found = inside(container, init.failing)
    return ", ".join(line.split()[0] for line in found.stdout.splitlines() if line.split())[:200]


def check_wait(word: str) -> None:
    """Raises UsageError for what can't be waited for."""
    kind, _, value = word.partition(":")
    if word != "init" and (kind not in ("target", "service", "port", "command") or not value):
        raise UsageError(f'--wait-for: "{word}"', "init, target:NAME, service:NAME, port:NUMBER, command:COMMAND")
    if kind == "port" and not value.isdigit():
        raise UsageError(f'--wait-for: "{value}" is no port')


def condition(container: Container, init: inits.Init, word: str) -> Callable[[], bool]:
    """A function that says whether what is waited for is there."""
    kind, _, value = word.partition(":")

    def by_init() -> bool:
        if not init.up:
            return True
        lines = inside(container, init.up).stdout.strip().splitlines()
        return bool(lines and re.search(init.up_matches, lines[-1].strip()))

    def by_port() -> bool:
        state = container.running()
        return bool(state) and int(value) in listening_in(container, state.pid if state else 0)

    def by_command() -> bool:
        return inside(container, ["sh", "-c", value]).returncode == 0

    def by_service() -> bool:
        if init.kind == "systemd":
            unit = value if kind == "service" or value.endswith(".target") else f"{value}.target"
            return inside(container, ["systemctl", "is-active", "--quiet", unit]).returncode == 0
        if init.kind == "openrc":
            return inside(container, ["rc-service", value, "status"]).returncode == 0
        if kind == "target":
            return inside(container, ["/sbin/runlevel"]).stdout.split()[-1:] == [value]
        return (
            inside(container, ["sh", "-c", 'service "$1" status || /etc/init.d/"$1" status', "sh", value]).returncode
            == 0
        )

    return {"init": by_init, "port": by_port, "command": by_command}.get(kind, by_service)


def listening_in(container: Container, pid: int) -> set[int]:
    """The TCP ports that are listened on in a container, be it one with a kernel of its own."""
    if container.rich().isolation != "vm":
        return listening(pid)
    return _listening(inside(container, ["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout.splitlines())


def listening(pid: int) -> set[int]:
    """The TCP ports that are listened on in a process's network namespace."""
    out = set()
    for name in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{name}", encoding="ascii") as file:
                out |= _listening(file.readlines())
        except OSError:
            continue
    return out


def _listening(lines: list[str]) -> set[int]:
    rows = [line.split() for line in lines]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == _LISTEN}


def settle(container: Container) -> None:
    """After a start: wait until it is up, and run the hooks of that moment. What fails is told in its log."""
    rich = container.rich()
    try:
        state = container.running()
        if state and config.remember_addresses(container, state.networks):
            config.write_bundle(container, rich, init_of(container, rich))
        ports.publish(container, rich)
        wait_until_up(container, rich)
        run_hooks(container, rich, "after-services")
    except JoeyError as error:
        print(f"joey: {error.message}", flush=True)
        with container.changed_life() as life:
            life.error = error.message


# --- hooks ----------------------------------------------------------------------------------------------------------


def run_hooks(container: Container, rich: Rich, phase: str, extra: dict[str, str] | None = None) -> None:
    """Run the hooks of a phase that joey's runtime does not know. Raises JoeyError for one that fails and must not."""
    for hook in [*rich.hooks, *config.script_hooks(rich.scripts)]:
        if hook.phase == phase:
            _run_hook(container, hook, extra or {})


def _run_hook(container: Container, hook: Hook, extra: dict[str, str]) -> None:
    state = container.running()
    told = {"JOEY_NAME": container.name, "JOEY_PHASE": hook.phase, "JOEY_PID": str(state.pid if state else 0), **extra}
    env = {**os.environ, **told}
    words = [f"{key}={value}" for key, value in told.items()]
    argv = hook.command
    if hook.place == "container":
        options = [word for value in words for word in ("--env", value)]
        here = [*own_command(), "rich", "exec", "--store", container.store.path]
        argv = [*here, *options, "--user", "0:0", "--cwd", "/", container.name, *hook.command]
    output, problem = _said_by(argv, env, hook.seconds)
    _to_log(
        container,
        output + (f"joey: hook {hook.phase}: {' '.join(hook.command)}: {problem}\n".encode() if problem else b""),
    )
    if problem and hook.failure == "fail":
        raise JoeyError(
            f"hook {hook.phase}: {' '.join(hook.command)}: {problem}", f"joey rich logs {container.name}", "hook"
        )


def _said_by(argv: list[str], env: dict[str, str], seconds: int) -> tuple[bytes, str]:
    """What a command says, and what is wrong with it. One that takes too long is ended with all that it started."""
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env=env, start_new_session=True)  # fmt: skip
    except OSError as error:
        return b"", error.strerror or str(error)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return output, f"it took more than {seconds} seconds"
    return output, f"status {process.returncode}" if process.returncode else ""


def _to_log(container: Container, data: bytes) -> None:
    """To the container's log, by its supervisor."""
    if not data or not os.path.exists(container.console):
        return
    fd = os.open(container.console, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(fd, data[: 1 << 16])
    except BlockingIOError:
        return  # nobody reads it, and it is full
    finally:
        os.close(fd)


# --- stop -----------------------------------------------------------------------------------------------------------


def clear(container: Container) -> None:
    """Take down what is left of one whose process and supervisor were killed: its mounts, cgroups, rules."""
    if container.running() is None and os.path.isdir(f"{container.store.runtime}/{container.name}"):
        call(container, "delete", "--force", container.name)


def stop(container: Container, seconds: float | None = None, by_force: bool = False) -> None:
    """Have it shut down by its init's own way, then by TERM, then by KILL. `by_force`: whatever its hooks say."""
    rich = container.rich()
    state = container.running()
    if state and state.status() == "paused":
        call(container, "resume", container.name)
    if state:
        try:
            run_hooks(container, rich, "before-stop")
        except JoeyError:
            if not by_force:
                raise
    with container.changed_life() as life:
        life.wanted = STOPPED
    if state is None:
        _wait_for_supervisor(container)
        clear(container)
        ports.withdraw(container)
        disk.release(container.bundle)
        return
    given = rich.stop_seconds if seconds is None else seconds
    pid, born = state.pid, state.start_time
    init = init_of(container, rich)
    _ask(container, rich, init, pid, born)
    if not _gone(pid, born, given, lambda: _only_init(container, pid, init)):
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(pid, born, number)
            if _gone(pid, born, 5.0):
                break
    if container.supervisor():
        _wait_for_supervisor(container)
    else:
        call(container, "delete", "--force", container.name)
    ports.withdraw(container)
    disk.release(container.bundle)


def end_at_once(container: Container) -> None:
    """Kill it, and its supervisor's wish to start it again."""
    try:
        with container.changed_life() as life:
            life.wanted = STOPPED
    except (OSError, JoeyError):  # a full disk, or a damaged file: it is to go all the same
        if pid := container.supervisor():
            os.kill(pid, signal.SIGKILL)
    state = container.running()
    if state:
        _signal(state.pid, state.start_time, signal.SIGKILL)
    if container.supervisor():
        _wait_for_supervisor(container)
    if os.path.isdir(f"{container.store.runtime}/{container.name}"):
        call(container, "delete", "--force", container.name)
    ports.withdraw(container)
    disk.release(container.bundle)


def _ask(container: Container, rich: Rich, init: inits.Init, pid: int, born: int) -> None:
    """Tell its first process to shut down."""
    if init.shutdown:
        try:
            inside(container, init.shutdown, seconds=20)
        except JoeyError:
            pass  # it went down meanwhile
    elif rich.isolation == "vm":
        from .vm import machine

        try:
            machine.ask_to_end(container, init, rich.stop_signal or init.signal)
        except JoeyError as error:
            if error.slug != "busy":
                _signal(pid, born, signal.SIGTERM)  # it has no agent: it is still booting
    else:
        _signal(pid, born, rich.stop_signal or init.signal)


def _signal(pid: int, born: int, number: int) -> None:
    if process.start_time(pid) == born:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _only_init(container: Container, pid: int, init: inits.Init) -> bool:
    """Whether nothing is left but an init that can't end by itself: before Linux 3.4 reboot(2) would be the host's."""
    if not init.boots or config.may_reboot() or container.rich().isolation == "vm":
        return False
    from ...runtime import members

    state = container.running()
    return state is not None and members.pids(state) == [pid]


def _gone(pid: int, born: int, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
    deadline = time.monotonic() + seconds
    while process.start_time(pid) == born:
        if time.monotonic() > deadline:
            return False
        if done():
            _signal(pid, born, signal.SIGKILL)
        time.sleep(0.05)
    return True
