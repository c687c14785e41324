"""The child's step that takes host ids, where a user namespace is emulated; and mounts without set-id bits."""

from __future__ import annotations

import os

from ...compat import capabilities, libc, mounting
from ...compat.constants import CAP_SYS_ADMIN, MOUNT_ATTR_NOSUID
from ...compat.rootpath import Root
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_SECUREBITS = 28
_NO_SETUID_FIXUP_LOCKED = 0x4 | 0x8  # capabilities stay as they are when ids change: the tracer sees to them


class BecomeHostUser(Step):
    """Take the host ids of the process's user and groups, and keep permitted what the tracer works with.

    Nothing else is effective but what filters are installed with; the first program gets what is its own when it begins
    (compat/users/identity.py).
    """

    __slots__ = ("kept", "user")

    def __init__(self, user: dict[str, Any], kept: int) -> None:
        self.user = user
        self.kept = kept

    def describe(self) -> str:
        return f"become the host's user {self.user['uid']}:{self.user['gid']} with groups {self.user['additionalGids']}"

    def run(self) -> None:
        uid, gid = self.user["uid"], self.user["gid"]
        capabilities.limit_bounding(self.kept, capabilities.last())
        libc.prctl(PR_SET_SECUREBITS, _NO_SETUID_FIXUP_LOCKED)
        os.setgroups(self.user["additionalGids"])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        filters = 1 << CAP_SYS_ADMIN
        capabilities.set(filters, self.kept | filters, 0)
        capabilities.clear_ambient_if_any()


class IgnoreSetId(Step):
    """Make every mount of the container nosuid, those below recursive binds too."""

    __slots__ = ("root",)

    def __init__(self, root: Root) -> None:
        self.root = root

    def describe(self) -> str:
        return "make every mount nosuid"

    def run(self) -> None:
        mounting.remount_tree_one_by_one(self.root.path, MOUNT_ATTR_NOSUID, 0)
