"""Steps of views: the parent has them on the host, the child shows them over its own files of /proc and /sys."""

from __future__ import annotations

import os

from ...compat import libc, mounting
from ...compat.constants import MS_BIND, MS_RDONLY
from ...compat.mounting import at
from ...compat.rootpath import Root
from ...compat.views import TARGETS
from .. import views
from ..bundle import Bundle
from ..state import State
from . import Step
from .rootfs import open_if_there


class PrepareViews(Step):
    """Have the container's views on the host, and the process that keeps them."""

    __slots__ = ("bundle", "by", "state")

    def __init__(self, state: State, bundle: Bundle, by: str) -> None:
        self.state = state
        self.bundle = bundle
        self.by = by

    def describe(self) -> str:
        return f"prepare the container's own view of /proc, by {self.by}"

    def run(self) -> None:
        views.prepare(self.state, self.bundle, self.by).start()

    def undo(self) -> None:
        if self.state.views:
            views.take_down(self.state)


class ShowViews(Step):
    """Bind the views over the files that show the host."""

    __slots__ = ("root", "state")

    def __init__(self, root: Root, state: State) -> None:
        self.root = root
        self.state = state

    def describe(self) -> str:
        return "show the container its own " + ", ".join(TARGETS)

    def run(self) -> None:
        for name, target in TARGETS.items():
            source = views.source(self.state, name)
            fd = open_if_there(self.root, target)
            if fd < 0:
                continue
            try:
                if not os.path.exists(source):
                    continue
                libc.mount(source, at(fd), "", MS_BIND)
            finally:
                os.close(fd)
            fd = self.root.open(target)
            try:
                mounting.remount_by_bind(at(fd), MS_RDONLY)  # files of the host's memory are not to be filled
            finally:
                os.close(fd)
