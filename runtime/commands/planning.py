"""What the commands share that make a plan: its options, making it, telling what it loses."""

from __future__ import annotations

import os

from ...compat import capabilities
from ...compat.constants import CAPABILITIES
from ...compat.errors import UsageError
from ...compat.seccomp.words import allows
from ...probes.cache import cached_or_probed
from ...probes.ladder import VITAL
from ...probes.plan import Need, Plan, plan
from .. import bundle as bundles
from .. import log
from ..needs import asks_for_views, copy_needs, layer_words, needs, network_words, quota_words
from ..options import Arguments, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ...probes.report import KernelReport

QUOTA_OPTION = Option(
    "--disk-quota",
    "[DIRS=]SIZE",
    "limit the root file system, or what is bound at DIRS (/data, /&/data for one pool, a pattern); may be repeated",
    many=True,
)
VIEWS_OPTION = Option("--views", "", "have /proc show the container's own memory, CPUs, load and uptime")
LAYER_OPTION = Option(
    "--layer",
    "DIR",
    "make the root file system of directories, the lowest first; root.path is to be empty or missing; may be repeated",
    many=True,
)
NETWORK_OPTION = Option(
    "--network",
    "NETWORK",
    "none, bridge, cni,name=LIST; bridge[,name=,subnet=,address=,prefer=,gateway=,mac=,mtu=,nat=off,names=on,"
    "resolvers=,link=]; may be repeated",
    many=True,
)
PLAN_OPTIONS = (
    Option("--policy", "POLICY", "strict (default): refuse weaker protection; permissive: go on and say what is lost"),
    Option("--force", "FEATURE=MECHANISM", "use this mechanism for a feature; may be repeated", many=True),
)
# features some of whose mechanisms are a tracer, and those (runtime/tracing.py, which is loaded where there is one)
MAY_BE_TRACED = ("static-program", "glibc", "seccomp", "seccomp-privileged", "cgroup.pids", "userns")
TRACERS = ("tracer", "tracer-seccomp", "ptrace", "emulated", "emulated-unfiltered", "pretended")
BUNDLE_OPTION = Option("--bundle -b", "DIR", "the bundle: a folder with config.json", default=".")


def policy_of(arguments: Arguments) -> str:
    """The policy of the command, else of the global options, else of $JOEY_POLICY, else strict."""
    return arguments.text("policy") or arguments.shared.text("policy") or os.environ.get("JOEY_POLICY", "") or "strict"


def forced_of(arguments: Arguments) -> dict[str, str]:
    """--force options as feature -> mechanism."""
    out = {}
    for word in arguments.many("force"):
        feature, equals, mechanism = word.partition("=")
        if not equals:
            raise UsageError(f'--force: "{word}" is not FEATURE=MECHANISM', "see the features with: joey plan")
        out[feature] = mechanism
    if arguments.switch("no-pivot"):
        out["root-change"] = "move-and-chroot"
    return out


def plan_here(needs: list[Need], arguments: Arguments, forced: dict[str, str] | None = None) -> Plan:
    """The plan for this machine, by its cached report; refusals raise PlanRefused."""
    made = plan(cached_or_probed(), needs, policy_of(arguments), forced or forced_of(arguments))
    made.require()
    return made


def plan_container(bundle: bundles.Bundle, arguments: Arguments, report: KernelReport, make_root: bool = False) -> Plan:
    """The plan of a whole container on the machine of a report; its refusals are left in it.

    Its programs are looked at only where the kernel lacks something they could take for granted: `make_root` has a root
    of layers made before, if it is to be made at all.
    """
    policy, forced = policy_of(arguments), forced_of(arguments)
    report, layered = root_of_layers(bundle, arguments, report, make_root)
    report, more = emulated_users(bundle, report, policy, forced)
    wanted = [*layered, *needs(bundle), *more]
    if any(report.lacks(finding) for finding in VITAL):
        from ..programs import with_programs

        report, more = with_programs(report, bundle)
        wanted += more
    if words := asked_quotas(bundle, arguments):
        from ..quota import with_quota

        report, more = with_quota(report, bundle, words)
        wanted += more
    if words := arguments.many("network") or network_words(bundle):
        from ..network import with_networks

        report, more = with_networks(report, bundle, words)
        wanted += more
    if any(need.feature == "capabilities.ambient" for need in wanted):
        report = ambient(bundle, report, forced)
    if asks_for_views(bundle) or arguments.switch("views"):
        from ..views import with_views

        report, more = with_views(report, arguments.switch("views"))
        wanted += more
    made = plan(report, wanted, policy, forced)
    if made.mechanism("enter") == "agent" and (more := copy_needs(bundle)):
        # joey's interpreter stays in the container, with processes that may trace it
        made = plan(report, [*wanted, *more], policy, forced)
    return made


