"""`joey fleet check`: on which hosts an image would run."""

from __future__ import annotations

import sys

from ....compat import jsonio
from ....compat.errors import JoeyError
from ....runtime import assess, imagetree
from ....runtime.commands.planning import policy_of
from ....runtime.options import Arguments, Command
from ....runtime.tables import Table
from .shared import HOSTS, JSON, POLICY, STORE, WORDS, chosen, store


def run(arguments: Arguments) -> int:
    image, *words = arguments.words
    place = store(arguments)
    names = [host.name for host in chosen(arguments, words)] if words or arguments.given("hosts") else place.hosts()
    if not names:
        raise JoeyError(f"nothing is known yet in {place.folder}", "joey fleet probe HOST ...", "fleet")
    tree = imagetree.read(image)
    policy = policy_of(arguments)
    verdicts: dict[str, assess.Verdict] = {}
    unknown = []
    of_like: dict[str, assess.Verdict] = {}  # hosts of a fleet are alike: one verdict for those with the same findings
    for name in names:
        try:
            report = place.report(name)
        except JoeyError as error:
            print(f"joey: {error}", file=sys.stderr)
            report = None
        if report is None:
            unknown.append(name)
            continue
        like = jsonio.dumps([report.as_json()["findings"], report.name])
        if like not in of_like:
            of_like[like] = assess.assess(tree, report, policy)
        verdicts[name] = of_like[like]
    place.keep_check(tree.name, {name: verdict.word for name, verdict in verdicts.items()})
    for name in unknown:
        print(f"joey: {name} was never probed: joey fleet probe {name}", file=sys.stderr)
    if arguments.switch("json"):
        rows = [{"name": name, **verdict.as_json()} for name, verdict in verdicts.items()]
        print(jsonio.dumps({"image": tree.name, "hosts": rows, "unknown": unknown}))
    else:
        _show(tree.name, verdicts)
    return 1 if unknown or any(verdict.reasons for verdict in verdicts.values()) else 0


def _show(image: str, verdicts: dict[str, assess.Verdict]) -> None:
    table = Table(image, "host", "kernel", "verdict", "by", "because")
    for name, verdict in verdicts.items():
        mechanisms = dict.fromkeys(choice.mechanism for choice in verdict.plan.choices.values())
        by = ", ".join(word for word in mechanisms if word not in ("", "native"))
        why = "; ".join(verdict.reasons or verdict.losses)
        table.add(name, verdict.host, verdict.word, by or "native", why[:160])
    table.print()
    fit = sum(not verdict.reasons for verdict in verdicts.values())
    print(f"it runs on {fit} of {len(verdicts)} hosts")


COMMAND = Command(
    "fleet check",
    "say on which hosts an image would run, and why not",
    run,
    words=f"IMAGE {WORDS}",
    least=1,
    most=-1,
    options=(
        HOSTS,
        STORE,
        POLICY,
        JSON,
    ),
    detail=(
        "By the reports that `joey fleet probe` has kept; no host is asked. IMAGE is as for `joey check`. Exit status\n"
        "0 where it runs on every host, 1 where one refuses or was never probed."
    ),
    examples=("joey fleet check oci:images:shop", "joey fleet check /srv/debian web"),
)
