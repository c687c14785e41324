"""`joey rich update`: change a rich container, running or not."""

from __future__ import annotations

from ....compat.errors import JoeyError
from ....runtime.options import Arguments, Command, Option
from .. import changing
from .shared import LIMITS, STORE, container_of, set_limits


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    with container.locked():
        rich = container.rich()
        given = dict(rich.env)
        set_limits(arguments, rich)
        for name in arguments.many("unset-env"):
            if rich.env.pop(name, None) is None:
                raise JoeyError(f"--unset-env: {name} is not set")
        quotas = arguments.many("disk-quota")
        changing.update(container, rich, quotas, rich.env != given)
    return 0


COMMAND = Command(
    "rich update",
    "change limits, environment and policies of a rich container, running or not",
    run,
    words="NAME",
    least=1,
    most=1,
    options=(
        STORE,
        *LIMITS,
        Option("--unset-env", "NAME", "take a variable away; may be repeated", many=True),
        Option("--disk-quota", "[DIRS=]SIZE", "change a disk quota that it has; may be repeated", many=True),
    ),
    detail="Limits are changed at once; the environment for sessions and services that start from then on.",
    examples=("joey rich update --memory 4G --env TZ=UTC shop",),
)
