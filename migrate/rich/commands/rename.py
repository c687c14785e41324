"""`joey rich rename`: give a stopped rich container another name."""

from __future__ import annotations

import os

from ....compat.errors import StateError
from ....runtime.options import Arguments, Command
from .. import control, disk
from ..model import check_name
from ..store import Container
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    name = arguments.words[1]
    check_name(name)
    if container.status() != "stopped":
        raise StateError(f"{container.name} runs", f"joey rich stop {container.name}")
    other = Container(container.store, name)
    if os.path.lexists(other.folder):
        raise StateError(f"there is a rich container {name} already", slug="exists")
    with container.changing(), container.locked():
        container.recover()
        control.clear(container)
        disk.release(container.bundle)
        rich = container.rich()
        if not rich.hostname:
            rich.hostname = rich.name
        rich.name = name
        os.rename(container.folder, other.folder)
        other.save(rich)
    return 0


COMMAND = Command(
    "rich rename",
    "give a stopped rich container another name",
    run,
    words="NAME NEW",
    least=2,
    most=2,
    options=(STORE,),
    detail="Its host name stays what it was.",
)
