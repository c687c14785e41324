"""`joey migrate`: an image of a machine's disks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...compat import jsonio
from ...compat.errors import JoeyError, UsageError
from ...runtime.options import Arguments, Command, Option
from ...runtime.tables import Table, plain
from ..image.destination import TRANSPORTS, Destination
from ..image.layout import Layout
from ..image.read import Image, open_image
from ..image.reference import parse
from ..migration import Result, lower, migrate, put_over
from ..progress import Progress
from ..recipe import text as recipe_text
from ..recipe.model import Recipe
from ..recipe.propose import propose
from ..sizes import shown_size
from ..sources.contract import Options
from ..sources.open import source_of
from ..verify import verify
from ..work import Work, default_base

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..sources.contract import Opened, Source

SOURCE_OPTIONS = (
    Option("--root-volume", "NAME", "the volume with the root file system, where there are several"),
    Option("--skip-mount", "PATH", "do without this mount of the machine's fstab; may be repeated", many=True),
    Option("--backing", "", "read the images that this one is a difference to; they must be in the same folder"),
    Option("--reader", "NAME", "how a disk's file systems are read: mount, dissect, guestfs (default: what works)"),
    Option("--as", "KIND", "an archive or folder is a machine or an application (default: by its files)"),
    Option("--prefix", "PATH", "where an application's files go (default: /opt/NAME)"),
    Option("--root-from", "ROOT", "put below an application what it wants of this root file system: any SOURCE"),
    Option(
        "--root-path", "PATH", "also this of it, all that is below included; may be repeated, may have stars", many=True
    ),
    Option("--ssh-option", "NAME=VALUE", "as ssh's -o, for a source that is a host; may be repeated", many=True),
    Option("--work", "DIR", "where raw disks are put meanwhile (default: $TMPDIR or /var/tmp)"),
)


def options_of(arguments: Arguments, work: str) -> Options:
    """The options that say how a source is read."""
    options = Options(work)
    options.reader = arguments.text("reader")
    options.root_volume = arguments.text("root-volume")
    options.skipped_mounts = arguments.many("skip-mount")
    options.backing = arguments.switch("backing")
    options.ssh_options = arguments.many("ssh-option")
    options.insecure = arguments.switch("insecure")
    options.kind = arguments.text("as")
    if options.kind not in ("", "machine", "application"):
        raise UsageError(f'--as: unknown kind "{options.kind}"', "machine or application")
    options.prefix = arguments.text("prefix")
    options.root = arguments.text("root-from")
    options.root_paths = arguments.many("root-path")
    return options


def recipe_of(arguments: Arguments) -> Recipe | None:
    """The recipe that --recipe names, or None."""
    path = arguments.text("recipe")
    if not path:
        return None
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return recipe_text.parse(file.read((1 << 20) + 1), path)


def run(arguments: Arguments) -> int:
    if not arguments.text("to"):
        raise UsageError("where to? --to oci:DIR[:NAME]", "see: joey migrate --help")
    reference = parse(arguments.text("to"), TRANSPORTS)
    destination = Destination(reference, arguments.switch("insecure"), arguments.text("work") or default_base())
    destination.check()
    recipe = recipe_of(arguments)
    base = None
    if arguments.text("base") and arguments.text("root-from"):
        raise UsageError("--base and --root-from are two ways to the same: give one")
    if word := arguments.text("base"):
        below = parse(word, ("oci",), "oci")
        base = open_image(Layout(below.place), below.name)
    work = Work(arguments.words, arguments.text("work"))
    try:
        with Progress() as progress, work as place:
            source = source_of(arguments.words, options_of(arguments, place), progress.share)
            with source as opened:
                recipe = recipe or propose(opened)
                if opened.application is not None and base is None and not arguments.text("root-from"):
                    opened.notes += [f"no --base is given: {line}" for line in opened.application.advice]
                lowest = None
                if base is not None:
                    progress.stage("reading the base")
                    lowest = lower(base, len(base.layers))
                    put_over(opened, lowest)
                if reference.name:
                    recipe.image.name = reference.name
                if reference.transport == "bundle":
                    recipe.compression, recipe.level = "none", 0  # it is unpacked again at once
                with destination as layout:
                    result = migrate(source, opened, recipe, layout, progress, base, lowest)
                    if arguments.switch("verify"):
                        _verify(source, opened, recipe, layout, result, progress)
                    result.report.warnings += destination.finish(progress)
    except BaseException:
        if work.kept():
            print(
                f"joey: the converted disk stays in {work.path} for the next run; remove it if there is none",
                file=sys.stderr,
            )
        raise
    if arguments.switch("json"):
        print(jsonio.dumps(as_json(result)))
    else:
        show(result, str(reference))
    return 0


def _verify(source: Source, opened: Opened, recipe: Recipe, layout: Layout, result: Result, progress: Progress) -> None:
    """Compare what was written with the source, as `joey migrate verify` does. Raises JoeyError for a difference."""
    verdict = verify(source, opened, recipe, Image(layout, result.manifest), progress)
    if verdict.count:
        path, what = verdict.differences[0]
        more = f", and {verdict.count - 1} more" if verdict.count > 1 else ""
        raise JoeyError(f"the image differs from its source: {path}: {what}{more}", "joey migrate verify", "differs")


def as_json(result: Result) -> dict[str, object]:
    report = result.report
    return {
        "manifest": result.manifest,
        "seconds": round(result.seconds, 2),
        "entries": report.entries,
        "bytes": report.size,
        "layers": [
            {"name": name, "digest": w.digest, "size": w.size, "unpacked": w.unpacked, "entries": w.entries}
            for name, w in result.layers
        ],
        "dropped": [
            {"rule": name, "reason": d.reason, "entries": d.entries, "bytes": d.size, "examples": d.examples}
            for name, d in report.dropped.items()
        ],
        "warnings": report.warnings,
    }


def show(result: Result, destination: str) -> None:
    """The report for people."""
    report = result.report
    table = Table(
        f"{destination}: {report.entries} entries, {shown_size(report.size)}", "layer", "entries", "unpacked", "blob"
    )
    for name, written in result.layers:
        table.add(name, str(written.entries), shown_size(written.unpacked), shown_size(written.size))
    table.print()
    dropped = Table("not moved", "rule", "entries", "bytes", "why", "such as")
    for name, each in sorted(report.dropped.items(), key=lambda item: -item[1].size):
        dropped.add(name, str(each.entries), shown_size(each.size), each.reason, each.examples[0])
    if dropped.rows:
        dropped.print()
    _lines("warning", report.warnings)
    print(f"{result.manifest['digest']} in {result.seconds:.1f} s")


def _lines(word: str, lines: Sequence[str]) -> None:
    for line in lines[:20]:
        print(f"{word}: {plain(line)}")
    if len(lines) > 20:
        print(f"{word}: and {len(lines) - 20} more (--json lists all)")


COMMAND = Command(
    "migrate",
    "make an OCI image of a machine's disks or of a root file system",
    run,
    words="SOURCE...",
    least=1,
    most=-1,
    options=(
        Option(
            "--to",
            "DESTINATION",
            "oci:DIR[:NAME], docker-archive:FILE[:NAME:TAG], bundle:DIR or docker://HOST/NAME:TAG",
        ),
        Option("--recipe", "FILE", "what moves and what does not (joey migrate plan writes one)"),
        Option("--base", "IMAGE", "the image below an application, as oci:DIR:NAME"),
        Option("--verify", "", "compare the image with its source before it goes where it shall"),
        *SOURCE_OPTIONS,
        Option("--insecure", "", "allow a registry without TLS, or whose certificate can't be checked"),
        Option("--json", "", "print the report as JSON"),
    ),
    detail=(
        "SOURCE is a disk image (raw, qcow2, VMDK, VDI, VHD, VHDX, OVA, OVF), several of one machine, a block device,\n"
        "a folder or archive (tar, compressed or not, zip) with a root file system or an application in it,\n"
        "a program, a script, a .jar, ssh://[USER@]HOST[:PORT], or an image (oci:DIR:NAME, docker-archive:FILE,\n"
        "docker://HOST/NAME:TAG) to be cut into layers anew. Sources are only read."
    ),
    verbs={
        "inspect": (
            "migrate.commands.inspect",
            "show what a machine is, and how well it fits into a container",
        ),
        "plan": ("migrate.commands.plan", "write the recipe of a migration, to be read and edited"),
        "batch": ("migrate.commands.batch", "migrate many machines by one list"),
        "verify": ("migrate.commands.verify", "compare a source with the image that was made of it"),
    },
    examples=(
        "joey migrate web1.vmdk --to oci:images:web1",
        "joey migrate web1.qcow2 --recipe web1.yaml --to oci:images:web1",
    ),
)
