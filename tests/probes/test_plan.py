"""Planning: pure, explained, strict where it protects; on recorded kernels and with features taken out."""

from __future__ import annotations

import json

import pytest

from joey.compat.errors import PlanRefused, UsageError
from joey.probes import catalog, report
from joey.probes.ladder import FEATURES
from joey.probes.plan import Need, plan
from joey.probes.report import Finding, KernelReport

from ..conftest import REPORTS, Joey, MakeBundle


def recorded(name: str) -> KernelReport:
    return report.load(str(REPORTS / f"{name}.json"))


def without(name: str, *features: str) -> KernelReport:
    """A recorded report with findings turned absent."""
    made = recorded(name)
    for feature in features:
        made.findings[feature] = Finding(feature, "absent", "taken out", "ENOSYS")
    return made


def choose(made: KernelReport, feature: str, policy: str = "strict", **forced: str) -> tuple[str, str]:
    choice = plan(made, [Need(feature, "field")], policy, forced).choices[feature]
    return choice.mechanism, choice.lost


def test_every_requirement_is_a_feature_that_is_probed() -> None:
    found_in_the_bundle = {"image.glibc", "place.project-quota", "place.btrfs-qgroup", "place.loop-image"}
    found_in_the_bundle |= {
        f"place.{name}" for name in ("net-admin", "iptables", "iptables-legacy", "nft", "names", "cni")
    }
    found_in_the_bundle |= {"place.lxcfs", "place.lxcfs-start", "place.view-server", "place.file-capabilities"}
    found_in_the_bundle |= {"place.pretended"}
    layers = ("overlay", "fuse-overlayfs", "btrfs-snapshot", "reflink", "hard-links", "copy")
    found_in_the_bundle |= {f"place.{name}" for name in layers}
    known = {*catalog.by_feature(), *found_in_the_bundle}
    for feature in FEATURES.values():
        for mechanism in feature.mechanisms:
            for requirement in mechanism.requires:
                assert requirement.partition("@")[0] in known, (feature.name, requirement)


def test_a_weaker_mechanism_says_what_is_lost() -> None:
    for feature in FEATURES.values():
        for mechanism in feature.mechanisms:
            assert mechanism.lost or not mechanism.weaker, (feature.name, mechanism.name)


@pytest.mark.parametrize("feature", sorted(FEATURES))
def test_each_mechanism_can_be_reached_by_taking_away_those_above_it(feature: str) -> None:
    """With all findings but its own gone, a mechanism is the one chosen: none is dead."""
    for place, mechanism in enumerate(FEATURES[feature].mechanisms):
        made = recorded("linux-6.18")
        for upper in FEATURES[feature].mechanisms[:place]:
            for requirement in upper.requires:
                name = requirement.partition("@")[0]
                made.findings[name] = Finding(name, "absent", "taken out", "")
        for requirement in mechanism.requires:
            name, _, where = requirement.partition("@")
            detail = {
                "1": {"version": 1, "mount": "/m"},
                "2": {"version": 2, "mount": "/m"},
                "unmounted": {"version": 1, "mount": ""},
                "": {},
            }[where]
            made.findings[name] = Finding(name, "works", "put in", "", detail)
        assert choose(made, feature, "permissive")[0] == mechanism.name


@pytest.mark.parametrize("feature", sorted(name for name, item in FEATURES.items() if item.protects))
def test_strict_never_takes_a_weaker_protection(feature: str) -> None:
    empty = KernelReport({}, {}, {"release": "nothing works"}, "", 0)
    mechanism, _ = choose(empty, feature, "strict")
    weak = {item.name for item in FEATURES[feature].mechanisms if item.weaker}
    assert mechanism not in weak


def test_the_three_kernels_differ_where_they_should() -> None:
    old, el6, new = recorded("vanilla-2.6.32"), recorded("centos6-2.6.32"), recorded("linux-6.18")
    assert [choose(item, "cgroup.memory")[0] for item in (old, el6, new)] == ["v1-own-mount", "v1", "v1"]
    assert [choose(item, "path-resolution")[0] for item in (old, el6, new)] == ["walk", "walk", "openat2"]
    assert [choose(item, "no-new-privs")[0] for item in (old, el6, new)] == ["nosuid-mounts", "prctl", "prctl"]
    assert [choose(item, "seccomp")[0] for item in (old, el6, new)] == ["ptrace", "ptrace", "filter"]
    assert [choose(item, "enter")[0] for item in (old, el6, new)] == ["agent", "setns", "setns"]
    assert [choose(item, "userns")[0] for item in (old, el6, new)] == [
        "emulated-unfiltered", "emulated-unfiltered", "native"]  # fmt: skip
    assert [choose(item, "setns.mnt")[0] for item in (old, el6, new)] == ["", "native", "native"]
    assert [choose(item, "cgroup.cpu.quota")[0] for item in (old, el6, new)] == ["", "native", "native"]


