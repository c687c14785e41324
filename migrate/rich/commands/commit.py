"""`joey rich commit`: an image of what a rich container has become."""

from __future__ import annotations

import time

from ....compat.errors import StateError
from ....runtime.options import Arguments, Command, Option
from ...image.destination import TRANSPORTS, Destination
from ...image.reference import parse
from ...progress import Progress
from ..committing import write
from .shared import STORE, container_of


def run(arguments: Arguments) -> int:
    container = container_of(arguments)
    reference = parse(arguments.words[1], TRANSPORTS, "oci")
    if container.status() not in ("stopped", "paused") and not arguments.switch("live"):
        raise StateError(f"{container.name} runs: what it writes meanwhile may be half in the image",
                         "joey rich stop, or pause, or --live for databases that stand a power failure")  # fmt: skip
    destination = Destination(reference, arguments.switch("insecure"), "/var/tmp")
    destination.check()
    with Progress() as progress, container.locked(), destination as layout:
        write(container, layout, reference.name, time.time_ns(), progress)
        destination.finish(progress)
    return 0


COMMAND = Command(
    "rich commit",
    "make an image of what a rich container has become",
    run,
    words="NAME DESTINATION",
    least=2,
    most=2,
    options=(
        STORE,
        Option("--live", "", "while it runs"),
        Option("--insecure", "", "allow a registry without TLS, or whose certificate can't be checked"),
    ),
    detail=(
        "DESTINATION is oci:DIR:NAME, docker-archive:FILE or docker://HOST/NAME:TAG. The image has the old image's\n"
        "files and what was written since; not the fixes, which the next container gets anew, nor volumes."
    ),
    examples=("joey rich pause shop; joey rich commit shop oci:images:shop-now; joey rich resume shop",),
)
