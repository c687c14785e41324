"""`joey image diff`: what differs between two images."""

from __future__ import annotations

from ...compat import jsonio
from ...runtime.options import Arguments, Command, Option
from ...runtime.tables import plain
from ..image.difference import differences, facts_of
from ..image.layout import Layout
from ..image.read import open_image
from ..image.reference import parse
from ..progress import Progress
from ..trees.entry import shown


def run(arguments: Arguments) -> int:
    references = [parse(word, ("oci",), "oci") for word in arguments.words]
    images = [open_image(Layout(reference.place), reference.name) for reference in references]
    with Progress() as progress:
        old, new = (facts_of(image, progress) for image in images)
    found = list(differences(old, new, arguments.switch("times")))
    changed = sorted(
        key for key in {*images[0].settings, *images[1].settings}
        if images[0].settings.get(key) != images[1].settings.get(key)
    )  # fmt: skip
    if arguments.switch("json"):
        rows = [{"sign": each.sign, "path": shown(each.path), "what": each.what} for each in found]
        print(jsonio.dumps({"config": changed, "files": rows}))
        return 1 if found or changed else 0
    for key in changed:
        print(f"* config: {plain(key)}")
    for each in found:
        print(f"{each.sign} {shown(each.path)} ({each.what})")
    return 1 if found or changed else 0


COMMAND = Command(
    "image diff",
    "show what differs between two images: added (+), removed (-) and changed (*) paths, and the config",
    run,
    words="OLD NEW",
    least=2,
    most=2,
    options=(
        Option("--times", "", "tell also what differs by its time alone"),
        Option("--json", "", "print JSON"),
    ),
    detail="Every path of both images is held in memory, some 500 bytes each. Exit status 1 where something differs.",
    examples=("joey image diff images:web1 images:web2",),
)
