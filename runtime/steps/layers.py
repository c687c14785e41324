"""Steps of layers: the parent mounts them at the root, before it clones."""

from __future__ import annotations

from ..layers import Layers, unmount
from ..state import State
from . import Step


class MountLayers(Step):
    """Mount the layers at the bundle's root, in joey's mount namespace, where hooks see them too."""

    __slots__ = ("layers", "state")

    def __init__(self, layers: Layers, state: State) -> None:
        self.layers = layers
        self.state = state

    def describe(self) -> str:
        return f"mount {len(self.layers.paths)} layers by {self.layers.by} on {self.layers.target}"

    def run(self) -> None:
        self.layers.mount(self._record)

    def _record(self) -> None:
        """Before the mount is there: what a killed joey left is found by it."""
        self.state.layers = self.layers.target
        self.state.save()

    def undo(self) -> None:
        unmount(self.state)