def root_of_layers(
    bundle: bundles.Bundle, arguments: Arguments, report: KernelReport, make_it: bool
) -> tuple[KernelReport, list[Need]]:
    """Where the bundle's root is made of layers: the report with the ways for that, and the need."""
    words = arguments.many("layer") or layer_words(bundle)
    if not words:
        return report, []
    from .. import layers

    policy, forced = policy_of(arguments), forced_of(arguments)
    wanted = forced.get(layers.FEATURE, "" if make_it else "*")
    report, more = layers.with_layers(report, bundle, words, wanted, bool(asked_quotas(bundle, arguments)))
    assert bundle.layers
    made = plan(report, more, policy, forced)
    bundle.layers.by = made.mechanism(layers.FEATURE)
    if make_it:
        made.require()
        if not bundle.layers.is_mounted:
            layers.make(bundle.layers)
    return report, more


def ambient(bundle: bundles.Bundle, report: KernelReport, forced: dict[str, str]) -> KernelReport:
    """The report with whether file capabilities can do for ambient ones, where they would be used."""
    if report.works("capabilities.ambient") and forced.get("capabilities.ambient", "native") == "native":
        return report
    from ..capable import with_program

    return with_program(report, bundle)


def asked_quotas(bundle: bundles.Bundle, arguments: Arguments) -> list[str]:
    return [*quota_words(bundle), *arguments.many("disk-quota")]


def emulated_users(
    bundle: bundles.Bundle,
    report: KernelReport,
    policy: str,
    forced: dict[str, str],
) -> tuple[KernelReport, list[Need]]:
    """Where the bundle's user namespace is to be emulated: have it so, for all that is planned after.

    Gives the report with what follows from it, and what it needs. A profile that forbids what the tracer does in the
    processes' name is enforced by the tracer too, in `forced`.
    """
    if not bundle.creates("user"):
        return report, []
    place = next(place for place, entry in enumerate(bundle.linux["namespaces"]) if entry["type"] == "user")
    need = Need("userns", f"linux.namespaces[{place}]")
    if os.geteuid() != 0 and (not report.works("userns.maps") or forced.get("userns") == "pretended"):
        from ..unprivileged import finding

        report = report.with_findings(finding(bundle))
    by = plan(report, [need], policy, forced).mechanism("userns")
    if by == "pretended":
        from ..unprivileged import check

        check(bundle)
        bundle.pretend()
        return report, [need]
    if by not in ("emulated", "emulated-unfiltered"):
        return report, []
    from ..users import CALLS, NO_DEVICES, warn_of_foreign_root

    bundle.emulate_users()
    if os.path.isdir(bundle.rootfs):
        warn_of_foreign_root(bundle)
    if bundle.linux.get("seccomp") and not allows(bundle.linux["seccomp"], CALLS):
        forced.setdefault("seccomp-privileged", "ptrace")
    return report.with_findings(NO_DEVICES), [need]


def plan_container_here(bundle: bundles.Bundle, arguments: Arguments, make_root: bool) -> Plan:
    """The same for this machine, by its cached report; refusals raise PlanRefused."""
    made = plan_container(bundle, arguments, cached_or_probed(), make_root)
    made.require()
    trace_as_chosen(made.mechanism, bundle)
    return made


def trace_as_chosen(mechanism_of: Callable[[str], str], bundle: bundles.Bundle) -> None:
    """Have the bundle's processes traced, where that is a mechanism of the plan."""
    if any(mechanism_of(feature) in TRACERS for feature in MAY_BE_TRACED):
        from ..tracing import options

        bundle.tracing = options(cached_or_probed(), mechanism_of, bundle)


def seal(made: Plan, again: bool = True) -> None:
    """Go on as a sealed copy of joey's interpreter, where the plan asks for it: this call starts anew, if it may."""
    if made.mechanism("interpreter-copy") != "memfd":
        return
    from ...compat import sealed

    if not sealed.is_sealed():
        if again:
            sealed.run_again()
        log.warn("interpreter-copy: no copy of the interpreter starts: what the container runs may reach it")


def say_losses(made: Plan) -> None:
    """Tell what the container does without."""
    for choice in made.losses:
        log.warn(f"{choice.feature}: {choice.mechanism} is used: {choice.lost}")


def say_capabilities(bundle: bundles.Bundle) -> None:
    """Tell of those that the process does not get. The runtime-spec asks for a warning, not an error."""
    for name in bundles.unknown_capabilities(bundle.process):
        log.warn(f"process.capabilities: nobody knows {name}; ignored")
    sets = {kind: set(names) & set(CAPABILITIES) for kind, names in (bundle.process.get("capabilities") or {}).items()}
    if beyond := sets.get("effective", set()) - sets.get("permitted", set()):
        log.warn(f"process.capabilities.effective: not permitted, so not there: {' '.join(sorted(beyond))}")
    if beyond := sets.get("ambient", set()) - (sets.get("permitted", set()) & sets.get("inheritable", set())):
        log.write("warning", f"process.capabilities.ambient: not permitted and inheritable: {' '.join(sorted(beyond))}")
    if os.geteuid() != 0 or "user" in bundle.namespaces or bundle.users:
        return  # a namespace has all of its own
    wanted = sets.get("permitted", set()) | sets.get("bounding", set())
    mine = capabilities.get()[1]
    if lacking := sorted(name for name in wanted if not mine >> CAPABILITIES.index(name) & 1):
        log.warn(f"process.capabilities: joey has not got them to give: {' '.join(lacking)}")
