"""The container's agent, for kernels without setns: started inside, recorded by joey, asked by `exec`. See agent.py."""

from __future__ import annotations

import _socket
import os

from ...compat import capabilities, daemon, libc, process
from ...compat.commandline import CommandLine
from ...compat.constants import CAPABILITIES, PR_SET_PDEATHSIG, SIGKILL
from ...compat.errors import JoeyError, StateError, StepError
from ...probes.plan import Plan
from .. import agent
from ..bundle import Bundle
from ..channel import Channel
from ..process_steps import Made
from ..state import State
from . import Step
from .cloning import NewProcess
from .parent import Await


class StartAgent(Step):
    """Fork the agent, before anything of the container runs.

    It has no exit signal, so that a wait(2) for any child does not see it (wait(2), __WCLONE). It has capabilities that
    the container has not, and is as undumpable as the process it is forked from (HideFromTracers): nobody inside may
    trace it but who has CAP_SYS_PTRACE. Then it keeps no capability that the container could not have.
    """

    __slots__ = ("_bounding", "_limits", "_line", "_server", "listener", "null")

    def __init__(
        self, bundle: Bundle, container: str, listener: _socket.socket, own: tuple[int, int], limits: bool
    ) -> None:
        import resource  # noqa: F401

        from . import console, scheduling  # noqa: F401  (now: nothing can be imported after the root has changed)

        names = (bundle.created_process.get("capabilities") or {}).get("bounding") or []
        self._bounding = capabilities.mask([name for name in names if name in CAPABILITIES])
        if bundle.users:
            from . import users  # noqa: F401

            self._bounding = bundle.users.kept
        self._limits = limits and "user" not in bundle.namespaces
        self._line = CommandLine()
        self._server = agent.Agent(listener, bundle, container, own)
        self.listener = listener
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)

    def describe(self) -> str:
        return "start the agent, by which the container can be entered"

    def run(self) -> None:
        read_end, write_end = os.pipe()
        if libc.clone(0) == 0:
            try:
                self._become_agent(write_end)
                os.write(write_end, b"ok")
                os.close(write_end)
                self._server.serve()
            except (JoeyError, OSError) as error:
                os.write(write_end, str(error).encode())
            finally:
                os._exit(1)
        os.close(write_end)
        answer = os.read(read_end, 1 << 12)
        for fd in (read_end, self.null):
            os.close(fd)
        self.listener.close()
        if answer != b"ok":
            raise StepError(answer.decode("utf-8", "replace") or "it ended at once")

    def _become_agent(self, report: int) -> None:
        daemon.settle(agent.NAME, {self.listener.fileno(), report}, self.null)
        self._line.replace(agent.NAME)
        if self._limits:
            capabilities.limit_bounding(self._bounding, capabilities.last())
            if self._bounding >> CAPABILITIES.index("CAP_SYS_PTRACE") & 1:
                _, had, _ = capabilities.get()
                capabilities.set(self._bounding & had, self._bounding & had, 0)
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL)

    def keeps(self) -> list[int]:
        return [self.listener.fileno(), self.null]


class RecordAgent(Step):
    """Write the agent's pid into the container's state: nothing of the container has run yet that could pose as it."""

    __slots__ = ("clone", "state")

    def __init__(self, state: State, clone: NewProcess) -> None:
        self.state = state
        self.clone = clone

    def describe(self) -> str:
        return "record the agent in the container's state"

    def run(self) -> None:
        pid = process.child_named(self.clone.pid, agent.NAME)
        if not pid:
            raise JoeyError("the container's agent ended at once")
        self.state.agent = [pid, process.start_time(pid)]
        self.state.save()


class AskAgent(NewProcess):
    """Have the container's agent fork the process that runs the child's steps."""

    __slots__ = ("bundle", "console", "keep_fds", "made", "name", "plan", "state")

    def __init__(
        self,
        channel: Channel,
        state: State,
        bundle: Bundle,
        plan: Plan,
        made: Made,
        console: _socket.socket | None,
        keep_fds: int,
    ) -> None:
        super().__init__(channel, state.rootfs)
        self.state = state
        self.bundle = bundle
        self.plan = plan
        self.made = made
        self.console = console
        self.keep_fds = keep_fds
        self.name = "joey-" + os.urandom(5).hex()  # 15 bytes: what the kernel keeps of a name

    def describe(self) -> str:
        return "ask the container's agent for a process"

    def run(self) -> None:
        self._check_capabilities()
        pid, start = self.state.agent
        if not self.state.alive():
            raise StateError("container not running", slug="not-running")
        if not pid or process.start_time(pid) != start:
            raise agent.gone("it has ended")
        self.channel.program = lambda: str(self.bundle.process["args"][0])
        console = self.console.fileno() if self.console else -1
        request = agent.Request.of(
            self.bundle, self.plan, self.made, self.name, self.keep_fds, self.channel.child_fd(), console
        )
        self.connection = agent.ask(self.state.folder, request)
        self.channel.keep_parent()
        Await(self, agent.HERE).run()
        self.pid = process.child_named(pid, self.name)
        if not self.pid:
            raise agent.gone("its process ended at once")

    def _check_capabilities(self) -> None:
        """A process from the agent can have only what the container could: say so rather than leave it out."""
        bounding = (self.bundle.created_process.get("capabilities") or {}).get("bounding") or []
        for names in (self.bundle.process.get("capabilities") or {}).values():
            for name in names if "user" not in self.bundle.namespaces else ():
                if name not in bounding and name in CAPABILITIES:
                    raise JoeyError(
                        f"{name} is not in the container's bounding set: its agent can't give it",
                        "give it to the container when it is made (process.capabilities.bounding)",
                        "no-agent",
                    )
