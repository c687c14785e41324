"""`joey delete`."""

from __future__ import annotations

from ...compat.errors import StateError
from .. import container
from ..options import Arguments, Command, Option
from ..state import State
from .common import container_of, root_of


def run(arguments: Arguments) -> int:
    try:
        state = container_of(arguments)
    except StateError as error:
        if not arguments.switch("force") or error.slug not in ("no-container", "damaged"):
            raise
        if error.slug == "damaged":
            name = arguments.words[0]
            container.take_down(State(f"{root_of(arguments)}/{name}", name, "", ""))
        return 0
    status = state.status()
    if status not in ("stopped", "created") and not arguments.switch("force"):
        raise StateError(
            f"cannot delete container {state.id} that is not stopped: {status}",
            f"stop it with: joey kill {state.id} KILL; or: joey delete --force {state.id}",
            "not-stopped",
        )
    container.take_down(state)
    return 0


COMMAND = Command(
    "delete",
    "remove a stopped container",
    run,
    words="ID",
    least=1,
    most=1,
    options=(Option("--force -f", "", "kill it first; a container that does not exist is no error"),),
    detail="`delete --force` also cleans up after a joey that was killed half-way.",
)
