"""Whether the programs of an image run on a kernel: from what they are and from that machine's report."""

from __future__ import annotations

from typing import Any

from ..compat.shim import emulations, glibc
from ..compat.shim.glibc import Library
from ..compat.syscalls import X86_64
from ..probes.plan import Need, Plan, plan
from ..probes.report import KernelReport
from . import systemd
from .imagefile import Facts
from .imagetree import Tree
from .programs import lacking, rewritten

_NAMES = {number: name for name, number in X86_64.items()}
_EXAMPLES = 3
RUNS, LOSES, REFUSED = "runs", "runs with losses", "does not run"


class Verdict:
    """What becomes of an image on one host. `reasons` refuse it; `losses` are what it does without; `notes` tell."""

    def __init__(self, host: str, made: Plan, reasons: list[str], losses: list[str], notes: list[str]) -> None:
        self.host = host
        self.plan = made
        self.reasons = reasons
        self.losses = losses
        self.notes = notes

    @property
    def word(self) -> str:
        return REFUSED if self.reasons else LOSES if self.losses else RUNS

    def as_json(self) -> dict[str, Any]:
        return {
            "host": self.host, "verdict": self.word,
            "reasons": self.reasons, "losses": self.losses, "notes": self.notes,
            "mechanisms": {name: choice.mechanism for name, choice in self.plan.choices.items()},
        }  # fmt: skip


def glibc_of(tree: Tree) -> tuple[tuple[int, int] | None, list[Library]]:
    """The version of the tree's glibc for x86-64, and its files; None where there is none."""

    def get(path: str) -> Library | None:
        place = tree.resolve(path)
        facts = tree.files.get(place)
        fits = facts is not None and facts.data and facts.machine == "x86_64" and facts.bits == 64
        return Library("/" + place, facts.data) if facts is not None and fits else None

    return glibc.find(get)


def assess(tree: Tree, report: KernelReport, policy: str) -> Verdict:
    """The verdict for one host."""
    files = list(tree.files.values())
    version, libraries = glibc_of(tree)
    missing = lacking(report)
    needs, extended = [], report
    if version and version >= glibc.FIRST_UNFIT and any(item.vital for item in missing):
        needs.append(Need("glibc", "the C library"))
        extended = report.with_findings(rewritten(libraries, version, missing, report)[0])
    if any(facts.checks_kernel for facts in files) and report.lacks("uname.release"):
        needs.append(Need("static-program", "static programs"))
    made = plan(extended, needs, policy)
    reasons = [f"{choice.field}: {choice.reason}" for choice in made.refusals]
    losses = [f"{choice.feature}: {choice.lost}" for choice in made.losses]
    notes: list[str] = []
    _machines(files, report, reasons, notes)
    _vsyscall(files, report, reasons)
    _abi(files, version, missing, losses)
    _calls(files, report, missing, made, losses, notes)
    if why := _init(tree, report):
        losses.append(f"{why}: its own init can't be the first process (joey rich), its programs run")
    traced = any(choice.mechanism.startswith("tracer") for choice in made.choices.values())
    if traced and (narrow := [facts for facts in files if facts.kind == "program" and facts.bits == 32]):
        losses.append(f"32-bit programs are refused under the tracer: {_examples(narrow)}")
    return Verdict(report.name, made, reasons, losses, notes)


def _init(tree: Tree, report: KernelReport) -> str:
    """Why the image's systemd, if that is its init, can't be the first process there."""
    if not tree.resolve("sbin/init").endswith("/systemd/systemd"):
        return ""
    return systemd.unfit(systemd.version_of(path.rpartition("/")[2] for path in tree.files),
                         report.machine.get("release", ""))  # fmt: skip


def _machines(files: list[Facts], report: KernelReport, reasons: list[str], notes: list[str]) -> None:
    here = report.machine.get("machine", "")
    programs = [facts for facts in files if facts.kind == "program"]
    fit = {here, "i386"} if here == "x86_64" else {here}
    foreign = [facts for facts in programs if facts.machine not in fit]
    if foreign and len(foreign) == len(programs):
        reasons.append(f"its programs are for {foreign[0].machine}, the host is {here}: {_examples(foreign)}")
    elif foreign:
        notes.append(f"{len(foreign)} programs are for another machine: {_examples(foreign)}")
    if not programs:
        notes.append("there are no programs in it")


def _vsyscall(files: list[Facts], report: KernelReport, reasons: list[str]) -> None:
    wanting = [facts for facts in files if facts.vsyscall]
    if wanting and report.lacks("vsyscall"):
        reasons.append(f"{_examples(wanting)} call into the vsyscall page, which the host has not: they end by SIGSEGV")


def _abi(
    files: list[Facts], version: tuple[int, int] | None, missing: list[emulations.Emulation], losses: list[str]
) -> None:
    """Loaders up to glibc 2.35 refuse libraries whose ABI note names a later kernel than they are told."""
    if version is None or version >= (2, 36) or not any(item.name == "release" for item in missing):
        return
    later = [facts for facts in files if facts.abi and facts.abi > emulations.RELEASE]
    if later:
        wanted = ".".join(map(str, max(facts.abi or (0, 0, 0) for facts in later)))
        told = ".".join(map(str, emulations.RELEASE))
        losses.append(f"{_examples(later)} want Linux {wanted}; the loader is told {told} and will not load them")


def _calls(
    files: list[Facts],
    report: KernelReport,
    missing: list[emulations.Emulation],
    made: Plan,
    losses: list[str],
    notes: list[str],
) -> None:
    """Calls that programs and libraries make past the C library, and that the kernel lacks."""
    traced = any(choice.mechanism.startswith("tracer") for choice in made.choices.values())
    emulated = emulations.calls(emulations.mask(missing)) if traced else frozenset()
    by_call: dict[str, list[Facts]] = {}
    for facts in files:
        if facts.data:
            continue  # the C library: rewritten or traced
        for number in facts.calls:
            name = _NAMES.get(number, "")
            if report.lacks(f"syscall.{name}") and number not in emulated:
                by_call.setdefault(name, []).append(facts)
    for name, users in sorted(by_call.items()):
        notes.append(f"{name} is not there (ENOSYS) for {_examples(users)}")
    if "glibc" in made.choices and made.choices["glibc"].mechanism == "rewritten-libc":
        unfit = [facts for facts in files if facts.checks_kernel]
        if unfit and not made.choices.get("static-program"):
            losses.append(f"static programs refuse the kernel: {_examples(unfit)}")


def _examples(files: list[Facts]) -> str:
    names = sorted({"/" + facts.path for facts in files})
    more = len(names) - _EXAMPLES
    return ", ".join(names[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")


def kinds(tree: Tree) -> list[tuple[str, int, str]]:
    """What programs there are: kind, how many, examples."""
    groups: dict[str, list[Facts]] = {}
    for facts in tree.files.values():
        if facts.kind != "program":
            continue
        wide = "" if facts.bits == 64 else "32-bit "
        if facts.go:
            kind = f"{wide}Go ({facts.go.removeprefix('go') or 'release unknown'})" + (
                "" if facts.library else ", static"
            )
        elif facts.library:
            kind = f"{wide}{facts.library}"
        else:
            kind = f"{wide}static" + (", glibc up to 2.35: refuses kernels before 3.2" if facts.checks_kernel else "")
        groups.setdefault(f"{kind}, {facts.machine}", []).append(facts)
    return [(kind, len(files), _examples(files)) for kind, files in sorted(groups.items())]
