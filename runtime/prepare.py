"""Making a container or an exec's process: up to the point before its exec, and over it."""

from __future__ import annotations

from ..compat import files
from ..compat.errors import UsageError
from . import build, launch, resources, state
from .build import Options
from .bundle import Bundle
from .container import poststop_of_failed
from .launch import Start
from .state import State

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..probes.plan import Plan


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
        launch.listen_for_seccomp(start, bundle, made, "creating")
        launch.run_parent(start.parent)
    except BaseException:
        made.forget()
        poststop_of_failed(made)
        raise
    finally:
        state.unlock(held)
    return made, start


def restore(
    root: str, container: str, bundle: Bundle, plan: Plan, config_text: str, call: list[str], images: str, log: str
) -> State:
    """Make a container from a checkpoint by the CRIU command line `call`. On failure nothing is left behind."""
    from .placing import is_born_in_v2

    if bundle.networks:
        raise UsageError("a container with networks of joey's can't be restored")
    from .steps.restoring import RestoreByCriu

    made, held = state.create(root, container, bundle)
    try:
        made.set_plan(plan)
        files.write_atomically(f"{made.folder}/config.json", config_text)
        made.cgroup = resources.cgroup_of(bundle, container, plan)
        quotas, in_images = build.quota_steps(bundle, plan, made)
        if in_images:
            raise UsageError("a container whose disk quota is an image can't be restored")
        steps = [*resources.cgroup_steps(bundle, plan, made), *quotas, *build.layer_steps(bundle, made)]
        born = is_born_in_v2({}, made.cgroup, plan.mechanism("cgroup-v2-entry"))
        launch.run_parent((*steps, RestoreByCriu(call, images, log, bundle, made, born)))
    except BaseException:
        made.forget()
        raise
    finally:
        state.unlock(held)
    return made


def _check_terminal(bundle: Bundle, options: Options) -> None:
    """A terminal needs somebody at its other end (runtime.md; runc's words)."""
    wants = bool(bundle.process.get("terminal"))
    if wants and options.detach and not options.console_socket:
        raise UsageError("process.terminal is true: a detached container needs --console-socket")
    if options.console_socket and not wants:
        raise UsageError("--console-socket given, but process.terminal is false")
    if options.console_socket and not options.detach:
        raise UsageError("--console-socket needs a detached container: use create, or --detach")
