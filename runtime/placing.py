"""How a new process gets into its cgroups and its out-of-memory score: what `build` and `enter` share."""

from __future__ import annotations

import os

from ..compat.cgroup.group import Cgroup
from .bundle import Bundle
from .steps import Step, cloning, parent


def joined_by_parent(namespaces: dict[str, str], cgroup: Cgroup, by: str) -> tuple[int, ...]:
    """The cgroup versions that the parent moves the process into; it is born in v2, or enters v1, by itself otherwise.

    `by` is the mechanism of cgroup-v2-entry. A process that enters a user namespace by path is in a mount namespace
    without the host's hierarchies, and is somebody who may not write to them.
    """
    if namespaces.get("user"):
        return tuple(sorted({group.version for group in cgroup.groups}))
    return (2,) if by != "clone3" and any(group.version == 2 for group in cgroup.groups) else ()


def is_born_in_v2(namespaces: dict[str, str], cgroup: Cgroup, by: str) -> bool:
    """Whether the clone puts the process into its v2 group."""
    return any(group.version == 2 for group in cgroup.groups) and 2 not in joined_by_parent(namespaces, cgroup, by)


def oom_steps(bundle: Bundle, clone: cloning.NewProcess | None) -> list[Step]:
    """Root's parent sets oom_score_adj (for `clone`); a plain user's child does it itself (`clone` is None)."""
    score = bundle.process.get("oomScoreAdj")
    if score is None or (os.geteuid() == 0) is (clone is None):
        return []
    return [parent.AdjustOomScore(score, clone)]
