"""What a host would do for a container of today, from its report: one mechanism a feature, as `joey plan` chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ...probes.ladder import FEATURES
from ...probes.plan import Need, plan
from ...runtime.programs import lacking

if TYPE_CHECKING:
    from ...probes.plan import Choice, Plan
    from ...probes.report import KernelReport

# what a container of Docker's or podman's kind asks for, with limits; the name that a column has
COLUMNS = {
    "userns": "user namespace",
    "enter": "exec by",
    "seccomp": "seccomp",
    "cgroup.memory": "memory",
    "cgroup.pids": "pids",
    "cgroup.cpu.quota": "CPU quota",
    "device-rules": "device rules",
}
_ALSO = ("root-change", "mntns", "pidns", "utsns", "ipcns", "netns", "cgroupns", "masked-paths", "readonly-bind",
         "no-new-privs", "capabilities.bounding", "pause", "fs.proc", "fs.devpts", "device-nodes")  # fmt: skip


REFUSED, UNTRIED = "refused", "not tried"


class Judgement(NamedTuple):
    """`today`: "native", or how many things programs of today's images miss, which joey emulates.

    `untried`: the features of which nothing is known, since the way the host was probed by could not try them.
    """

    plan: Plan
    today: str
    untried: tuple[str, ...]

    def word(self, feature: str) -> str:
        """The mechanism of a feature, REFUSED or UNTRIED."""
        return self.plan.mechanism(feature) or (UNTRIED if feature in self.untried else REFUSED)

    @property
    def refusals(self) -> list[Choice]:
        return [choice for choice in self.plan.refusals if choice.feature not in self.untried]


def judge(report: KernelReport, policy: str) -> Judgement:
    """The plan of such a container on that host."""
    needs = [Need(feature, "a container of today") for feature in (*COLUMNS, *_ALSO)]
    missing = lacking(report)
    made = plan(report, needs, policy)
    untried = tuple(choice.feature for choice in made.refusals if _might(report, choice.feature))
    return Judgement(made, f"{len(missing)} emulated" if missing else "native", untried)


def _might(report: KernelReport, feature: str) -> bool:
    """Whether a mechanism lacks nothing but what was not tried."""
    for mechanism in FEATURES[feature].mechanisms:
        unmet = [name.partition("@")[0] for name in mechanism.unmet(report)]
        if unmet and not any(name in report.findings for name in unmet):
            return True
    return False
