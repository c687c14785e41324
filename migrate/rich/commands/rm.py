"""`joey rich rm`: remove rich containers and what they have written."""

from __future__ import annotations

import os

from ....compat.errors import StateError
from ....runtime.options import Arguments, Command, Option
from .. import control, images
from ..model import check_name
from ..store import Container
from .shared import STORE, store_of


def run(arguments: Arguments) -> int:
    store = store_of(arguments)
    for name in arguments.words:
        if arguments.switch("force") and not os.path.exists(f"{store.path}/{name}/rich.json"):
            check_name(name)
            container = Container(store, name)
            if not os.path.isdir(container.folder):
                raise StateError(f"there is no rich container {name}", slug="no-container")
            control.end_at_once(container)
            container.remove()
            continue
        container = store.get(name)
        if container.status() != "stopped" and not arguments.switch("force"):
            raise StateError(f"{name} runs", f"joey rich stop {name}, or --force")
        control.end_at_once(container)
        container.remove()
    images.drop_unused(store)
    try:
        os.rmdir(store.runtime)  # the last one's
    except OSError:
        pass  # others run, or none ever did
    return 0


COMMAND = Command(
    "rich rm",
    "remove rich containers and what they have written",
    run,
    words="NAME...",
    least=1,
    most=-1,
    options=(STORE, Option("--force -f", "", "kill those that run, and remove damaged ones")),
    detail="Named volumes stay. An image that none is made of any more goes too.",
)
