"""The list of everything joey can probe, in groups. A group is a module in `groups/` with a `GROUP`.

HOWTO: adding a probe. Write a function in the group's module that tries the thing and returns what came back (or
raises); register it with `@GROUP.probe(feature, call, cost)`. It runs in a forked child with a time limit, so it may
change its own process as it likes; it must not leave anything outside it (see run.py for what is cleaned).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ..compat.errors import JoeyError, KernelError, UsageError, errno_name

GROUP_NAMES = ("syscalls", "behaviour", "namespaces", "setns", "mounts", "cgroups", "security", "ptrace", "quota",
               "network", "host")  # fmt: skip

# What the kernel answers for a thing it does not have.
ABSENT_ERRNOS = (errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.ENOENT, errno.ENOPROTOOPT, errno.EOPNOTSUPP,
                 errno.EAFNOSUPPORT, errno.ENOTTY, errno.ENXIO, errno.EPROTONOSUPPORT)  # fmt: skip
BLOCKED_ERRNOS = (errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS, errno.EBUSY, errno.EROFS)


class Works:
    """A probe's answer with further facts."""

    def __init__(self, answer: str, detail: dict[str, Any] | None = None) -> None:
        self.answer = answer
        self.detail = detail or {}


class Answered(Exception):
    """Raised by a probe that knows its state: "absent", "blocked" or "broken"."""

    def __init__(self, state: str, answer: str, detail: dict[str, Any] | None = None) -> None:
        super().__init__(answer)
        self.state = state
        self.answer = answer
        self.detail = detail or {}


Answer = Works | str | int | None


class Probe:
    """One thing to try: feature id, the call as a person reads it, what its absence costs, the function, its limit."""

    __slots__ = ("alone", "call", "cost", "feature", "function", "group", "seconds")

    def __init__(
        self,
        group: str,
        feature: str,
        call: str,
        cost: str,
        function: Callable[[], Answer],
        alone: bool,
        seconds: float,
    ) -> None:
        self.group = group
        self.feature = feature
        self.call = call
        self.cost = cost
        self.function = function
        self.alone = alone
        self.seconds = seconds

    def attempt(self) -> tuple[str, str, str, dict[str, Any]]:
        """Try it here and now: (state, call, answer, detail)."""
        try:
            answer = self.function()
        except Answered as known:
            return known.state, self.call, known.answer, known.detail
        except KernelError as error:
            return state_of(error.errno), error.call, errno_name(error.errno), {}
        except OSError as error:
            return state_of(error.errno or 0), self.call, errno_name(error.errno or 0), {}
        except JoeyError as error:
            return "broken", self.call, str(error), {}
        if isinstance(answer, Works):
            return "works", self.call, answer.answer, answer.detail
        return "works", self.call, "" if answer is None else str(answer), {}


class Group:
    """Probes of one subject, in the order they are shown."""

    def __init__(self, name: str, title: str) -> None:
        self.name = name
        self.title = title
        self.probes: list[Probe] = []

    def probe(
        self, feature: str, call: str, cost: str = "", alone: bool = True, seconds: float = 3.0
    ) -> Callable[[Callable[[], Answer]], Callable[[], Answer]]:
        """Register the decorated function. `alone=False`: it changes nothing of its process and may share a child."""

        def register(function: Callable[[], Answer]) -> Callable[[], Answer]:
            self.probes.append(Probe(self.name, feature, call, cost, function, alone, seconds))
            return function

        return register


def state_of(number: int) -> str:
    """The finding state an errno stands for."""
    if number in ABSENT_ERRNOS:
        return "absent"
    return "blocked" if number in BLOCKED_ERRNOS else "broken"


def groups(only: list[str] | None = None) -> list[Group]:
    """The groups, loaded; all of them or those named. Raises UsageError for an unknown name."""
    for name in only or ():
        if name not in GROUP_NAMES:
            raise UsageError(f'no probe group "{name}"', "groups: " + ", ".join(GROUP_NAMES))
    return [import_module(f"{__package__}.groups.{name}").GROUP for name in GROUP_NAMES if not only or name in only]


def by_feature() -> dict[str, Probe]:
    """Every probe under its feature."""
    return {probe.feature: probe for group in groups() for probe in group.probes}
