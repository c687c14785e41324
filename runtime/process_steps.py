"""From inside the root to the exec: identity, privileges, readiness. Shared by `run`, `create` and `exec`."""

from __future__ import annotations

import _socket
import os

from ..compat import execstub, signals
from ..compat.constants import (
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SECCOMP_FILTER_FLAG_TSYNC,
    SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
)
from ..compat.seccomp.words import allows
from ..probes.plan import Plan
from . import log
from .bundle import Bundle
from .channel import Channel
from .needs import SECCOMP_FLAGS
from .state import State
from .steps import Step, process, program


class Made:
    """What the last steps use that is made where the host's files are in reach: the stub, and seccomp programs."""

    __slots__ = ("filter", "filter_flags", "own", "stub", "trace_filter")

    def __init__(
        self, stub: program.Stub | None, filter: bytes, filter_flags: int, trace_filter: bytes, own: tuple[int, int]
    ) -> None:
        self.stub = stub
        self.filter = filter  # the profile's; b"" for none
        self.filter_flags = filter_flags
        self.trace_filter = trace_filter  # the tracer's; b"" for none
        self.own = own  # joey's interpreter: device and inode


def make(bundle: Bundle, plan: Plan, state: State, keep_fds: int) -> Made:
    """Make what `process_steps` needs, for a process that gets `keep_fds` descriptors after the standard three."""
    filter_, flags = _seccomp(bundle, plan)
    own = os.stat("/proc/self/exe")
    stub = _stub(bundle, plan, state, 3 + keep_fds)
    return Made(stub, filter_, flags, _trace_filter(bundle), (own.st_dev, own.st_ino))


def process_steps(
    bundle: Bundle, plan: Plan, channel: Channel, listener: _socket.socket | None, state: State, made: Made
) -> list[Step]:
    """The last steps of a child, in their order."""
    what = bundle.process
    channel.program = lambda: str(what["args"][0])
    user = bundle.user
    no_new_privs = plan.mechanism("no-new-privs") == "prctl"
    seccomp = process.InstallSeccomp(made.filter, made.filter_flags, channel) if made.filter else None
    stub = made.stub
    prepare = program.Prepare(what, stub, made.own)
    out: list[Step] = [process.TryWorkingDirectory(what["cwd"])]
    if what.get("scheduler") or what.get("ioPriority"):
        from .steps.scheduling import scheduling_steps

        out += scheduling_steps(what, plan.mechanism("scheduler") or plan.mechanism("scheduler-deadline"))
    if bundle.linux.get("personality"):
        from .steps.scheduling import SetPersonality

        out.append(SetPersonality(bundle.linux["personality"]["domain"]))
    if not what.get("terminal"):
        out.append(process.OwnStreams(user.get("uid", 0)))
    trace = (
        process.InstallSeccomp(made.trace_filter, 0, channel, "what stops for the tracer")
        if made.trace_filter
        else None
    )
    early = not no_new_privs and not bundle.users
    if trace and early:
        out.append(trace)
    if seccomp and early:
        out.append(seccomp)  # needs CAP_SYS_ADMIN, which goes next
    if bundle.users:
        from .steps.users import BecomeHostUser

        out.append(BecomeHostUser(user, bundle.users.kept))
    else:
        out.append(
            process.BecomeUser(
                user,
                what.get("capabilities") or {},
                plan.mechanism("capabilities.bounding") == "native",
                plan.mechanism("capabilities.ambient") == "native" or user.get("uid", 0) == 0,
            )
        )
    if no_new_privs:
        out.append(process.SetNoNewPrivs())
        out += [trace] if trace else []
    out.append(prepare)
    out.append(program.ReportReady(channel, listener, stub))
    if bundle.hooks("startContainer") and state.folder:
        hooks, told = bundle.hooks("startContainer"), state.oci("created")
        out.append(
            process.RunContainerHooks("startContainer", hooks, told, (stub.fd, stub.report_fd) if stub else None)
        )
    if stub is None:
        out.append(program.CheckProgram(prepare))
    out += _label_steps(bundle, plan)
    out.append(program.RestoreSignals(signals.blocked()))
    if trace and bundle.users:
        out.append(trace)  # what it stops for joey makes too, and there is a tracer only now
    if seccomp and not early:
        out.append(seccomp)
    out.append(program.Exec(prepare))
    return out


