"""Which tracer a container's processes have on this machine: for its programs, for its seccomp profile, or none."""

from __future__ import annotations

from ..compat.shim import divert, emulations
from ..compat.tracing import tether, tracer
from ..compat.tracing.handler import Handler
from .programs import lacking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..probes.report import KernelReport
    from .bundle import Bundle
    from .state import State

PROGRAMS = ("static-program", "glibc")
PROFILE = ("seccomp", "seccomp-privileged")


def _by_programs(mechanism_of: Callable[[str], str]) -> str:
    return next((way for name in PROGRAMS if (way := mechanism_of(name)).startswith("tracer")), "")


def _by_profile(mechanism_of: Callable[[str], str]) -> bool:
    return any(mechanism_of(name) == "ptrace" for name in PROFILE)


def options(report: KernelReport, mechanism_of: Callable[[str], str], bundle: Bundle) -> tracer.Options:
    """How the processes are traced. The profile is asked first: it judges what the program does, and the shim too. What
    emulates users comes after the shim, which makes calls of its own in the place of newer ones."""
    handlers: list[Handler] = []
    if _by_profile(mechanism_of):
        from ..compat.seccomp.enforce import Profile
        from .filters import compiled

        handlers.append(Profile(compiled(bundle.linux["seccomp"])))
    if (handlers or bundle.users) and not bundle.pretended:  # whose handler keeps them too
        handlers.append(tether.Tether(bundle.users.gids.shown) if bundle.users else tether.Tether())
    programs = _by_programs(mechanism_of)
    if programs:
        bits = emulations.mask(lacking(report))
        handlers.append(divert.Diversion(bits, emulations.code_for(bits, report.machine.get("release", ""))))
    if bundle.users:
        from .users import handler

        handlers.append(handler(bundle, mechanism_of))
    wanted = programs == "tracer-seccomp" or (not programs and report.works("ptrace.seccomp-stop"))
    wanted = wanted and mechanism_of("userns") != "emulated-unfiltered"
    by_filter = wanted and all(handler.conditions() is not None for handler in handlers)
    return tracer.Options(handlers, by_filter, report.works("ptrace.seize"), report.works("ptrace.exitkill"))


def limit_forks(bundle: Bundle, mechanism_of: Callable[[str], str], state: State) -> None:
    """Have the tracer keep the process limit, where that is the plan. Before the tracer's filter is made."""
    if mechanism_of("cgroup.pids") != "ptrace" or bundle.tracing is None:
        return
    from ..compat.limits.forks import ForkLimit
    from .limits import Limits

    limits = Limits(state.folder, bundle.resources)
    kept = bundle.pretended or any(isinstance(handler, tether.Tether) for handler in bundle.tracing.handlers)
    if not kept:
        bundle.tracing.handlers.insert(0, tether.Tether())
    bundle.tracing.handlers.append(ForkLimit(limits.count, state.cgroup.task_files))
