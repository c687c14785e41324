"""`joey image verify`: whether an image is whole."""

from __future__ import annotations

from ...runtime.options import Arguments, Command
from ..image.layout import Layout
from ..image.read import open_image
from ..image.reference import parse
from ..progress import Progress


def run(arguments: Arguments) -> int:
    reference = parse(arguments.words[0], ("oci",), "oci")
    image = open_image(Layout(reference.place), reference.name)
    entries = 0
    with Progress() as progress:
        for index in range(len(image.layers)):
            progress.stage(f"layer {index + 1} of {len(image.layers)}")
            image.check_layer(index)
            with image.open_layer(index) as layer:
                reader = layer.reader()
                for _ in reader:
                    progress.at(reader.unpacked)
                layer.finish()
                entries += reader.entries
    print(f"{image.descriptor['digest']}: {len(image.layers)} layers, {entries} entries, all digests right")
    return 0


COMMAND = Command(
    "image verify",
    "check every digest of an image, and that its layers are sound tar streams",
    run,
    words="IMAGE",
    least=1,
    most=1,
    detail="To compare an image with the machine that it was made of: joey migrate verify.",
    examples=("joey image verify oci:images:web1",),
)
