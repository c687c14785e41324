"""`joey image unpack`: a bundle of an image."""

from __future__ import annotations

import sys

from ...compat.errors import UsageError
from ...runtime.options import Arguments, Command, Option
from ...runtime.tables import plain
from ..image import bundle
from ..image.layout import Layout
from ..image.read import open_image
from ..image.reference import parse
from ..progress import Progress
from ..sizes import parse_size


def run(arguments: Arguments) -> int:
    reference = parse(arguments.words[0], ("oci",), "oci")
    image = open_image(Layout(reference.place), reference.name)
    limits = bundle.Limits()
    if word := arguments.text("max-size"):
        size = parse_size(word)
        if size is None:
            raise UsageError(f'--max-size: "{word}" is not a size, such as 20G')
        limits.size = size
    limits.entries = arguments.number("max-entries", limits.entries)
    native = {"": None, "openat2": True, "walk": False}.get(arguments.text("paths"), ...)
    if native is ...:
        raise UsageError(f'--paths: unknown way "{arguments.text("paths")}"', "openat2 or walk")
    with Progress() as progress:
        warnings = bundle.unpack(image, arguments.words[1], limits, progress, native)
    for line in warnings[:20]:
        print(f"joey: {plain(line)}", file=sys.stderr)
    if len(warnings) > 20:
        print(f"joey: and {len(warnings) - 20} more like these", file=sys.stderr)
    return 0


COMMAND = Command(
    "image unpack",
    "make a bundle of an image: its files in rootfs/, its config as config.json",
    run,
    words="IMAGE DIR",
    least=2,
    most=2,
    options=(
        Option("--max-size", "SIZE", "the most bytes that its layers may unpack to (default: 256G)"),
        Option("--max-entries", "N", "the most entries that they may have (default: 20000000)"),
        Option("--paths", "WAY", "how paths are kept inside: openat2, or walk on kernels before 5.6"),
    ),
    detail=(
        "DIR is made, for its owner alone. Digests are checked before a layer is applied; no path of a layer leads\n"
        "out of DIR/rootfs. The same command goes on where a killed one stopped. As a plain user, owners are kept in\n"
        "the attribute user.rootlesscontainers, and devices become empty files."
    ),
    examples=("joey image unpack oci:images:web1 /srv/web1", "joey run -b /srv/web1 web1"),
)
