"""`joey image push`: an image to a registry."""

from __future__ import annotations

from ...runtime.options import Arguments, Command, Option
from ..image import connection, transfer
from ..image.layout import Layout
from ..image.read import open_image
from ..image.reference import parse
from ..progress import Progress

INSECURE = Option("--insecure", "", "allow a registry without TLS, or whose certificate can't be checked")


def run(arguments: Arguments) -> int:
    source = parse(arguments.words[0], ("oci",), "oci")
    target = connection.parse(parse(arguments.words[1], ("docker",)).place)
    image = open_image(Layout(source.place), source.name)
    with Progress() as progress:
        digest = transfer.push(image, target, arguments.switch("insecure"), progress)
    print(digest)
    return 0


COMMAND = Command(
    "image push",
    "send an image to a registry",
    run,
    words="IMAGE docker://HOST/NAME:TAG",
    least=2,
    most=2,
    options=(INSECURE,),
    detail=(
        "Layers that the registry has are not sent. They go in pieces: a connection that breaks is taken up again,\n"
        "and so is a run that was stopped. Credentials are those of `docker login` and `podman login`."
    ),
    examples=("joey image push oci:images:web1 docker://registry.example.com/shop/web1:1.0",),
)
