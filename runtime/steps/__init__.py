"""What a start is made of: small steps, each with `describe()` and `run()`; a tuple for the parent, one for the child.

`build` chooses and orders them from a bundle and its plan; `launch` runs them. A step that failed is undone by the
parent: its own steps by `undo()`, in reverse; the child's by ending the child, whose namespaces hold all it made.
"""

from __future__ import annotations


class Step:
    """One thing to do while a container starts."""

    __slots__ = ()

    def describe(self) -> str:
        """What `run` does, in one line, with the values it uses."""
        raise NotImplementedError

    def run(self) -> None:
        """Do it. Raises JoeyError or OSError."""
        raise NotImplementedError

    def keeps(self) -> list[int]:
        """Descriptors a child's step needs; the child closes all others first."""
        return []

    def undo(self) -> None:
        """Take back what `run` did outside the container's namespaces; never raises for what is gone already."""
