"""The plan: for each feature a bundle needs, the mechanism, the reason, what is lost; or a refusal.

`plan` is a pure function of a report, needs, a policy and forced choices. It works as well with a report that came
from another machine. Nothing after it branches on a kernel feature.
"""

from __future__ import annotations

from ..compat.errors import PlanRefused, UsageError
from .ladder import FEATURES, Feature, Mechanism

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .report import KernelReport

POLICIES = ("strict", "permissive")


class Need:
    """A feature a bundle needs, and the field of config.json that asks for it."""

    __slots__ = ("feature", "field")

    def __init__(self, feature: str, field: str) -> None:
        self.feature = feature
        self.field = field


class Choice:
    """One line of a plan. `mechanism` is "" for a refusal, whose `reason` then says what would have to change."""

    __slots__ = ("feature", "field", "forced", "lost", "mechanism", "reason")

    def __init__(
        self, feature: str, field: str, mechanism: str, reason: str, lost: str = "", forced: bool = False
    ) -> None:
        self.feature = feature
        self.field = field
        self.mechanism = mechanism
        self.reason = reason
        self.lost = lost
        self.forced = forced

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("feature", "mechanism", "reason", "lost", "field", "forced")}


class Plan:
    """The choices by feature, in the order of the needs."""

    __slots__ = ("choices", "kernel", "policy")

    def __init__(self, choices: dict[str, Choice], policy: str, kernel: str) -> None:
        self.choices = choices
        self.policy = policy
        self.kernel = kernel

    def mechanism(self, feature: str) -> str:
        """The mechanism chosen for a feature (or for it inside a user namespace); "" when the bundle needs it not."""
        choice = self.choices.get(feature) or self.choices.get(f"{feature}-in-userns")
        return choice.mechanism if choice else ""

    @property
    def refusals(self) -> list[Choice]:
        return [choice for choice in self.choices.values() if not choice.mechanism]

    @property
    def losses(self) -> list[Choice]:
        return [choice for choice in self.choices.values() if choice.mechanism and choice.lost]

    def require(self) -> None:
        """Raise PlanRefused, naming every refusal, unless the plan can be carried out."""
        if not self.refusals:
            return
        lines = [f"{choice.field}: {FEATURES[choice.feature].title}: {choice.reason}" for choice in self.refusals]
        raise PlanRefused(
            f"this kernel can't run the bundle under the {self.policy} policy:\n  " + "\n  ".join(lines),
            "`joey plan -b BUNDLE` shows the whole plan; docs/fallbacks.md says what each mechanism gives up",
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "kernel": self.kernel,
            "runs": not self.refusals,
            "features": [choice.as_json() for choice in self.choices.values()],
        }


def plan(report: KernelReport, needs: list[Need], policy: str = "strict", forced: dict[str, str] | None = None) -> Plan:
    """Choose a mechanism for each need. Raises UsageError for an unknown policy, feature or mechanism."""
    forced = forced or {}
    if policy not in POLICIES:
        raise UsageError(f'unknown policy "{policy}"', "policies: " + ", ".join(POLICIES))
    for name, mechanism in forced.items():
        if name not in FEATURES:
            raise UsageError(f'--force: no feature "{name}"', "features: " + ", ".join(FEATURES))
        names = [item.name for item in FEATURES[name].mechanisms]
        if mechanism not in names:
            raise UsageError(
                f'--force: feature {name} has no mechanism "{mechanism}"', "mechanisms: " + ", ".join(names)
            )
    choices: dict[str, Choice] = {}
    for need in needs:
        if need.feature in choices:
            continue
        feature = FEATURES[need.feature]
        choices[need.feature] = _choose(report, feature, need, policy, forced.get(need.feature, ""))
    return Plan(choices, policy, report.name)


def _choose(report: KernelReport, feature: Feature, need: Need, policy: str, forced: str) -> Choice:
    """The best mechanism whose requirements are met and that the policy lets through; or the refusal."""
    skipped: list[str] = []
    for mechanism in feature.mechanisms:
        if forced and mechanism.name != forced:
            continue
        unmet = mechanism.unmet(report)
        if unmet:
            reasons = [report.evidence(name.partition("@")[0]) for name in unmet]
            skipped.append(f"{mechanism.name} needs {_and(_unmet(report, unmet, reasons))}")
            continue
        if mechanism.weaker and feature.protects and policy == "strict":
            skipped.append(
                f"{mechanism.name} is too weak for the strict policy ({mechanism.lost}); --policy permissive allows it"
            )
            continue
        return Choice(
            feature.name,
            need.field,
            mechanism.name,
            _reason(report, mechanism, skipped, forced),
            mechanism.lost,
            bool(forced),
        )
    return Choice(feature.name, need.field, "", "; ".join(skipped), forced=bool(forced))


def _unmet(report: KernelReport, unmet: list[str], reasons: list[str]) -> list[str]:
    """What is missing, in words: a finding that did not work, or one that worked in another kind of hierarchy."""
    out = []
    for requirement, evidence in zip(unmet, reasons, strict=True):
        feature, _, place = requirement.partition("@")
        if place and report.works(feature):
            kind = {"1": "a mounted v1 hierarchy", "2": "a v2 hierarchy", "unmounted": "an unmounted controller"}[place]
            out.append(f"{kind} of {feature} (found: {report.findings[feature].answer})")
        else:
            out.append(evidence)
    return out


def _reason(report: KernelReport, mechanism: Mechanism, skipped: list[str], forced: str) -> str:
    if forced:
        return "forced"
    evidence = [report.evidence(requirement.partition("@")[0]) for requirement in mechanism.requires]
    words = []
    if evidence:
        words.append(_and(evidence))
    if skipped:
        words.append("because " + "; ".join(skipped))
    return "; ".join(words) or "needs nothing of the kernel"


def _and(words: list[str]) -> str:
    return " and ".join(words)
