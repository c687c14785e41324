"""Findings and kernel reports: slotted values that the start path can load in a millisecond.

The JSON form (schema 1):
    {"schema": 1, "joey": "0.1.0", "key": {...}, "machine": {...}, "seconds": 0.4,
     "findings": {"pidns.clone": {"state": "works", "call": "clone(CLONE_NEWPID)", "answer": "0", "detail": {...}}}}
"""

from __future__ import annotations

from ..compat import jsonio
from ..compat.errors import ReportError
from ..compat.files import LIMIT, read_line, read_text, write_atomically

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SCHEMA = 1
STATES = ("works", "absent", "blocked", "broken")


class Finding:
    """One feature tried on one machine.

    `state`: works; absent (the kernel does not have it); blocked (something forbids it to us); broken (it crashed, hung
    or answered what makes no sense). `call` is what was tried, `answer` the errno or value that came back, `detail`
    further facts of the feature (JSON).
    """

    __slots__ = ("answer", "call", "detail", "feature", "state")

    def __init__(self, feature: str, state: str, call: str, answer: str, detail: dict[str, Any] | None = None) -> None:
        self.feature = feature
        self.state = state
        self.call = call
        self.answer = answer
        self.detail = detail or {}

    @property
    def evidence(self) -> str:
        return f"{self.call}: {self.answer}" if self.answer else self.call

    def as_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"state": self.state, "call": self.call, "answer": self.answer}
        if self.detail:
            out["detail"] = self.detail
        return out


def boot_id() -> str:
    """The kernel's id of this boot. Source: random(4)."""
    return read_line("/proc/sys/kernel/random/boot_id")


class KernelReport:
    """All findings of one machine. `key` says when they hold: boot id, kernel, uid, seccomp state and the like."""

    __slots__ = ("findings", "joey", "key", "machine", "seconds")

    def __init__(
        self, findings: dict[str, Finding], key: dict[str, str], machine: dict[str, str], joey: str, seconds: float
    ) -> None:
        self.findings = findings
        self.key = key
        self.machine = machine
        self.joey = joey
        self.seconds = seconds

    @property
    def is_of_here(self) -> bool:
        """Whether it is of this machine, since its boot: then what findings leave open can be looked at."""
        return self.key.get("boot") == boot_id()

    def with_findings(self, *more: Finding) -> KernelReport:
        """The same with findings that a bundle adds, or changes."""
        findings = {**self.findings, **{finding.feature: finding for finding in more}}
        return KernelReport(findings, self.key, self.machine, self.joey, self.seconds)

    def works(self, feature: str) -> bool:
        """Whether the feature was tried and worked."""
        finding = self.findings.get(feature)
        return finding is not None and finding.state == "works"

    def lacks(self, feature: str) -> bool:
        """Whether the feature was tried and did not work; an older report may not know it."""
        return feature in self.findings and not self.works(feature)

    def evidence(self, feature: str) -> str:
        """The evidence of a finding, or that there is none."""
        finding = self.findings.get(feature)
        return f"{feature} {finding.state} ({finding.evidence})" if finding else f"{feature} was not probed"

    @property
    def name(self) -> str:
        """Kernel release and machine type, as a person would name the kernel."""
        return f"{self.machine.get('release', 'unknown kernel')} {self.machine.get('machine', '')}".strip()

    def as_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "joey": self.joey,
            "key": self.key,
            "machine": self.machine,
            "seconds": round(self.seconds, 3),
            "findings": {name: finding.as_json() for name, finding in self.findings.items()},
        }

    def save(self, path: str) -> None:
        """Write the JSON form, one finding a line, atomically."""
        value = self.as_json()
        findings = value.pop("findings")
        head = jsonio.dumps(value)[:-1]
        rows = ",\n".join(f"  {jsonio.dumps(name)}: {jsonio.dumps(row)}" for name, row in findings.items())
        write_atomically(path, f'{head}, "findings": {{\n{rows}\n}}}}\n', 0o644)


def load(path: str) -> KernelReport:
    """Read a report. Raises ReportError for a missing or broken file and for an unknown schema."""
    try:
        text = read_text(path, LIMIT)
    except OSError as error:
        raise ReportError(
            f"can't read the report {path}: {error.strerror}", "make one with: joey probe --save FILE"
        ) from None
    return parse(text, path)


def parse(text: str, path: str) -> KernelReport:
    """The report in `text`; `path` is for messages."""
    try:
        value = jsonio.loads(text)
    except ValueError as error:
        raise ReportError(f"{path} is not a kernel report: {error}", "make one with: joey probe --save FILE") from None
    if not isinstance(value, dict) or "schema" not in value:
        raise ReportError(f"{path} is not a kernel report: it has no schema version")
    if value["schema"] != SCHEMA:
        raise ReportError(
            f"{path} has report schema {value['schema']!r}, this joey reads {SCHEMA}",
            "make it again with this version: joey probe --save FILE",
        )
    findings = {}
    try:
        for name, row in value["findings"].items():
            if row["state"] not in STATES:
                raise ReportError(f"{path}: finding {name} has the unknown state {row['state']!r}")
            for field in ("call", "answer"):
                if not isinstance(row[field], str):
                    raise TypeError(f"findings.{name}.{field}")
            detail = row.get("detail", {})
            if not isinstance(detail, dict):
                raise TypeError(f"findings.{name}.detail")
            findings[name] = Finding(name, row["state"], row["call"], row["answer"], detail)
        key, machine = dict(value["key"]), dict(value["machine"])
        for word in (*key.values(), *machine.values()):
            if not isinstance(word, str):
                raise TypeError(f"{word!r} is no text")
        seconds = float(value["seconds"])
        if not 0 <= seconds < 1e9:
            raise ValueError(f"{seconds} seconds")
        return KernelReport(findings, key, machine, str(value["joey"]), seconds)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ReportError(f"{path} is a damaged kernel report: {error}") from None
