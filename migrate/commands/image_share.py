"""`joey image share`: give blobs to other hosts, for `joey fleet`."""

from __future__ import annotations

import sys

from ...runtime.options import Arguments, Command
from ..image import sharing


def run(arguments: Arguments) -> int:
    sharing.share(arguments.words[0], sys.stdin.buffer)
    return 0


COMMAND = Command(
    "image share",
    "give blobs of a folder to other hosts, as long as standard input is open",
    run,
    words="FOLDER",
    least=1,
    most=1,
    detail=(
        "For `joey fleet run --share`, which starts it on hosts that have an image. A line of JSON on standard input\n"
        "says which blobs, and the certificate, key and token of the roll-out; the port is printed."
    ),
)
