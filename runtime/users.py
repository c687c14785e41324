"""A bundle's ids where its user namespace is emulated: the host ids its processes and files have.

Such a bundle is run without the namespace; what it asks for by its own ids is given by the host's (compat/users/).
"""

from __future__ import annotations

import os

from ..compat import capabilities
from ..compat.constants import CAPABILITIES, MS_NOSUID
from ..compat.errors import BundleError
from ..compat.mountflags import MountOptions
from ..compat.rootpath import Root
from ..compat.users.mapping import Ids
from ..probes.report import Finding
from . import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..compat.users.emulate import Users as Handler
    from .bundle import Bundle

# What the tracer makes in a thread's name: a profile in the kernel holds for that too
CALLS = ("capset", "setresuid", "setresgid", "setfsuid", "setfsgid", "prctl", "getpid", "fcntl", "dup3", "close")
# Whoever has no CAP_MKNOD can make no device; what the tracer makes for him does no harm
NO_DEVICES = Finding("device.no-mknod", "works", "emulated users", "they hold no CAP_MKNOD")
# What namespaces of the container's own keep from the host
_CONTAINED = {
    "pid": ("CAP_KILL",),
    "network": ("CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW"),
    "ipc": ("CAP_IPC_OWNER",),
}


class HostIds:
    """The maps of a bundle. `kept`: the capabilities its processes really have (a mask), once its plan is made."""

    __slots__ = ("gids", "kept", "uids")

    def __init__(self, linux: dict[str, Any]) -> None:
        self.uids, self.gids = (
            Ids([(line["containerID"], line["hostID"], line["size"]) for line in linux.get(name) or []])
            for name in ("uidMappings", "gidMappings")
        )
        self.kept = 0
        for name, ids in (("uidMappings", self.uids), ("gidMappings", self.gids)):
            if ids.inside(0) >= 0:
                raise BundleError(
                    f"linux.{name}", "maps the host's id 0: an emulated user namespace would run as the host's root",
                    "map ids from 1 on; or run it where the kernel has user namespaces",
                )  # fmt: skip

    @property
    def root(self) -> tuple[int, int]:
        """Host ids of the container's root, who owns what joey makes for it."""
        uid, gid = (ids.outside(0) if ids.outside(0) >= 0 else ids.lines[0][1] for ids in (self.uids, self.gids))
        return uid, gid

    def uid(self, inside: int, field: str) -> int:
        return self._mapped(self.uids, inside, field)

    def gid(self, inside: int, field: str) -> int:
        return self._mapped(self.gids, inside, field)

    @staticmethod
    def _mapped(ids: Ids, inside: int, field: str) -> int:
        outside = ids.outside(inside)
        if outside < 0:
            raise BundleError(field, f"{inside} is not mapped", "add it to linux.uidMappings and gidMappings")
        return outside

    def user(self, user: dict[str, Any]) -> dict[str, Any]:
        """`process.user` with host ids."""
        groups = user.get("additionalGids") or []
        return {
            **user,
            "uid": self.uid(user.get("uid", 0), "process.user.uid"),
            "gid": self.gid(user.get("gid", 0), "process.user.gid"),
            "additionalGids": [self.gid(gid, "process.user.additionalGids") for gid in groups],
        }

    def device(self, device: dict[str, Any]) -> dict[str, Any]:
        """An entry of `linux.devices` with host ids."""
        path = device["path"]
        return {
            **device,
            "uid": self.uid(device.get("uid", 0), f"linux.devices[{path}].uid"),
            "gid": self.gid(device.get("gid", 0), f"linux.devices[{path}].gid"),
        }

    def mount_data(self, kind: str, data: str) -> str:
        """The options of a mount whose file system takes owners; others' belong to the host's root."""
        if kind not in ("tmpfs", "devpts"):
            return data
        words = [self._owner_word(word) for word in data.split(",") if word]
        if kind == "tmpfs":
            given = {word.partition("=")[0] for word in words}
            owner = zip(("uid", "gid"), self.root, strict=True)
            words += [f"{name}={number}" for name, number in owner if name not in given]
        return ",".join(words)

    def _owner_word(self, word: str) -> str:
        name, _, value = word.partition("=")
        if name in ("uid", "gid") and value.isdigit():
            return f"{name}={(self.uid if name == 'uid' else self.gid)(int(value), f'mounts: {name}')}"
        return word


def handler(bundle: Bundle, mechanism_of: Callable[[str], str]) -> Handler:
    """The tracer's part. Also sets which capabilities are really kept."""
    from ..compat.users.emulate import Rules, Users
    from ..compat.users.privileges import Privileges

    assert bundle.users is not None
    sets = bundle.process.get("capabilities") or {}
    masks = {
        name: capabilities.mask([item for item in sets.get(name) or [] if item in CAPABILITIES])
        for name in ("effective", "permitted", "inheritable", "bounding", "ambient")
    }
    begin = Privileges(**masks, no_new=bool(bundle.process.get("noNewPrivileges")))
    names = [name for kind, held in _CONTAINED.items() if bundle.creates(kind) for name in held]
    if mechanism_of("root-change") == "pivot_root":
        names.append("CAP_SYS_CHROOT")
    limit = bundle.created_process.get("capabilities") or {}
    contained = capabilities.mask([name for name in names if name in (limit.get("bounding") or [])])
    rules = Rules(bundle.users.uids, bundle.users.gids, begin, contained, _set_id_counts(bundle))
    bundle.users.kept = rules.kept
    return Users(rules)


def _set_id_counts(bundle: Bundle) -> Callable[[str], bool]:
    """Whether set-id bits count at a path: all mounts are nosuid, so the bundle's own wishes are kept here."""
    made = os.path.isdir(bundle.rootfs)  # a root of layers is mounted later, and has no other set-id rules than they
    places = {"/": not _is_nosuid(bundle.rootfs if made else bundle.path)}
    for entry in bundle.mounts:
        options = MountOptions(entry.get("options") or [])
        source = entry.get("source", "")
        where = source if source.startswith("/") else f"{bundle.path}/{source}"
        counts = not options.flags & MS_NOSUID and (entry.get("type") == "tmpfs" or not _is_nosuid(where))
        destination = os.path.normpath("/" + entry["destination"].lstrip("/"))
        places[_real_place(bundle.rootfs, destination) if made else destination] = counts

    def counts_at(path: str) -> bool:
        while path not in places:
            path = path.rpartition("/")[0] or "/"
        return places[path]

    return counts_at


def _real_place(rootfs: str, destination: str) -> str:
    """Where a mount really is: its destination may lead over links of the root file system."""
    root = Root(rootfs, native=False)
    root.attach()
    try:
        path, rest = destination, ""
        while path and not root.exists(path):
            path, _, name = path.rpartition("/")
            rest = f"/{name}{rest}"
        fd = root.open(path or "/")
        try:
            base = os.readlink(f"/proc/self/fd/{root.fd}").rstrip("/")
            return os.readlink(f"/proc/self/fd/{fd}").removeprefix(base) + rest or "/"
        finally:
            os.close(fd)
    finally:
        root.close()


def _is_nosuid(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & os.ST_NOSUID)
    except OSError:
        return True


def warn_of_foreign_root(bundle: Bundle) -> None:
    """A root file system that belongs to nobody inside is a common mistake, and hard to see from within."""
    assert bundle.users is not None
    owner = os.stat(bundle.rootfs).st_uid
    if bundle.users.uids.inside(owner) < 0:
        log.warn(
            f"root.path: {bundle.rootfs} belongs to user {owner}, whom linux.uidMappings does not map: "
            "inside, its files are nobody's"
        )
