"""`joey check`: whether an image will run on a host, before anything is moved there."""

from __future__ import annotations

from ...compat import jsonio
from ...probes import report as reports
from ...probes.cache import cached_or_probed
from .. import assess, imagetree
from ..options import Arguments, Command, Option
from ..tables import Table
from .planning import policy_of


def run(arguments: Arguments) -> int:
    tree = imagetree.read(arguments.words[0])
    places = arguments.many("report")
    hosts = [(place, reports.load(place)) for place in places] or [("this machine", cached_or_probed())]
    verdicts = [(place, assess.assess(tree, report, policy_of(arguments))) for place, report in hosts]
    glibc, _ = assess.glibc_of(tree)
    if arguments.switch("json"):
        value = {
            "image": tree.name,
            "glibc": ".".join(map(str, glibc)) if glibc else "",
            "programs": [{"kind": kind, "count": count, "examples": text} for kind, count, text in assess.kinds(tree)],
            "hosts": [{"report": place, **verdict.as_json()} for place, verdict in verdicts],
        }
        print(jsonio.dumps(value))
    else:
        _print(tree, glibc, verdicts)
    return 1 if any(verdict.reasons for _, verdict in verdicts) else 0


def _print(tree: imagetree.Tree, glibc: tuple[int, int] | None, verdicts: list[tuple[str, assess.Verdict]]) -> None:
    library = f"glibc {glibc[0]}.{glibc[1]}" if glibc else "no glibc for x86-64"
    table = Table(f"{tree.name}: {library}", "programs", "count", "such as")
    for kind, count, text in assess.kinds(tree):
        table.add(kind, str(count), text)
    table.print()
    for place, verdict in verdicts:
        print(f"On {verdict.host} ({place}): {verdict.word}")
        for choice in verdict.plan.choices.values():
            if choice.mechanism:
                print(f"  by {choice.mechanism}: {choice.reason}")
        for title, lines in (("refused", verdict.reasons), ("loss", verdict.losses), ("note", verdict.notes)):
            for line in lines:
                print(f"  {title}: {line}")
        print()


COMMAND = Command(
    "check",
    "say beforehand whether an image's programs run on a host, and how",
    run,
    words="IMAGE",
    least=1,
    most=1,
    options=(
        Option("--report", "FILE", "judge by this saved report instead of this machine; may be repeated", many=True),
        Option("--json", "", "print JSON"),
        Option("--policy", "POLICY", "strict (default) or permissive, as for `joey run`"),
    ),
    detail=(
        "IMAGE is a root file system, a bundle, an OCI image layout, or an archive (docker save, skopeo copy).\n"
        "Nothing of it is run: its ELF files are read for the machine and kernel they want, the C library's\n"
        "version, system calls of their own, the vsyscall page. Exit status 0 when it runs on every host, 1 when\n"
        "one refuses."
    ),
    examples=(
        "joey check /srv/debian",
        "joey check nginx.tar --report centos6.json --report centos7.json",
        "joey check oci-layout --json",
    ),
)
