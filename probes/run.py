"""Run probes so that none can hurt: each in a forked child, with a time limit, and cleaned up after.

A child gets a process group of its own and dies with joey. What a probe makes lives in namespaces that end with the
child; the one kind of thing that would outlive it, a cgroup, has a name that `sweep` knows and removes when a child
was killed. Probes that change nothing share children; when one of those crashes or hangs, it becomes a
`broken` finding and the rest goes on in a new child.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import Any

from .. import __version__
from ..compat import jsonio, libc
from ..compat.cgroup import layout
from ..compat.constants import PR_SET_PDEATHSIG, SIGKILL
from . import catalog
from .cache import machine_key, machine_traits
from .catalog import Probe
from .report import Finding, KernelReport
from .trying import scratch_name

# Children at a time: many probes wait for the kernel to end a namespace, not for a processor.
SLOTS = 4
# A probe that gave no answer is tried again alone and with this many times its time: the machine may have been busy.
PATIENCE = 8


def probe_machine(only: list[str] | None = None) -> KernelReport:
    """Try everything (or the named groups) on this machine."""
    started = time.monotonic()
    probes = [probe for group in catalog.groups(only) for probe in group.probes]
    findings = run(probes)
    return KernelReport(findings, machine_key(), machine_traits(), __version__, time.monotonic() - started)


def run(probes: list[Probe], slots: int = SLOTS) -> dict[str, Finding]:
    """Try the probes, a few children at a time; one finding each, in the order given, whatever happens."""
    findings: dict[str, Finding] = {}
    late = _run_batches(_batches(probes), slots, 1, findings)
    if late:
        _run_batches([[probe] for probe in late], 1, PATIENCE, findings)
    return {probe.feature: findings[probe.feature] for probe in probes}


def _run_batches(batches: list[list[Probe]], slots: int, patience: int, findings: dict[str, Finding]) -> list[Probe]:
    """Try batches, `slots` at a time; returns the probes that gave no answer in time."""
    late: list[Probe] = []
    sys.stdout.flush()
    sys.stderr.flush()
    waiting = list(reversed(batches))
    running: dict[int, _Child] = {}
    while waiting or running:
        while waiting and len(running) < slots:
            child = _Child(waiting.pop(), patience)
            running[child.read_end] = child
        soonest = min(child.deadline for child in running.values())
        ready, _, _ = select.select(list(running), [], [], max(0.0, soonest - time.monotonic()))
        now = time.monotonic()
        for child in list(running.values()):
            if child.read_end in ready:
                going_on = child.read(findings)
            else:
                going_on = child.deadline > now
                if not going_on:
                    late += child.time_out(findings)
            if not going_on:
                del running[child.read_end]
                rest = child.end(findings)
                if rest:
                    waiting.append(rest)
    return late


def _batches(probes: list[Probe]) -> list[list[Probe]]:
    """Neighbours that change nothing of their process share a child; every other probe has its own."""
    out: list[list[Probe]] = []
    for probe in probes:
        if out and not probe.alone and not out[-1][-1].alone:
            out[-1].append(probe)
        else:
            out.append([probe])
    return out


class _Child:
    """A forked child that tries a batch and writes a line for each probe."""

    def __init__(self, batch: list[Probe], patience: int) -> None:
        self.batch = batch
        self.patience = patience
        self.done = 0
        self.text = b""
        self.killed = False
        self.read_end, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _child(batch, write_end)
        os.close(write_end)
        self.deadline = time.monotonic() + batch[0].seconds * patience

    def read(self, findings: dict[str, Finding]) -> bool:
        """Take the lines that came; False at end of file."""
        chunk = os.read(self.read_end, 1 << 16)
        self.text += chunk
        while b"\n" in self.text:
            line, _, self.text = self.text.partition(b"\n")
            state, call, answer, detail = jsonio.loads(line.decode())
            feature = self.batch[self.done].feature
            findings[feature] = Finding(feature, state, call, answer, detail)
            self.done += 1
            if self.done < len(self.batch):
                self.deadline = time.monotonic() + self.batch[self.done].seconds * self.patience
        return bool(chunk)

    def time_out(self, findings: dict[str, Finding]) -> list[Probe]:
        """The probe at hand took too long: broken, and the child must go. Returns that probe."""
        self.killed = True
        if self.done == len(self.batch):
            return []
        late = self.batch[self.done]
        self._broken(findings, f"no answer within {late.seconds * self.patience:g} s")
        return [late]

    def end(self, findings: dict[str, Finding]) -> list[Probe]:
        """Kill what is left of the child's process group and reap it; returns the probes it never came to."""
        os.close(self.read_end)
        if self.killed:
            _kill(self.pid)
        _kill(-self.pid)
        status = os.waitpid(self.pid, 0)[1]
        if self.killed:
            sweep()
        elif self.done < len(self.batch):
            self._broken(findings, _describe_end(status))
        return self.batch[self.done :]

    def _broken(self, findings: dict[str, Finding], reason: str) -> None:
        probe = self.batch[self.done]
        findings[probe.feature] = Finding(probe.feature, "broken", probe.call, reason)
        self.done += 1


def _kill(pid: int) -> None:
    try:
        os.kill(pid, SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _child(batch: list[Probe], write_end: int) -> None:
    """Try each probe and write a line for each; never returns."""
    try:
        os.setpgid(0, 0)
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for probe in batch:
            try:
                row: tuple[str, str, str, dict[str, Any]] = probe.attempt()
            except Exception as error:
                row = ("broken", probe.call, f"{type(error).__name__}: {error}", {})
            os.write(write_end, jsonio.dumps(list(row)).encode() + b"\n")
    finally:
        os._exit(0)


def _describe_end(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"the probe died of {signal.Signals(os.WTERMSIG(status)).name}"
    return f"the probe ended without an answer (status {os.WEXITSTATUS(status)})"


def sweep() -> None:
    """Remove scratch cgroups and directories that killed probes of this process left behind."""
    prefix = scratch_name(os.getpid(), "")
    for hierarchy in layout.hierarchies():
        for name in os.listdir(hierarchy.mount):
            if name.startswith(prefix):
                try:
                    os.rmdir(f"{hierarchy.mount}/{name}")
                except OSError:
                    continue  # its process is still dying; the next sweep takes it
