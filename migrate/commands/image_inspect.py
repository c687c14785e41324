"""`joey image inspect`: an image's config and layers."""

from __future__ import annotations

import json

from ...runtime.options import Arguments, Command, Option
from ...runtime.tables import Table
from ..image.layout import Layout
from ..image.read import open_image
from ..image.reference import parse
from ..sizes import shown_size


def run(arguments: Arguments) -> int:
    reference = parse(arguments.words[0], ("oci",), "oci")
    image = open_image(Layout(reference.place), reference.name)
    if arguments.switch("json"):
        value = {"descriptor": image.descriptor, "manifest": image.manifest, "config": image.config}
        print(json.dumps(value, indent=2))
        return 0
    table = Table(str(image.descriptor["digest"]), "what", "value")
    table.add("platform", f"{image.config.get('os')}/{image.config.get('architecture')}")
    table.add("created", str(image.config.get("created", "")))
    for key, value in image.settings.items():
        table.add(key, value if isinstance(value, str) else json.dumps(value))
    for key, value in (image.manifest.get("annotations") or {}).items():
        table.add(key, str(value))
    table.print()
    layers = Table("layers", "place", "what", "digest", "size")
    for index, layer in enumerate(image.layers):
        title = (layer.get("annotations") or {}).get("io.joey.layer", "")
        layers.add(str(index + 1), str(title), str(layer.get("digest"))[7:19], shown_size(int(layer.get("size", 0))))
    layers.print()
    return 0


COMMAND = Command(
    "image inspect",
    "show an image's config and layers",
    run,
    words="IMAGE",
    least=1,
    most=1,
    options=(Option("--json", "", "print manifest and config as JSON"),),
    examples=("joey image inspect oci:images:web1",),
)
