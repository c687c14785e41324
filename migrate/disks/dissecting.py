"""Reading a guest without mounting it, by the dissect libraries: for plain users, and for what this kernel can't mount.

They are an extra (`pip install 'joey[dissect]'`), since their licence is the AGPL. What they do not read is told as a
loss: no journal of XFS and btrfs is replayed, and attributes that XFS keeps outside of its inodes are not read.
"""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ...compat.errors import JoeyError
from ...compat.files import find_program
from ..trees.entry import Entry, TreeError, shown, text
from ..trees.folder import MAX_DEPTH
from ..trees.paths import resolve
from . import guest
from .blocks import Blocks, DiskError, Extent
from .dissected import Btrfs, Ext, Stream, System, Xfs
from .mounting import copy, is_system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..trees.entry import Content
    from .volumes import Volume

_HINT = "the disk may be damaged; or: --reader mount"
_NO_DISSECT = DiskError("the dissect libraries are not in this Python", "pip install 'joey[dissect]'")


def is_here() -> bool:
    """Whether the libraries are installed."""
    return find_spec("dissect") is not None and find_spec("dissect.extfs") is not None


class DissectTree:
    """The joined file systems of a guest. `mounts` are path -> system, the root at b""."""

    def __init__(self, mounts: dict[bytes, System]) -> None:
        self.losses: list[str] = []  # complete when the walk is
        self._mounts = mounts
        self._listing: Callable[[bytes], tuple[dict[bytes, Any], System]] = lru_cache(64)(self._list)

    def entries(self) -> Iterator[Entry]:
        """Every entry, in order. Raises TreeError for what the libraries can't read."""
        seen: dict[tuple[int, int], bytes] = {}
        root = self._mounts[b""]
        yield self._made(root, root.root(), b"", seen)
        stack = [(b"", root, iter(sorted(self._listing(b"")[0].items())))]
        while stack:
            folder, system, children = stack[-1]
            name, node = next(children, (b"", None))
            if node is None:
                stack.pop()
                continue
            path = folder + b"/" + name if folder else name
            inside = self._mounts.get(path)
            if inside is not None:
                node = inside.root()
            entry = self._made(inside or system, node, path, seen)
            yield entry
            if entry.kind == "directory":
                if len(stack) >= MAX_DEPTH:
                    raise TreeError(f"{shown(path)} is more than {MAX_DEPTH} directories deep")
                stack.append((path, inside or system, iter(sorted(self._listing(path)[0].items()))))
        found = [item for system in self._mounts.values() for item in system.losses.items()]
        self.losses[:] = [f"{what} of {count} entries: not read" for what, count in found]

    def _made(self, system: System, node: Any, path: bytes, seen: dict[tuple[int, int], bytes] | None) -> Entry:
        try:
            entry, links = system.entry(node, path)
        except Exception as error:  # each library has its own
            raise TreeError(f"{shown(path)} can't be read: {error}", _HINT) from None
        if seen is not None and links > 1 and entry.kind != "directory":
            first = seen.setdefault((id(system), node.inum), path)
            entry.first = b"" if first == path else first
        if entry.open is not None:
            entry.open = _opener(node, path)
        return entry

    def _list(self, path: bytes) -> tuple[dict[bytes, Any], System]:
        """The children of a directory by their names, and the file system that it is in. Raises KeyError."""
        if path in self._mounts:
            system = self._mounts[path]
            node = system.root()
        else:
            folder, _, name = path.rpartition(b"/")
            siblings, system = self._listing(folder)
            node = siblings[name]
        try:
            return dict(system.children(node)), system
        except Exception as error:  # each library has its own
            raise TreeError(f"{shown(path)} can't be listed: {error}", _HINT) from None

    def _find(self, path: bytes) -> tuple[System, Any] | None:
        if path in self._mounts:
            return self._mounts[path], self._mounts[path].root()
        folder, _, name = path.rpartition(b"/")
        try:
            siblings, system = self._listing(folder)
        except (KeyError, NotADirectoryError, TreeError):
            return None
        return (system, siblings[name]) if name in siblings else None

    def status(self, path: bytes) -> Entry | None:
        found = self.resolve(path)
        place = self._find(found)
        return self._made(*place, found, None) if place is not None else None

    def names(self, path: bytes) -> list[bytes]:
        try:
            return sorted(self._listing(self.resolve(path))[0])
        except (KeyError, NotADirectoryError, TreeError):
            return []

    def resolve(self, path: bytes) -> bytes:
        return resolve(path, self._link)

    def _link(self, path: bytes) -> bytes | None:
        place = self._find(path)
        if place is None:
            return None
        entry = self._made(*place, path, None)
        return entry.target if entry.kind == "link" else None


