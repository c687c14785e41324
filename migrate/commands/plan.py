"""`joey migrate plan`: the recipe for a source."""

from __future__ import annotations

import os

from ...compat.errors import JoeyError
from ...compat.files import write_atomically
from ...runtime.options import Arguments, Command, Option
from ..progress import Progress
from ..recipe import text as recipe_text
from ..recipe.propose import matches, propose
from ..sources.open import source_of
from ..work import Work
from .migrate import SOURCE_OPTIONS, options_of


def run(arguments: Arguments) -> int:
    target = arguments.text("output")
    if target and os.path.lexists(target) and not arguments.switch("force"):
        raise JoeyError(f"{target} is there already", "--force writes over it", "exists")
    with (
        Progress() as progress,
        Work(arguments.words, arguments.text("work")) as place,
        source_of(arguments.words, options_of(arguments, place), progress.share) as opened,
    ):
        progress.stage("looking at the files")
        recipe = propose(opened)
        facts = {"title": opened.title, "kind": opened.kind, **opened.facts}
        text = recipe_text.write(recipe, facts, matches(opened.tree))
        notes = opened.notes
    for line in notes:
        text += f"# note: {line}\n" if line.isprintable() else f"# note: {line!a}\n"
    recipe_text.parse(text, "the recipe")  # what joey writes, joey reads
    if target:
        write_atomically(target, text, 0o644)
    else:
        print(text, end="")
    return 0


COMMAND = Command(
    "migrate plan",
    "write the recipe of a migration, to be read and edited",
    run,
    words="SOURCE...",
    least=1,
    most=-1,
    options=(
        Option("--output -o", "FILE", "write to FILE instead of standard output"),
        Option("--force", "", "write over FILE"),
        *SOURCE_OPTIONS,
    ),
    detail=(
        "A recipe says what moves, what does not and why, which volumes and ports there are and what starts. Each\n"
        "rule is shown with what it matches in this source."
    ),
    examples=("joey migrate plan web1.qcow2 -o web1.yaml",),
)
