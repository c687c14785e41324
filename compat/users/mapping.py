"""Ids inside and outside of a user namespace. Source: user_namespaces(7)."""

from __future__ import annotations

OVERFLOW = 65534  # how an id looks that is not mapped: /proc/sys/kernel/overflowuid
UNCHANGED = 0xFFFFFFFF  # -1 in the arguments of chown(2), setresuid(2) and their kin


class Ids:
    """A map of ids: lines of (inside, outside, how many)."""

    __slots__ = ("lines",)

    def __init__(self, lines: list[tuple[int, int, int]]) -> None:
        self.lines = lines

    def outside(self, inside: int) -> int:
        """The host's id of a container's; -1 for one that is not mapped."""
        for first, host, count in self.lines:
            if first <= inside < first + count:
                return host + inside - first
        return -1

    def inside(self, outside: int) -> int:
        """The container's id of a host's; -1 for one that is not mapped."""
        for first, host, count in self.lines:
            if host <= outside < host + count:
                return first + outside - host
        return -1

    def has(self, inside: int) -> bool:
        """Whether a call may name an id: one that is mapped, or -1."""
        return inside == UNCHANGED or self.outside(inside) >= 0

    def shown(self, outside: int) -> int:
        """The same as a process sees it."""
        found = self.inside(outside)
        return OVERFLOW if found < 0 else found
