"""`joey image ls`: the images of a layout."""

from __future__ import annotations

from ...compat import jsonio
from ...runtime.options import Arguments, Command, Option
from ...runtime.tables import Table
from ..image.digest import ImageError
from ..image.layout import REF_NAME, Layout
from ..image.read import image_of
from ..image.reference import parse
from ..sizes import shown_size


def run(arguments: Arguments) -> int:
    reference = parse(arguments.words[0], ("oci",), "oci")
    layout = Layout(reference.place)
    layout.open()
    rows = []
    for entry in layout.index().get("manifests", []):
        name = (entry.get("annotations") or {}).get(REF_NAME, "")
        if reference.name and name != reference.name:
            continue
        row = {"name": name, "digest": entry.get("digest"), "layers": 0, "size": 0, "created": "", "platform": ""}
        try:
            image = image_of(layout, entry)
        except ImageError as error:
            row["platform"] = f"damaged: {error.message}"
        else:
            row["layers"] = len(image.layers)
            row["size"] = sum(layer.get("size", 0) for layer in image.layers)
            row["created"] = str(image.config.get("created", ""))
            row["platform"] = f"{image.config.get('os')}/{image.config.get('architecture')}"
        rows.append(row)
    if arguments.switch("json"):
        print(jsonio.dumps(rows))
        return 0
    table = Table("", "name", "digest", "platform", "layers", "size", "created")
    for row in rows:
        size = row["size"]
        assert isinstance(size, int)
        table.add(
            str(row["name"]),
            str(row["digest"])[7:19],
            str(row["platform"]),
            str(row["layers"]),
            shown_size(size),
            str(row["created"]),
        )
    table.print()
    return 0


COMMAND = Command(
    "image ls",
    "list the images of an OCI image layout",
    run,
    words="LAYOUT",
    least=1,
    most=1,
    options=(Option("--json", "", "print JSON"),),
    examples=("joey image ls images", "joey image ls oci:images:web1 --json"),
)
