"""The process beside a rich container: starts it, keeps its log, starts it again, asks how it is.

It holds nothing that the container needs: the container's streams are a FIFO that both hold open for reading and
writing, so no end of it ever closes. Where a supervisor was killed, `joey rich start` makes another, which takes the
running container over. It does all by joey's own command line, and loads little.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import signal
import time

from ...compat import libc, process
from ...compat.errors import JoeyError, KernelError
from ...compat.sealed import own_command
from .logs import Log
from .store import RUNNING, STOPPED, Container

_PR_SET_CHILD_SUBREAPER = 36
_SIGHUP, _SIGINT = 1, 2  # how the first process of a pid namespace ends that called reboot(2): restart, or halt
_LONG_ENOUGH = 10.0  # seconds of a life after which the next start is not delayed
_SHORTEST, _LONGEST = 0.2, 60.0  # seconds between two starts
_IDLE, _POLL = 30.0, 0.5  # seconds between two looks: where a signal tells of its end, and where not


class Supervisor:
    def __init__(self, container: Container, lock: int) -> None:
        self._container = container
        self._lock = lock
        self._log = Log(f"{container.folder}/log")
        self._pid = 0
        self._is_child = False
        self._delay = _SHORTEST
        self._settling = 0  # the process that waits until all is up
        self._checking = 0
        self._next_check = 0.0
        self._failures = 0
        self._told = -1  # what a machine with a kernel of its own tells its status by
        self._wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self._console = os.open(container.console, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        except KernelError:
            pass  # before Linux 3.4: its end is seen by looking

    def run(self) -> None:
        """Until the container is to be down, and is."""
        running = self._container.running()
        if running:
            self._told = self._open_status()
            self._pid = running.pid
            self._log.say("taken over by a new supervisor")
        while True:
            if not self._pid and not self._start():
                return
            status = self._watch()
            if not self._ended(status):
                return

    # --- a start --------------------------------------------------------------------------------------------------

    def _start(self) -> bool:
        """Start it; where that fails, as often as its policy has it. False: it is not to run."""
        while True:
            with self._container.changed_life() as life:
                if life.wanted != RUNNING:
                    return False
                life.starts += 1
                life.error = ""
                life.health = ""
            if os.path.isdir(f"{self._container.store.runtime}/{self._container.name}"):
                self._call("delete", "--force", self._container.name)  # of a supervisor that was killed
            self._told = self._open_status()
            code = self._call(
                "run", "--detach", "--bundle", self._container.bundle, *self._options(), self._container.name
            )
            pid = self._made() if code == 0 else 0
            if pid:
                self._pid = pid
                self._is_child = True
                with self._container.changed_life() as life:
                    life.started = time.time()
                self._settling = self._spawn(["rich", "settle", "--store", self._container.store.path,
                                              self._container.name], own=True)  # fmt: skip
                self._failures = 0
                rich = self._container.rich()
                self._next_check = time.monotonic() + max(rich.health.start, 0.1) if rich.health else 0.0
                return True
            if not self._again(None):
                with self._container.changed_life() as life:
                    life.error = f"it did not start: status {code}; its log says why"
                    life.wanted = STOPPED
                return False

    def _open_status(self) -> int:
        """Where a machine with a kernel of its own tells its status."""
        if self._told >= 0:
            os.close(self._told)
        if self._container.rich().isolation != "vm":
            return -1
        from .vm import machine

        return machine.open_status(self._container)

    def _made(self) -> int:
        """The pid of what was started, which may have ended by now; 0 where it is not to run any more."""
        from ...runtime import state as states

        if self._container.life().wanted != RUNNING:  # `stop` came meanwhile
            self._call("delete", "--force", self._container.name)
            return 0
        try:
            return states.load(self._container.store.runtime, self._container.name).pid
        except JoeyError:
            return 0

    def _options(self) -> list[str]:
        rich = self._container.rich()
        policy = ["--policy", rich.policy] if rich.policy else []
        return [*policy, *(word for choice in rich.force for word in ("--force", choice))]

    def _call(self, *words: str) -> int:
        """Run joey on the runtime's container, its words to the log; the status."""
        pid = self._spawn(list(words), own=False)
        while True:
            self._drain()
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                return 1
            if found:
                self._drain()
                return os.waitstatus_to_exitcode(status)
            select.select([self._console, self._wake], [], [], 0.1)
            self._empty_wake()

    def _spawn(self, words: list[str], own: bool) -> int:
        """Another joey, in a session of its own. `own`: for the rich container, not the runtime's."""
        argv = [*own_command(), *([] if own else ["--root", self._container.store.runtime]), *words]
        console = os.open(self._container.console, os.O_RDWR)
        try:
            actions = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, console, 1),
                (os.POSIX_SPAWN_DUP2, console, 2),
            ]
            return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsid=True)
        finally:
            os.close(console)

    # --- while it runs ----------------------------------------------------------------------------------------------

    def _watch(self) -> int | None:
        """Until its first process has ended; its wait status, None where it is not known."""
        born = process.start_time(self._pid)
        while True:
            timeout = _IDLE if self._is_child else _POLL
            if self._next_check:
                timeout = max(0.0, min(timeout, self._next_check - time.monotonic()))
            select.select([self._console, self._wake], [], [], timeout)
            self._empty_wake()
            self._drain()
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    if self._is_child and self._pid and process.start_time(self._pid) == born:
                        self._is_child = False  # before Linux 3.4: it is the host's init's
                    break
                if not pid:
                    break
                if pid == self._pid:
                    return status
                if pid == self._checking:
                    self._checking = 0
                    self._checked(os.waitstatus_to_exitcode(status) == 0)
                self._settling = 0 if pid == self._settling else self._settling
            if not self._is_child and process.start_time(self._pid) != born:
                return None
            if self._next_check and time.monotonic() >= self._next_check and not self._checking:
                self._checking = self._spawn(
                    ["rich", "check-health", "--store", self._container.store.path, self._container.name], own=True
                )
                self._next_check = 0.0

    def _checked(self, well: bool) -> None:
        health = self._container.rich().health
        if health is None:
            return
        self._failures = 0 if well else self._failures + 1
        word = "healthy" if well else "unhealthy" if self._failures >= health.retries else ""
        if word:
            with self._container.changed_life() as life:
                if life.health != word:
                    self._log.say(f"it is {word}")
                life.health = word
        self._next_check = time.monotonic() + health.interval

    def _drain(self) -> None:
        for _ in range(256):
            try:
                data = os.read(self._console, 1 << 16)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINTR):
                    raise
                return
            self._log.write(data)

    def _empty_wake(self) -> None:
        try:
            while os.read(self._wake, 512):
                pass
        except BlockingIOError:
            pass

    # --- its end ------------------------------------------------------------------------------------------------------

    def _ended(self, status: int | None) -> bool:
        """Take down what is left of it. True: it is to be started again."""
        self._pid = 0
        for pid in (self._settling, self._checking):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                except (ProcessLookupError, ChildProcessError):
                    pass
        self._settling = self._checking = 0
        self._next_check = 0.0
        code = None if status is None else os.waitstatus_to_exitcode(status)
        if self._container.rich().isolation == "vm":
            from .vm import machine

            code = machine.status_of(self._container, code, self._told)
            self._told = -1
        self._drain()
        self._log.say(f"ended with {_words(code)}")
        self._call("delete", "--force", self._container.name)
        if os.path.exists(f"{self._container.folder}/ports.json"):
            from . import ports

            ports.withdraw(self._container)
        with self._container.changed_life() as life:
            life.last_status = None if code is None else code if code >= 0 else 128 - code
            life.ended = time.time()
            ran = life.ended - life.started
        self._delay = _SHORTEST if ran > _LONG_ENOUGH else self._delay
        return self._again(code)

    def _again(self, code: int | None) -> bool:
        """Whether it is to be started again, after what it has to wait. A reboot is no failure; a halt is a stop."""
        rich = self._container.rich()
        with self._container.changed_life() as life:
            if life.wanted != RUNNING:
                return False
            if code == -_SIGHUP:
                self._log.say("it reboots")
                return True
            by_policy = rich.restart in ("always", "unless-stopped") or (rich.restart == "on-failure" and code != 0)
            spent = rich.restart == "on-failure" and rich.most_restarts and life.restarts >= rich.most_restarts
            if code == -_SIGINT or not by_policy or spent:
                life.wanted = STOPPED
                return False
            life.restarts += 1
        self._log.say(f"starting it again in {self._delay:.1f} seconds ({rich.restart})")
        until = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, _LONGEST)
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))
            if self._container.life().wanted != RUNNING:
                return False
        return True


def _words(code: int | None) -> str:
    if code is None:
        return "a status that nobody saw"
    return f"status {code}" if code >= 0 else f"signal {-code}"


def take_lock(container: Container) -> int:
    """Be a container's only supervisor. Raises JoeyError where there is one."""
    fd = os.open(f"{container.folder}/supervisor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + 2.0
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:  # whoever looks whether there is one has it for a moment
            if time.monotonic() > until:
                os.close(fd)
                raise JoeyError(f"{container.name} has a supervisor", slug="exists") from None
            time.sleep(0.01)
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def run(container: Container) -> None:
    """Be the supervisor; returns when the container is down and is to be."""
    lock = take_lock(container)
    gc.enable()
    libc.name_process("joey-rich")
    try:
        Supervisor(container, lock).run()
    except Exception as error:
        with container.changed_life() as life:
            life.error = f"its supervisor failed: {type(error).__name__}: {error}"
        raise
