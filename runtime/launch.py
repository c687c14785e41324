"""Run the steps of a start: the parent's with undo, the child's with its error sent home."""

from __future__ import annotations

import os
import sys

from ..compat import process, signals
from ..compat.errors import JoeyError, StepError
from . import log
from .channel import Channel, ChildFailed
from .log import debug

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .bundle import Bundle
    from .state import State
    from .steps import Step
    from .steps.cloning import NewProcess


class Start:
    """A start made ready: the parent's steps, the child's, and what they share."""

    __slots__ = ("channel", "child", "clone", "parent")

    def __init__(
        self, parent_steps: tuple[Step, ...], child: tuple[Step, ...], channel: Channel, clone: NewProcess
    ) -> None:
        self.parent = parent_steps
        self.child = child
        self.channel = channel
        self.clone = clone


def run_parent(steps: tuple[Step, ...]) -> None:
    """Run the steps in order; when one fails, undo it and those before it, newest first, and raise with its name."""
    done: list[Step] = []
    try:
        for step in steps:
            debug("parent", step)
            done.append(step)
            _run(step)
    except BaseException:
        undo(tuple(done))
        raise


def undo(steps: tuple[Step, ...]) -> None:
    """Undo the steps, newest first; an undo that fails is told and does not stop the others."""
    for step in reversed(steps):
        try:
            step.undo()
        except (JoeyError, OSError) as error:
            print(f"joey: warning: could not undo: {step.describe()}: {error}", file=sys.stderr)


def _run(step: Step) -> None:
    try:
        step.run()
    except ChildFailed:
        raise
    except JoeyError as error:
        raise StepError(f"{step.describe()}: {error.message}", error.hint, error.slug) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise StepError(f"{step.describe()}: {where}{error.strerror or error}") from None


def let_go(channel: Channel, steps: tuple[Step, ...], keep_fds: int, kept: set[int]) -> None:
    """Let go of what is joey's: descriptors (a directory of the host held open is a way out of a container), signal
    handlers, the log. From here on nothing is imported: after the change of root a module would come from the
    container. `kept` are descriptors that the caller still needs.
    """
    sys.path.clear()
    sys.meta_path.clear()
    channel.keep_child()
    signals.reset()
    log.detach()
    used = {channel.socket.fileno(), *(fd for step in steps for fd in step.keeps())}
    process.close_all_but(used | kept, first=3 + keep_fds)


def run_child(channel: Channel, steps: tuple[Step, ...], created: list[str], first: Callable[[], None] | None) -> None:
    """The child: do `first`, run the steps, the last of which is the exec. On a failure tell the parent which; end."""
    step = None
    try:
        if first:
            first()
        for step in steps:
            debug("child", step)
            step.run()
    except BaseException as error:
        channel.send_error(step.describe() if step else "", error, created)
    finally:
        os._exit(1)


def listen_for_seccomp(start: Start, bundle: Bundle, state: State, status: str) -> None:
    """Have the seccomp listener of a start handed to the bundle's agent, where there is one."""
    if (bundle.linux.get("seccomp") or {}).get("listenerPath"):
        from .listener import forwarder

        start.channel.takes[b"listener"] = forwarder(bundle, state, lambda: start.clone.pid, status)


def release(channel: Channel) -> None:
    """Let the prepared process exec, and wait until it has. Raises StepError when the exec failed."""
    channel.send(b"go")
    channel.wait_for_exec()
