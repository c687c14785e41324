"""`joey plan`: which mechanism a bundle gets for each feature, and why."""

from __future__ import annotations

from ...compat import jsonio
from ...probes import report
from ...probes.cache import cached_or_probed
from ...probes.plan import Plan
from .. import bundle as bundles
from ..options import Arguments, Command, Option
from ..tables import Table
from .planning import (
    BUNDLE_OPTION,
    LAYER_OPTION,
    NETWORK_OPTION,
    PLAN_OPTIONS,
    QUOTA_OPTION,
    VIEWS_OPTION,
    plan_container,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..layers import Layers


def run(arguments: Arguments) -> int:
    bundle = bundles.load(arguments.text("bundle"))
    found = report.load(arguments.text("report")) if arguments.given("report") else cached_or_probed()
    made = plan_container(bundle, arguments, found)
    if arguments.switch("json"):
        print(jsonio.dumps(made.as_json()))
    else:
        _print(made)
        if bundle.layers and not bundle.layers.record():
            _print_costs(bundle, bundle.layers)
    return 1 if made.refusals else 0


def _print(made: Plan) -> None:
    table = Table(
        f"Plan for kernel {made.kernel}, {made.policy} policy", "feature", "mechanism", "asked for by", "reason"
    )
    for choice in made.choices.values():
        table.add(choice.feature, choice.mechanism or "refused", choice.field, choice.reason)
    table.print()
    if made.losses:
        losses = Table("What the container does without", "feature", "loss")
        for choice in made.losses:
            losses.add(choice.feature, choice.lost)
        losses.print()
    if made.refusals:
        print(f"The bundle can't run there: {len(made.refusals)} of {len(made.choices)} features refused.")
    else:
        lost = f", {len(made.losses)} with a loss" if made.losses else ""
        print(f"The bundle runs there: {len(made.choices)} features{lost}.")


def _print_costs(bundle: bundles.Bundle, layers: Layers) -> None:
    from ..layers import costs

    table = Table("What making its root costs, before the first start", "by", "files", "MB", "seconds, about")
    for name, count, size, seconds in costs(bundle, layers):
        table.add(name, str(count), f"{size / 1e6:.1f}", f"{seconds:.1f}")
    table.print()


COMMAND = Command(
    "plan",
    "show which mechanism a bundle would get for each feature, and why",
    run,
    options=(
        BUNDLE_OPTION,
        Option("--report", "FILE", "plan for the kernel of this saved report instead of this machine's"),
        Option("--json", "", "print JSON"),
        LAYER_OPTION,
        QUOTA_OPTION,
        VIEWS_OPTION,
        NETWORK_OPTION,
        *PLAN_OPTIONS,
    ),
    detail="Exit status 0 when the bundle can run there, 1 when something is refused. `joey run` follows this plan.",
    examples=(
        "joey plan -b /srv/bundle",
        "joey plan -b /srv/bundle --report centos6.json --policy permissive",
        "joey plan -b /srv/bundle --force root-change=move-and-chroot",
    ),
)
