"""Who a thread of a container without privilege believes to be: ids, groups, capabilities, its root, its program."""

from __future__ import annotations

import stat

from ..users.privileges import DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, Privileges
from .owners import Owner

READ, WRITE, SEARCH = 4, 2, 1


class Person:
    """`uids`, `gids`: real, effective, saved, of the file system. `root` is a place of the container, `program` too.
    `room` is memory of its process, whose pid `group` is, that only the tracer writes to."""

    __slots__ = ("gids", "group", "groups", "privileges", "program", "room", "root", "uids")

    def __init__(self, uid: int, gid: int, groups: tuple[int, ...], privileges: Privileges) -> None:
        self.uids = [uid] * 4
        self.gids = [gid] * 4
        self.groups = groups
        self.privileges = privileges
        self.root = "/"
        self.program = ""
        self.room = 0
        self.group = 0

    def copy(self) -> Person:
        """What a thread or process begins with that this one makes."""
        made = Person(0, 0, self.groups, self.privileges.copy())
        made.uids, made.gids = list(self.uids), list(self.gids)
        made.root, made.program, made.room = self.root, self.program, self.room
        return made

    def may(self, owner: Owner, bits: int, real: bool = False) -> bool:
        """Whether permissions let it READ, WRITE, SEARCH (or execute) a file. Source: path_resolution(7)."""
        directory = stat.S_ISDIR(owner.mode)
        executable = directory or owner.mode & 0o111
        uid, gid = (self.uids[0], self.gids[0]) if real else (self.uids[3], self.gids[3])
        held = self.privileges.permitted if real and uid == 0 else 0 if real else self.privileges.effective
        if held & DAC_OVERRIDE and (not bits & SEARCH or executable):
            return True
        if held & DAC_READ_SEARCH and not bits & WRITE and (directory or bits == READ):
            return True
        shift = 6 if uid == owner.uid else 3 if gid == owner.gid or owner.gid in self.groups else 0
        return not bits & ~(owner.mode >> shift) & 7

    def owns(self, owner: Owner) -> bool:
        """Whether it may do what an owner may."""
        return self.uids[3] == owner.uid or self.privileges.has(FOWNER)
