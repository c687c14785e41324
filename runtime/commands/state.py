"""`joey state`."""

from __future__ import annotations

from ...compat import jsonio
from ..options import Arguments, Command
from .common import container_of


def run(arguments: Arguments) -> int:
    state = container_of(arguments)
    value = state.oci()
    print(jsonio.dumps({**value, "rootfs": state.rootfs, "created": state.created, "owner": owner_name(state.uid)}))
    return 0


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
