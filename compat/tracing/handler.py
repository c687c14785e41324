"""What a tracer asks at the calls of its tracees."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .tracer import Tracer

ALWAYS, ANY_BIT, EQUAL = range(3)
Condition = tuple[int, int, int]


class Handler:
    """Looks at some calls. The first handler that takes a call is the last to see it."""

    tracer: Tracer
    native_only = False  # calls of another ABI (int 0x80, x32) are to fail, where there is a filter to see to it

    def looks_at(self, number: int) -> bool:
        """Whether a call of this number may be taken: asked once for each of 0 to 511, others are always shown."""
        raise NotImplementedError

    def conditions(self) -> dict[int, Condition] | None:
        """When: number -> (how, index of an argument, value), for a filter that stops threads then only.

        ALWAYS; ANY_BIT: the argument has one of the value's bits; EQUAL: it is the value. None: no filter will do.
        """
        raise NotImplementedError

    def exempt(self) -> tuple[int, int]:
        """Addresses from where calls pass that filter: start and end."""
        return 0, 0

    def entered(self, pid: int, number: int) -> bool:
        """A call begins; its registers are in `tracer.registers`. True: it is taken, the thread is on its way."""
        raise NotImplementedError

    def executed(self, pid: int) -> None:
        """A new program is about to start in this process."""

    def born(self, pid: int, parent: int) -> None:
        """A thread or process is new. `parent` is the thread or process that made it; 0 where that is not known, as of
        the first."""

    def ended(self, pid: int) -> None:
        """A thread or process is no more."""