def test_a_refusal_names_the_field_the_evidence_and_the_way_out() -> None:
    made = plan(recorded("vanilla-2.6.32"), [Need("cgroup.cpu.quota", "linux.resources.cpu.quota")])
    reason = made.refusals[0].reason
    assert "cgroup.cpu.quota absent" in reason
    assert "--policy permissive" in reason
    with pytest.raises(PlanRefused, match="linux.resources.cpu.quota: CPU quota"):
        made.require()


def test_a_fallback_names_why_and_what_is_lost() -> None:
    made = plan(without("linux-6.18", "cgroupns.unshare"), [Need("cgroupns", "f")])
    choice = made.choices["cgroupns"]
    assert "taken out" in choice.reason
    assert made.losses == [choice]


def test_what_was_not_probed_counts_as_not_there() -> None:
    made = plan(KernelReport({}, {}, {}, "", 0), [Need("pidns", "f")])
    assert "pidns.clone was not probed" in made.refusals[0].reason


def test_force() -> None:
    new = recorded("linux-6.18")
    forced = {"root-change": "move-and-chroot"}
    assert plan(new, [Need("root-change", "f")], "strict", forced).mechanism("root-change") == "move-and-chroot"
    assert plan(
        recorded("vanilla-2.6.32"), [Need("path-resolution", "f")], "strict", {"path-resolution": "openat2"}
    ).refusals
    assert plan(new, [Need("seccomp", "f")], "strict", {"seccomp": "none"}).refusals
    assert plan(new, [Need("seccomp", "f")], "permissive", {"seccomp": "none"}).mechanism("seccomp") == "none"
    for bad in ({"nonsense": "x"}, {"seccomp": "nonsense"}):
        with pytest.raises(UsageError, match="no (feature|mechanism)|has no mechanism"):
            plan(new, [], "strict", bad)
    with pytest.raises(UsageError, match="policy"):
        plan(new, [], "lenient")


def test_the_command_plans_for_another_machine(joey: Joey, bundle: MakeBundle) -> None:
    path = str(bundle("true"))
    done = joey("plan", "-b", path, "--report", str(REPORTS / "vanilla-2.6.32.json"), "--json")
    value = json.loads(done.stdout)
    assert value["runs"]
    assert {item["feature"]: item["mechanism"] for item in value["features"]}["device-rules"] == "v1-own-mount"


def test_the_command_answers_1_for_a_refusal(joey: Joey, bundle: MakeBundle) -> None:
    def with_an_rdma_limit(config: dict) -> None:  # type: ignore[type-arg]
        config["linux"]["resources"]["rdma"] = {"mlx5_1": {"hcaHandles": 1}}

    path = str(bundle("true", change=with_an_rdma_limit))
    done = joey("plan", "-b", path, "--report", str(REPORTS / "centos6-2.6.32.json"), check=False)
    assert done.returncode == 1
    assert "can't run there" in done.stdout
    words = ("plan", "-b", path, "--report", str(REPORTS / "centos6-2.6.32.json"), "--policy", "permissive")
    assert "no RDMA limit is applied" in joey(*words).stdout


def test_run_refuses_what_plan_refuses(joey: Joey, bundle: MakeBundle) -> None:
    def wants(config: dict) -> None:  # type: ignore[type-arg]
        config["linux"]["resources"]["rdma"] = {"mlx5_1": {"hcaHandles": 1}}

    path = str(bundle("true", change=wants))
    if not json.loads(joey("probe", "--explain", "cgroup.rdma", "--json").stdout)["state"] == "works":
        name = joey.id()
        done = joey("run", "-b", path, name, check=False)
        assert done.returncode == 1
        assert "linux.resources.rdma" in done.stderr
        done = joey("--policy", "permissive", "run", "--keep", "-b", path, name)
        assert "no RDMA limit is applied" in done.stderr
        assert "no RDMA limit is applied" in joey.state(name)["annotations"]["io.joey.lost.cgroup.rdma"]
