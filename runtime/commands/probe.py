"""`joey probe`: what this kernel can do."""

from __future__ import annotations

from ...compat import jsonio
from ...compat.errors import UsageError
from ...probes import catalog, report
from ...probes.cache import store
from ...probes.report import Finding, KernelReport
from ...probes.run import probe_machine
from ...probes.run import run as run_probes
from ..options import Arguments, Command, Option
from ..tables import Table


def run(arguments: Arguments) -> int:
    if arguments.switch("diff"):
        if len(arguments.words) != 2:
            raise UsageError("--diff takes two reports: joey probe --diff A.json B.json")
        return _diff(report.load(arguments.words[0]), report.load(arguments.words[1]), arguments.switch("json"))
    if arguments.words:
        raise UsageError(f'unexpected word "{arguments.words[0]}"', "see: joey probe --help")
    if arguments.given("explain"):
        return _explain(arguments.text("explain"), arguments.switch("json"))
    only = arguments.many("only")
    if arguments.given("report"):
        found = report.load(arguments.text("report"))
    else:
        found = probe_machine(only)
        if not only:
            store(found)
    if arguments.given("save"):
        found.save(arguments.text("save"))
    if arguments.switch("json"):
        print(jsonio.dumps(found.as_json()))
    else:
        _print(found, only)
    return 0


def _print(found: KernelReport, only: list[str]) -> None:
    machine = found.machine
    who = "root" if found.key.get("uid") == "0" else f"user {found.key.get('uid')}"
    print(f"Kernel {found.name} ({machine.get('distribution') or 'unknown distribution'}), probed as {who}\n")
    for group in catalog.groups(only):
        table = Table(group.title, "feature", "state", "evidence", "what its absence costs")
        for probe in group.probes:
            finding = found.findings.get(probe.feature)
            if finding is not None:
                cost = probe.cost if finding.state != "works" else ""
                table.add(probe.feature, finding.state, finding.evidence, cost)
        table.print()
    print(_summary(found))


def _summary(found: KernelReport) -> str:
    states = [finding.state for finding in found.findings.values()]
    parts = [f"{states.count(state)} {state}" for state in report.STATES if state in states]
    return f"{len(states)} features in {found.seconds:.2f} s: {', '.join(parts)}"


def _explain(feature: str, as_json: bool) -> int:
    """One feature, tried now, with everything known of it."""
    known = catalog.by_feature()
    if feature not in known:
        near = [name for name in known if feature in name][:8]
        raise UsageError(
            f'no feature "{feature}"', ("did you mean " + ", ".join(near) + "?") if near else "see: joey probe"
        )
    probe = known[feature]
    finding = run_probes([probe])[feature]
    if as_json:
        print(jsonio.dumps({"feature": feature, "group": probe.group, "cost": probe.cost, **finding.as_json()}))
        return 0
    print(f"{feature}: {finding.state}\n")
    print(f"  tried       {finding.call}")
    print(f"  answer      {finding.answer or 'success'}")
    if probe.cost:
        print(f"  its absence {probe.cost}")
    for key, value in finding.detail.items():
        print(f"  {key:<11} {jsonio.dumps(value) if not isinstance(value, str) else value}")
    users = _used_by(feature)
    if users:
        print("  used by     " + "\n              ".join(users))
    return 0


def _used_by(feature: str) -> list[str]:
    from ...probes.ladder import FEATURES

    return [
        f"{wanted.name}: mechanism {mechanism.name}"
        for wanted in FEATURES.values()
        for mechanism in wanted.mechanisms
        if feature in (requirement.partition("@")[0] for requirement in mechanism.requires)
    ]


def _diff(one: KernelReport, other: KernelReport, as_json: bool) -> int:
    """The findings that differ; exit status 0 when none does, 1 otherwise, as diff(1)."""
    rows: list[tuple[str, Finding | None, Finding | None]] = []
    for feature in dict.fromkeys([*one.findings, *other.findings]):
        left, right = one.findings.get(feature), other.findings.get(feature)
        if (left.state if left else "") != (right.state if right else ""):
            rows.append((feature, left, right))
    if as_json:
        print(jsonio.dumps([
            {"feature": feature, "left": left.as_json() if left else None, "right": right.as_json() if right else None}
            for feature, left, right in rows
        ]))  # fmt: skip
    elif rows:
        table = Table("", "feature", one.name, other.name)
        for feature, left, right in rows:
            table.add(feature, _cell(left), _cell(right))
        table.print()
        print(f"{len(rows)} of {len(dict.fromkeys([*one.findings, *other.findings]))} features differ")
    else:
        print("no feature differs")
    return 1 if rows else 0


def _cell(finding: Finding | None) -> str:
    if finding is None:
        return "not probed"
    return finding.state + (f" ({finding.answer})" if finding.answer else "")


COMMAND = Command(
    "probe",
    "try what this kernel can do, and show what each absence costs",
    run,
    words="[A.json B.json]",
    most=2,
    options=(
        Option("--json", "", "print JSON"),
        Option("--save", "FILE", "also write the report to FILE, for `joey plan --report` elsewhere"),
        Option("--report", "FILE", "show a saved report instead of probing"),
        Option("--explain", "FEATURE", "try one feature and tell all about it"),
        Option("--only", "GROUP", "only this group; may be repeated: " + ", ".join(catalog.GROUP_NAMES), many=True),
        Option("--diff", "", "compare two saved reports; exit status 1 when they differ"),
    ),
    detail=(
        "Each feature is tried, in a child with a time limit; no mount, cgroup, namespace or process is left behind.\n"
        "States: works; absent, the kernel has it not; blocked, it is forbidden to you; broken, it crashed or hung."
    ),
    examples=(
        "joey probe",
        "joey probe --only namespaces --only cgroups",
        "joey probe --explain userns.clone",
        "joey probe --save here.json && joey probe --diff there.json here.json",
    ),
)