def seccomp_steps(bundle: Bundle, plan: Plan, channel: Channel) -> list[Step]:
    """The last steps of a process that a tracer has by now, and that has no privilege: filters, and its signals."""
    filter_, flags = _seccomp(bundle, plan)
    trace = _trace_filter(bundle)
    out: list[Step] = [process.SetNoNewPrivs()] if trace or filter_ else []
    out.append(program.RestoreSignals(signals.blocked()))
    if trace:
        out.append(process.InstallSeccomp(trace, 0, channel, "what stops for the tracer"))
    if filter_:
        out.append(process.InstallSeccomp(filter_, flags, channel))
    return out


def _trace_filter(bundle: Bundle) -> bytes:
    """What stops threads for the tracer; those of a kernel without it stop at every call by themselves."""
    if not (bundle.tracing and bundle.tracing.seccomp):
        return b""
    from ..compat.tracing import filter

    return filter.build(bundle.tracing.handlers)


def _stub(bundle: Bundle, plan: Plan, state: State, report_fd: int) -> program.Stub | None:
    """What hides joey's interpreter at the exec (compat/execstub.py), by the plan's mechanism; None for `checked`."""
    by = plan.mechanism("interpreter-hiding")
    by_name = by == "unlinked-file" or not allows(bundle.linux.get("seccomp") or {}, ("execveat",))
    if by not in ("memfd", "unlinked-file") or not execstub.code():
        return None
    if by_name and not any(entry.get("type") == "proc" for entry in bundle.mounts):
        lost = (
            "without a proc mount there is no way to the stub: the program is only checked not to be joey's interpreter"
        )
        state.losses["interpreter-hiding"] = lost
        log.warn(f"interpreter-hiding: {lost}")
        return None
    content = execstub.image(report_fd)
    if by == "memfd":
        try:
            return program.Stub(execstub.in_memory(content, report_fd + 1), report_fd, by_name)
        except OSError:
            by_name = True  # vm.memfd_noexec was set since the kernel was probed
    folders = (state.folder, "/dev/shm", "/tmp", "/var/tmp", bundle.path)
    return program.Stub(execstub.in_unlinked_file(content, report_fd + 1, folders), report_fd, by_name)


def _label_steps(bundle: Bundle, plan: Plan) -> list[Step]:
    """The security modules' labels; the plan has refused them, or let them go, where the module is not there."""
    out: list[Step] = []
    for feature, field in (("apparmor", "apparmorProfile"), ("selinux", "selinuxLabel")):
        value = bundle.process.get(field)
        if value and plan.mechanism(feature) == "native":
            from .steps import labels

            if feature == "apparmor":
                out.append(labels.LabelExec(f"process.{field}", labels.APPARMOR, f"exec {value}"))
            else:
                out.append(labels.LabelExec(f"process.{field}", labels.SELINUX, value))
    return out


def _seccomp(bundle: Bundle, plan: Plan) -> tuple[bytes, int]:
    """The compiled profile and its flags."""
    section = bundle.linux.get("seccomp")
    if not section or "filter" not in (plan.mechanism("seccomp"), plan.mechanism("seccomp-privileged")):
        return b"", 0
    from ..compat.seccomp.words import FLAGS, notifies
    from .filters import compiled

    flags = 0
    for name in section.get("flags") or []:
        if plan.mechanism(SECCOMP_FLAGS[name]) == "native":
            flags |= FLAGS[name]
    if notifies(section):
        flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER
        if flags & SECCOMP_FILTER_FLAG_TSYNC:
            flags |= SECCOMP_FILTER_FLAG_TSYNC_ESRCH  # without it the two can't go together (Linux 5.7)
    return compiled(section), flags
