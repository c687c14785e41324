"""`joey fleet run`: a rich container on many hosts."""

from __future__ import annotations

import shlex

from ....compat.errors import UsageError
from ....runtime.options import Arguments, Command, Option
from ...rich.model import check_name
from .. import machines
from .changes import DRY, GATE, SHARE, roll_image
from .shared import HOSTS, JSON, REACHING, STORE, WAVE, WORDS


def run(arguments: Arguments) -> int:
    reference, name, *words = arguments.words
    check_name(name)
    try:
        options = shlex.split(arguments.text("with"))
    except ValueError as error:
        raise UsageError(f"--with: {error}", "--with '--memory 2G --network bridge'") from None
    return roll_image(
        arguments, reference, name, words, "run", lambda link, rollout: machines.run(link, rollout, options)
    )


COMMAND = Command(
    "fleet run",
    "run an image as a rich container on hosts, in waves",
    run,
    words=f"IMAGE NAME {WORDS}",
    least=2,
    most=-1,
    options=(
        Option("--with", "OPTIONS", "options of `joey rich run` there, as one word"),
        GATE,
        SHARE,
        DRY,
        WAVE,
        HOSTS,
        STORE,
        *REACHING,
        JSON,
    ),
    detail=(
        "IMAGE is oci:DIR:NAME on this machine; blobs that a host has already are not sent. It is up when `joey rich\n"
        "run` there says so; a container that does not come up, or whose gate fails, is removed again, and the wave\n"
        "fails. A host where the same image runs under that name already is done."
    ),
    examples=(
        "joey fleet run --with '--memory 2G --network bridge --wait-for port:80' oci:images:shop shop web",
        "joey fleet run --wave 1,10%,rest --gate 'joey rich exec shop nginx -t' oci:images:shop shop",
    ),
)
