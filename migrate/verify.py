"""Comparing a source with the image made of it: every entry, byte by byte, each difference explained or a failure.

Both sides are read as streams in the same order, so memory stays the same for any size. The source is seen through the
same recipe as at the migration: what a rule keeps out is a difference that the rule explains.
"""

from __future__ import annotations

import heapq
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .image.digest import ImageError
from .inventory.packages import packages
from .pack import Packer, Report
from .trees.entry import Entry, shown
from .trees.entry import opened as content_of
from .trees.paths import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .image.layerreader import LayerReader
    from .image.read import Image
    from .progress import Progress
    from .recipe.model import Recipe
    from .sources.contract import Opened, Source

_CHUNK = 1 << 18
MOST_SHOWN = 1000


class Verdict:
    """`report` holds what the recipe keeps out; `differences` are (path, what differs) that nothing explains."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.differences: list[tuple[str, str]] = []
        self.count = 0
        self.compared = 0
        self.size = 0

    def differs(self, path: bytes, what: str) -> None:
        self.count += 1
        if len(self.differences) < MOST_SHOWN:
            self.differences.append((shown(path), what))


def verify(source: Source, opened: Opened, recipe: Recipe, image: Image, progress: Progress) -> Verdict:
    """Compare. Raises ImageError for a damaged image or one whose layers are not in order, OSError for the source."""
    progress.stage("checking digests", sum(layer.get("size", 0) for layer in image.layers))
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress.at(done)

    for index in range(len(image.layers)):
        image.check_layer(index, count)
    packer = Packer(recipe, packages(opened.tree))
    source.complete(packer.wants)
    verdict = Verdict(packer.report)
    progress.stage("comparing")

    def twice(path: bytes) -> None:
        verdict.differs(path, "it is in several layers of the image")

    ours = (entry for _, entry, _ in packer.entries(opened.tree))
    with ExitStack() as stack:
        layers = [stack.enter_context(image.open_layer(index)) for index in image.own]
        theirs = merged([_ordered(layer.reader(), index) for index, layer in enumerate(layers)], twice)
        _walk(ours, theirs, verdict, progress)
        for layer in layers:
            layer.finish()
    return verdict


def _ordered(entries: LayerReader, index: int) -> Iterator[tuple[bytes, int, Entry]]:
    """(key, minus the layer's place, entry). Raises ImageError where a layer is not in the order of a walk."""
    last = None
    for entry in entries:
        found = in_order(entry.path)
        if last is not None and found <= last:
            raise ImageError(
                f"layer {index + 1} is not in order at {shown(entry.path)}", "joey did not write this image"
            )
        last = found
        yield found, -index, entry


def merged(layers: list[Iterator[tuple[bytes, int, Entry]]], twice: Callable[[bytes], None]) -> Iterator[Entry]:
    """The entries of all layers in order, of those with one path the topmost. `twice` is told of what is no directory
    and in several layers: a hard link may then be to another file than it seems.
    """
    last = None
    above = ""
    for found, _, entry in heapq.merge(*layers, key=lambda item: item[:2]):
        if found != last:
            last, above = found, entry.kind
            yield entry
        elif entry.kind != "directory" or above != "directory":
            twice(entry.path)


def _walk(ours: Iterator[Entry], theirs: Iterator[Entry], verdict: Verdict, progress: Progress) -> None:
    mine, other = next(ours, None), next(theirs, None)
    buffers = memoryview(bytearray(_CHUNK)), memoryview(bytearray(_CHUNK))
    while mine is not None or other is not None:
        if other is None or (mine is not None and in_order(mine.path) < in_order(other.path)):
            assert mine
            verdict.differs(mine.path, f"the {mine.kind} is not in the image")
            mine = next(ours, None)
        elif mine is None or in_order(other.path) < in_order(mine.path):
            verdict.differs(other.path, f"the {other.kind} is in the image only")
            other = next(theirs, None)
        else:
            _compare(mine, other, verdict, buffers)
            progress.at(verdict.size)
            mine, other = next(ours, None), next(theirs, None)


def _compare(mine: Entry, other: Entry, verdict: Verdict, buffers: tuple[memoryview, memoryview]) -> None:
    verdict.compared += 1
    path = mine.path
    if mine.first or other.first:
        if mine.first != other.first:
            verdict.differs(path, f"hard link to {shown(mine.first)}, in the image to {shown(other.first)}")
        return
    for what, left, right in (
        ("kind", mine.kind, other.kind),
        ("mode", oct(mine.mode & 0o7777), oct(other.mode & 0o7777)),
        ("owner", f"{mine.uid}:{mine.gid}", f"{other.uid}:{other.gid}"),
        ("time", mine.mtime, other.mtime),
        ("size", mine.size, other.size),
        ("target", mine.target, other.target),
        ("device", mine.device, other.device),
    ):
        if left != right:
            verdict.differs(path, f"{what} {left!r}, in the image {right!r}")
            if what == "kind":
                return
    if mine.xattrs != other.xattrs:
        names = sorted({k for k, _ in {*mine.xattrs} ^ {*other.xattrs}})
        verdict.differs(path, "attributes " + ", ".join(name.decode("utf-8", "replace") for name in names))
    if mine.open is not None and other.open is not None and mine.size == other.size and mine.size:
        verdict.size += mine.size
        if (at := _first_difference(mine, other, buffers)) >= 0:
            verdict.differs(path, f"content, from byte {at} on")


def _first_difference(mine: Entry, other: Entry, buffers: tuple[memoryview, memoryview]) -> int:
    """Where the contents of two files of one size begin to differ, roughly; -1 where they do not."""
    with content_of(mine) as left, content_of(other) as right:
        at = 0
        while at < mine.size:
            count = left.readinto(buffers[0]) or 0
            filled = 0
            while filled < count and (more := right.readinto(buffers[1][filled:count])):
                filled += more
            if not count or filled != count or buffers[0][:count] != buffers[1][:count]:
                return at
            at += count
    return -1
