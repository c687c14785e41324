"""From a tree and a recipe to the layers of an image: one walk, each entry to its layer or to the report.

Layers, lowest first: what every machine of the release has (base packages), the other packages, files that are of no
package (application), configuration, data, directories. Only the last has the directories as they were, with their
times; the others have those they need without a time, so that machines with the same files in one have the same layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .trees.entry import Entry, TreeError, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .inventory.packages import Packages
    from .recipe.model import Recipe
    from .trees.entry import Tree

BASE, PACKAGES, APPLICATION, CONFIGURATION, DATA, DIRECTORIES = LAYERS = (
    "base packages",
    "packages",
    "application",
    "configuration",
    "data",
    "directories",
)
_ROOMS = {
    b"etc": CONFIGURATION,
    b"boot": CONFIGURATION,
    b"opt": APPLICATION,
    b"usr": APPLICATION,
    b"bin": APPLICATION,
    b"sbin": APPLICATION,
    b"lib": APPLICATION,
    b"lib32": APPLICATION,
    b"lib64": APPLICATION,
    b"libx32": APPLICATION,
}
_LONGEST = 4000  # bytes of a path that every reader of layers takes
# labels and marks of this host's or that machine's own security modules and overlays: of no meaning elsewhere
DROPPED_XATTRS = (
    b"security.selinux",
    b"security.ima",
    b"security.evm",
    b"trusted.overlay.",
    b"user.overlay.",
    b"system.nfs4",
)


def _is_whiteout(path: bytes) -> bool:
    """Whether a layer would take a name of a path as a whiteout."""
    return b"/.wh." in b"/" + path


class Dropped:
    """What a rule or reason kept out: `entries` in number, `size` in bytes of files, `examples` of its paths."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.entries = 0
        self.size = 0
        self.examples: list[str] = []

    def add(self, entry: Entry) -> None:
        self.entries += 1
        self.size += 0 if entry.first else entry.size
        if len(self.examples) < 5:
            self.examples.append(shown(entry.path))


class Report:
    """What became of a tree: what stays, `newest` of its times, what was `dropped` and why; `warnings` for people."""

    def __init__(self) -> None:
        self.dropped: dict[str, Dropped] = {}
        self.entries = 0
        self.size = 0
        self.newest = 0
        self.warnings: list[str] = []

    def drop(self, name: str, reason: str, entry: Entry) -> None:
        self.dropped.setdefault(name, Dropped(reason)).add(entry)


class Packer:
    """One walk's decisions: which entries stay, as what, and in which layer."""

    def __init__(self, recipe: Recipe, packages: Packages) -> None:
        self._filter = recipe.filter()
        self._recipe = recipe
        self._packages = packages
        self._instead: dict[bytes, bytes] = {}  # of a file whose first name does not move: the first that does
        self.report = Report()

    def entries(self, tree: Tree) -> Iterator[tuple[str, Entry, list[Entry]]]:
        """(layer, entry, the directories above it) of all that stays. Raises OSError, TreeError."""
        true: list[Entry] = []
        plain: list[Entry] = []  # the same without their times
        report = self.report
        whole = DIRECTORIES if self._recipe.split else DATA
        for entry in tree.entries():
            if not self._stays(entry):
                continue
            path = entry.path
            while true and true[-1].path and not path.startswith(true[-1].path + b"/"):
                true.pop()
                plain.pop()
            layer = self._layer(entry)
            report.entries += 1
            report.size += 0 if entry.first else entry.size
            report.newest = max(report.newest, entry.mtime)
            yield layer, entry, true if layer == whole else plain
            if entry.kind == "directory":
                true.append(entry)
                plain.append(Entry(path, entry.mode, entry.uid, entry.gid, 0, xattrs=entry.xattrs))

    def wants(self, entry: Entry) -> bool:
        """Whether an entry is needed. Raises TreeError for one that could not be packed."""
        if _is_whiteout(entry.path):
            return False
        rule = self._filter.rule(entry.path)
        if rule is not None and rule.touches(entry.kind) and rule.action != "empty-file":
            return False
        self._check_holes(entry)
        return True

    def _check_holes(self, entry: Entry) -> None:
        if entry.holes > self._recipe.sparse_limit:
            raise TreeError(
                f"{shown(entry.path)} has {entry.holes} bytes of holes in its {entry.size}; an image holds them all",
                "exclude it in the recipe, or raise layers: sparse-limit",
            )

    def _stays(self, entry: Entry) -> bool:
        report = self.report
        if _is_whiteout(entry.path):
            report.drop("whiteouts", "a name that begins with .wh. would take another file out of the image", entry)
            report.warnings.append(f"{shown(entry.path)} does not move: no layer can hold a name that begins with .wh.")
            return False
        if len(entry.path) > _LONGEST:
            raise TreeError(
                f"{shown(entry.path[:200])}... has a path of {len(entry.path)} bytes", "exclude it in the recipe"
            )
        rule = self._filter.rule(entry.path)
        if rule is not None and rule.touches(entry.kind):
            if rule.action == "empty-file" and entry.kind == "file":
                if entry.size:
                    report.drop(rule.name, rule.reason, entry)
                entry.size, entry.open, entry.holes, entry.first = 0, None, 0, b""
                return True
            report.drop(rule.name, rule.reason, entry)
            return False
        if entry.kind in ("socket", "unknown"):
            report.drop("sockets", "a socket is nothing without the process that listens", entry)
            return False
        self._check_holes(entry)
        if entry.holes > 1 << 20:
            report.warnings.append(
                f"{shown(entry.path)} is sparse: its {entry.holes >> 20} MiB of holes are zeros in the image"
            )
        if entry.xattrs:
            entry.xattrs = self._xattrs(entry)
        return True

    def _xattrs(self, entry: Entry) -> tuple[tuple[bytes, bytes], ...]:
        kept = []
        for name, value in entry.xattrs:
            if name.startswith(DROPPED_XATTRS):
                word = f"attribute {name.decode('utf-8', 'replace')}"
                self.report.drop(
                    word, "a mark of the machine's own, of no meaning elsewhere", Entry(entry.path, 0, 0, 0, 0)
                )
            elif b"=" in name:
                self.report.warnings.append(f"{shown(entry.path)}: no layer can hold its attribute {name!r}")
            else:
                kept.append((name, value))
        return tuple(kept)

    def _layer(self, entry: Entry) -> str:
        """The layer of an entry. All names of a file are in one layer, with the first that stays as the file itself."""
        if entry.first:
            rule = self._filter.rule(entry.first)
            if not _is_whiteout(entry.first) and (rule is None or not rule.touches(entry.kind)):
                return self._place(entry.first, entry)
            stays = self._instead.setdefault(entry.first, entry.path)
            entry.first = b"" if stays == entry.path else stays
            return self._place(stays, entry)
        return self._place(entry.path, entry)

    def _place(self, path: bytes, entry: Entry) -> str:
        if not self._recipe.split:
            return DATA
        if entry.kind == "directory":
            return DIRECTORIES
        owner = self._packages.owners.get(path)
        if owner is not None and path not in self._packages.configuration:
            return BASE if self._packages.found[owner].base else PACKAGES
        return _ROOMS.get(path.split(b"/", 1)[0], DATA)
