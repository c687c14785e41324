"""`joey image pull`: an image from a registry."""

from __future__ import annotations

from ...runtime.options import Arguments, Command
from ..image import connection, transfer
from ..image.layout import Layout
from ..image.reference import parse
from ..progress import Progress
from .image_push import INSECURE


def run(arguments: Arguments) -> int:
    source = connection.parse(parse(arguments.words[0], ("docker",)).place)
    target = parse(arguments.words[1], ("oci",), "oci")
    layout = Layout(target.place)
    layout.create()
    try:
        with Progress() as progress:
            name = target.name or source.reference.replace(":", "-")
            digest = transfer.pull(source, layout, name, arguments.switch("insecure"), progress)
    finally:
        layout.close()
    print(digest)
    return 0


COMMAND = Command(
    "image pull",
    "fetch an image from a registry into an OCI image layout",
    run,
    words="docker://HOST/NAME:TAG LAYOUT[:NAME]",
    least=2,
    most=2,
    options=(INSECURE,),
    detail=(
        "Of an index this machine's image is taken. Every blob is checked by its digest; the same command goes on\n"
        "where a stopped one was."
    ),
    examples=("joey image pull docker://registry.example.com/shop/web1:1.0 images:web1",),
)
