"""A container's disk quotas: which of its directories have one, and what their file systems can do about it."""

from __future__ import annotations

import os
from functools import partial

from ..compat.errors import JoeyError, UsageError
from ..compat.quota import images, places, projects, qgroups
from ..compat.quota.places import Place
from ..compat.quota.words import Pool, pools
from ..compat.rootpath import Root
from ..probes.plan import Need
from ..probes.report import Finding, KernelReport
from .bundle import Bundle, is_bind
from .needs import QUOTA_ANNOTATION, quota_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .state import State

FEATURE = "disk-quota"
# of a machine whose directories can't be looked at from here: what its report says
ELSEWHERE = {
    "place.project-quota": "quota.project",
    "place.btrfs-qgroup": "quota.btrfs-qgroup",
    "place.loop-image": "device.loop",
}
IMAGES = "joey-quota"  # the folder in a bundle that has the images of its quotas


class DiskQuota:
    """`pools` with a limit each; `sources` are the host's directories of their places."""

    __slots__ = ("pools", "sources")

    def __init__(self, found: list[Pool], sources: dict[str, str]) -> None:
        self.pools = found
        self.sources = sources


def disk_quota(bundle: Bundle, words: list[str]) -> DiskQuota:
    """Find the directories that words mean: the root, and what is bound from the host to be written to.

    Raises UsageError for words that are none, or mean nothing here.
    """
    sources = {"/": bundle.layers.writable if bundle.layers else bundle.rootfs}
    for entry in bundle.mounts:
        place = "/" + os.path.normpath(entry["destination"]).strip("/")
        source = entry.get("source") or ""
        source = source if source.startswith("/") else f"{bundle.path}/{source}"
        if is_bind(entry) and os.path.isdir(source) and "ro" not in (entry.get("options") or []):
            sources[place] = os.path.realpath(source)
    found = pools(words, list(sources))
    wanted = {place: sources[place] for pool in found for place in pool.places}
    for place, source in wanted.items():
        if source == "/" or any(other != place and _holds(source, wanted[other]) for other in wanted):
            raise UsageError(
                f"disk quota of {place}: {source} holds what has a quota of its own, or is the host's root"
            )
    return DiskQuota(found, wanted)


def _holds(folder: str, other: str) -> bool:
    return other == folder or other.startswith(folder.rstrip("/") + "/")


def with_quota(report: KernelReport, bundle: Bundle, words: list[str]) -> tuple[KernelReport, list[Need]]:
    """The report with what the file systems of the bundle's directories can do, and the need. Sets `bundle.quota`."""
    bundle.quota = disk_quota(bundle, words)
    need = Need(FEATURE, f"annotations[{QUOTA_ANNOTATION!r}]" if quota_words(bundle) else "--disk-quota")
    found = []
    if not report.is_of_here:
        for name, other in ELSEWHERE.items():
            state = "works" if report.works(other) else "absent"
            found.append(Finding(name, state, "the directories are not there to look at", report.evidence(other)))
        return report.with_findings(*found), [need]
    for name, call, why_not in (
        (
            "place.project-quota",
            "quotactl() and FS_IOC_FSGETXATTR",
            _by_each(bundle.quota, partial(_no_project, bundle)),
        ),
        ("place.btrfs-qgroup", "BTRFS_IOC_QGROUP_LIMIT", _qgroups(bundle.quota)),
        ("place.loop-image", "a loop device and mke2fs", _images(report, bundle)),
    ):
        where = ", ".join(bundle.quota.sources.values())
        state = "absent" if why_not else "works"
        found.append(Finding(name, state, f"{call} for {where}", why_not or "it can be done"))
    return report.with_findings(*found), [need]


def _no_project(bundle: Bundle, place: Place) -> str:
    bounding = (bundle.created_process.get("capabilities") or {}).get("bounding") or []
    if place.fstype == "ext4" and "CAP_SYS_RESOURCE" in bounding and "user" not in bundle.namespaces:
        return f"{place.path} is on ext4, which does not hold processes with CAP_SYS_RESOURCE, as the bundle gives"
    return projects.unfit(place)


def _by_each(quota: DiskQuota, unfit: Callable[[Place], str]) -> str:
    """Why not all of the directories can be limited in a way; and those of a pool together."""
    found = {}
    for place, source in quota.sources.items():
        try:
            found[place] = places.find(source)
        except (OSError, JoeyError) as error:
            return f"{source}: {error}"
        if why_not := unfit(found[place]):
            return why_not
    for pool in quota.pools:
        if len({found[place].device for place in pool.places}) > 1:
            return f"{' and '.join(pool.places)} are on several file systems"
    return ""


def _qgroups(quota: DiskQuota) -> str:
    for pool in quota.pools:
        if len(pool.places) > 1:
            return f"{' and '.join(pool.places)} share a limit, and a subvolume has its own"
        if pool.inodes:
            return "a quota group does not count files"
    return _by_each(quota, qgroups.unfit)


def _images(report: KernelReport, bundle: Bundle) -> str:
    if os.geteuid() != 0:
        return "a plain user can't mount it"
    if "user" in bundle.namespaces:
        return "a process of a user namespace can't mount it"
    if bundle.layers:
        return "its root is made of layers"
    if not report.works("device.loop"):
        return report.evidence("device.loop")
    return "" if images.maker() else "there is no mkfs.ext4 and no mke2fs"


def change_limits(state: State, words: list[str]) -> None:
    """Give pools of a running container other limits. Raises UsageError for what has no quota; JoeyError, OSError."""
    had = {place: entry for entry in state.quotas for place in entry["places"]}
    if not had:
        raise UsageError(f"container {state.id} has no disk quota", "quotas are set when it is made: --disk-quota")
    for pool in pools(words, list(had)):
        entry = had[pool.places[0]]
        if entry["places"] != pool.places:
            raise UsageError(f"disk quota: {'&'.join(entry['places'])} is one pool", "change it as a whole")
        if entry["kind"] == "project":
            projects.limit(places.find(entry["path"]), entry["number"], pool.size, pool.inodes)
        elif entry["kind"] == "qgroup":
            qgroups.limit(entry["path"], pool.size)
        else:
            _grow(state, entry, pool)


def _grow(state: State, entry: dict[str, Any], pool: Pool) -> None:
    """The image of a pool: through the container's root, where a hostile link must not lead out of it."""
    root = Root(f"/proc/{state.pid}/root", native=False)
    root.attach()
    try:
        fd = root.open(pool.places[0])
        try:
            mounted = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(fd)
        try:
            images.grow(entry["path"], entry["device"], mounted, pool.size)
        finally:
            os.close(mounted)
    finally:
        root.close()
