"""`joey migrate verify`: a source beside the image made of it."""

from __future__ import annotations

from ...compat import jsonio
from ...runtime.options import Arguments, Command, Option
from ...runtime.tables import Table
from ..image.layout import Layout
from ..image.read import open_image
from ..image.reference import parse
from ..migration import lower, put_over
from ..progress import Progress
from ..recipe.model import Recipe
from ..sizes import shown_size
from ..sources.open import source_of
from ..verify import Verdict, verify
from ..work import Work
from .migrate import SOURCE_OPTIONS, options_of, recipe_of


def run(arguments: Arguments) -> int:
    *sources, word = arguments.words
    reference = parse(word, ("oci",), "oci")
    image = open_image(Layout(reference.place), reference.name)
    recipe = recipe_of(arguments) or Recipe()
    with Progress() as progress, Work(sources, arguments.text("work")) as place:
        source = source_of(sources, options_of(arguments, place), progress.share)
        with source as opened:
            if image.own.start:
                put_over(opened, lower(image, image.own.start))
            verdict = verify(source, opened, recipe, image, progress)
    if arguments.switch("json"):
        print(jsonio.dumps(_as_json(verdict)))
    else:
        _show(verdict)
    return 1 if verdict.count else 0


def _as_json(verdict: Verdict) -> dict[str, object]:
    return {
        "compared": verdict.compared,
        "bytes": verdict.size,
        "unexplained": verdict.count,
        "differences": [{"path": path, "what": what} for path, what in verdict.differences],
        "explained": [
            {"rule": name, "reason": d.reason, "entries": d.entries, "bytes": d.size}
            for name, d in verdict.report.dropped.items()
        ],
    }


def _show(verdict: Verdict) -> None:
    explained = Table("explained by rules", "rule", "entries", "bytes", "why")
    for name, each in verdict.report.dropped.items():
        explained.add(name, str(each.entries), shown_size(each.size), each.reason)
    explained.print()
    if verdict.count:
        table = Table(f"{verdict.count} differences that nothing explains", "path", "what differs")
        for path, what in verdict.differences[:50]:
            table.add(path, what)
        table.print()
    print(f"{verdict.compared} entries and {shown_size(verdict.size)} compared: " + (
        f"{verdict.count} unexplained differences" if verdict.count else "the same"
    ))  # fmt: skip


COMMAND = Command(
    "migrate verify",
    "compare a source with the image that was made of it, entry by entry and byte by byte",
    run,
    words="SOURCE... IMAGE",
    least=2,
    most=-1,
    options=(
        Option("--recipe", "FILE", "the recipe that the image was made with"),
        *SOURCE_OPTIONS,
        Option("--json", "", "print JSON"),
    ),
    detail=(
        "Files, owners, modes, times to the nanosecond, extended attributes (capabilities, ACLs), links, devices and\n"
        "content. What the recipe keeps out is explained by its rule. Exit status 1 for a difference that is not."
    ),
    examples=("joey migrate verify web1.qcow2 oci:images:web1",),
)
