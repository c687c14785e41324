"""`joey image take`: fetch blobs from another host, for `joey fleet`."""

from __future__ import annotations

import sys

from ...runtime.options import Arguments, Command
from ..image import sharing


def run(arguments: Arguments) -> int:
    print(sharing.take(arguments.words[0], sharing.request(sys.stdin.buffer)))
    return 0


COMMAND = Command(
    "image take",
    "fetch blobs into a folder from a host that shares them",
    run,
    words="FOLDER",
    least=1,
    most=1,
    detail=(
        "For `joey fleet run --share`. A line of JSON on standard input says which blobs, from where, and with which\n"
        "certificate and token. Every blob is checked by its SHA-256; how many bytes came is printed."
    ),
)