class _Content:
    """A file's content; what the libraries make of a damaged one is a TreeError."""

    def __init__(self, node: Any, path: bytes) -> None:
        self._path = path
        try:
            self._stream = node.open()
        except Exception as error:
            raise self._bad(error) from None

    def readinto(self, buffer: memoryview) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except Exception as error:
            raise self._bad(error) from None

    def close(self) -> None:
        self._stream.close()

    def _bad(self, error: Exception) -> TreeError:
        return TreeError(f"{shown(self._path)} can't be read: {error}", _HINT)


def _opener(node: Any, path: bytes) -> Callable[[], Content]:
    return lambda: _Content(node, path)


def _open(volume: Volume, subvolume: str, work: str) -> System:
    """A volume's file system. Raises DiskError."""
    assert volume.file_system
    kind = volume.file_system.type
    try:
        if kind.startswith("ext"):
            blocks = _replayed(volume, work) if volume.file_system.dirty else volume.blocks
            return Ext(Stream(blocks))
        if kind == "xfs":
            return Xfs(Stream(volume.blocks))
        return Btrfs(Stream(volume.blocks), subvolume)
    except ImportError:
        raise _NO_DISSECT from None
    except JoeyError:
        raise
    except Exception as error:
        raise DiskError(f"{volume.title} ({kind}) can't be read: {error}", "--reader mount") from None


def _replayed(volume: Volume, work: str) -> Blocks:
    """A copy of an ext volume with its journal replayed, by e2fsck, which takes no privilege. Raises DiskError."""
    tool = find_program("e2fsck")
    if not tool:
        raise DiskError(f"{volume.title} has a journal to replay, and there is no e2fsck here", "install e2fsprogs")
    path = os.path.join(work, f"journal-{os.getpid()}-{id(volume):x}.raw")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        copy(volume.blocks.extents, fd)
        done = subprocess.run(
            [tool, "-fy", "-E", "journal_only", path],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode > 2:
            raise DiskError(f"{volume.title}: its journal can't be replayed: {done.stderr.strip()[-200:]}")
        blocks = Blocks([Extent(path, 0, os.fstat(fd).st_size)])
        blocks.read(0, 1)  # opens it: the name is not needed any more
    finally:
        os.close(fd)
        os.unlink(path)
    return blocks


class DissectGuest:
    """A guest read by dissect, with the same parts as one that is mounted."""

    def __init__(self, tree: DissectTree, volume: Volume, layout: guest.Layout, notes: list[str]) -> None:
        self.tree = tree
        self.volume = volume
        self.layout = layout
        self.notes = notes

    def close(self) -> None:
        """Nothing is mounted."""


def read_guest(work: str, volumes: list[Volume], wanted: str, skipped: list[str]) -> DissectGuest:
    """Read a guest's volumes as its fstab says. `skipped` are mount points to do without. Raises DiskError."""
    found: list[tuple[Volume, System]] = []
    for volume in guest.candidates(volumes, wanted):
        for subvolume in ("", "subvol=@", "subvol=root", "subvol=@rootfs") if volume.type == "btrfs" else ("",):
            try:
                system = _open(volume, subvolume, work)
            except DiskError:
                if subvolume:
                    continue
                raise
            if is_system(DissectTree({b"": system})):
                found.append((volume, system))
                break
    if not found:
        raise DiskError("no root file system on the disks given", guest.told(volumes))
    if len(found) > 1:
        raise DiskError(
            "more than one root file system: " + ", ".join(v.title for v, _ in found),
            "--root-volume NAME takes one of them",
        )
    volume, system = found[0]
    tree = DissectTree({b"": system})
    layout = guest.layout(guest.parse(text(tree, b"etc/fstab", 1 << 20)), volume, volumes)
    guest.check(layout, skipped)
    mounts = {b"": system}
    for mount in layout.mounts:
        if mount.target not in skipped:
            joined = DissectTree(mounts)
            place = joined.resolve(mount.target.encode("utf-8", "surrogateescape"))
            found_there = joined.status(place)
            if found_there is None or found_there.kind != "directory":
                raise DiskError(f"fstab mounts {mount.volume.title} at {mount.target}, which is no folder there",
                                f"--skip-mount {mount.target} does without it")  # fmt: skip
            mounts[place] = _open(mount.volume, mount.subvolume, work)
    used = dict.fromkeys([volume, *(mount.volume for mount in layout.mounts)])
    notes = [
        f"{each.title} ({each.type}): its journal is not replayed by this reader; a disk in use loses its last moments"
        for each in used
        if each.type in ("xfs", "btrfs")
    ]
    return DissectGuest(DissectTree(mounts), volume, layout, notes)
