"""`joey state`."""

from __future__ import annotations

from ...compat import jsonio
from ..options import Arguments, Command
from ..state import State
from .common import container_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(arguments: Arguments) -> int:
    state = container_of(arguments)
    print(jsonio.indented(shown(state)))
    return 0


def shown(state: State) -> dict[str, Any]:
    """A container as `state` and `list` show it: runc's keys, in its order."""
    value = state.oci()
    more = {"annotations": value["annotations"]} if "annotations" in value else {}
    return {**{key: value[key] for key in ("ociVersion", "id", "pid", "status", "bundle")}, "rootfs": state.rootfs,
            "created": state.created, **more, "owner": owner_name(state.uid)}  # fmt: skip


def owner_name(uid: int) -> str:
    """The user's name where there is one, as runc prints it; empty otherwise."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


COMMAND = Command(
    "state",
    "print a container's state as JSON",
    run,
    words="ID",
    least=1,
    most=1,
    detail="What the container does without on this kernel is among its annotations, as io.joey.lost.FEATURE.",
)
