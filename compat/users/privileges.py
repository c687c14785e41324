"""The capabilities that a thread in an emulated user namespace believes to have. Source: capabilities(7).

The rules are the kernel's (security/commoncap.c): what exec and changes of ids do to the sets.
"""

from __future__ import annotations

from ..constants import CAPABILITIES

KEEP_CAPS, NO_SETUID_FIXUP, NOROOT = 1 << 4, 1 << 2, 1 << 0  # securebits


def bit(name: str) -> int:
    return 1 << CAPABILITIES.index(f"CAP_{name}")


CHOWN, DAC_OVERRIDE, FOWNER, FSETID = bit("CHOWN"), bit("DAC_OVERRIDE"), bit("FOWNER"), bit("FSETID")
DAC_READ_SEARCH, SETGID, SETUID, SETPCAP = bit("DAC_READ_SEARCH"), bit("SETGID"), bit("SETUID"), bit("SETPCAP")
MKNOD = bit("MKNOD")
_OF_FILES = (
    CHOWN | DAC_OVERRIDE | DAC_READ_SEARCH | FOWNER | FSETID | MKNOD | bit("LINUX_IMMUTABLE") | bit("MAC_OVERRIDE")
)


class Privileges:
    """The sets of one thread, as bit masks. `confined`: it has a seccomp filter of its own."""

    __slots__ = ("ambient", "bounding", "confined", "death_signal", "effective", "inheritable", "no_new", "permitted",
                 "securebits")  # fmt: skip

    def __init__(
        self, effective: int, permitted: int, inheritable: int, bounding: int, ambient: int, no_new: bool
    ) -> None:
        self.effective = effective
        self.permitted = permitted
        self.inheritable = inheritable
        self.bounding = bounding
        self.ambient = ambient
        self.no_new = no_new
        self.securebits = 0
        self.confined = False
        self.death_signal = 0

    def copy(self) -> Privileges:
        """What a new thread has."""
        made = Privileges(self.effective, self.permitted, self.inheritable, self.bounding, self.ambient, self.no_new)
        made.securebits = self.securebits
        made.confined = self.confined
        return made

    def has(self, capability: int) -> bool:
        return bool(self.effective & capability)

    def set(self, effective: int, permitted: int, inheritable: int) -> bool:
        """capset(2); False: it is not allowed."""
        if inheritable & ~(self.inheritable | self.permitted) and not self.has(SETPCAP):
            return False
        if inheritable & ~(self.inheritable | self.bounding):
            return False
        if permitted & ~self.permitted or effective & ~permitted:
            return False
        self.effective, self.permitted, self.inheritable = effective, permitted, inheritable
        self.ambient &= permitted & inheritable
        return True

    def change_ids(self, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
        """What a change of (real, effective, saved) user ids does."""
        if self.securebits & NO_SETUID_FIXUP:
            return
        if 0 in before and 0 not in after:
            if not self.securebits & KEEP_CAPS:
                self.permitted = self.effective = 0
            self.ambient = 0
        if before[1] == 0 and after[1] != 0:
            self.effective = 0
        if before[1] != 0 and after[1] == 0:
            self.effective = self.permitted

    def change_fsuid(self, before: int, after: int) -> None:
        """What setfsuid(2) does."""
        if self.securebits & NO_SETUID_FIXUP:
            return
        if before == 0 and after != 0:
            self.effective &= ~_OF_FILES
        elif before != 0 and after == 0:
            self.effective |= self.permitted & _OF_FILES

    def execute(self, real: int, effective: int, changed: bool) -> None:
        """What an exec does; the user ids are those after it, `changed`: by a set-id bit."""
        ambient = 0 if changed else self.ambient
        permitted = raised = ambient
        if not self.securebits & NOROOT and 0 in (real, effective):
            permitted = self.bounding | self.inheritable
            raised = permitted if effective == 0 else ambient
        self.permitted, self.effective, self.ambient = permitted, raised, ambient
        self.securebits &= ~KEEP_CAPS
