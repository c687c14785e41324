"""The contract of what a migration reads: a `Tree` of `Entry`s in one order, the same for every way of reading.

Paths are bytes from the root, without a slash at either end; b"" is the root itself. The order is that of a walk which
takes the names of each directory sorted as bytes: a directory before what is in it.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Protocol

from ...compat.errors import JoeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

LARGEST_READ = 16 << 20  # of a file that is read whole


class Content(Protocol):
    """A file's bytes, once, from the beginning."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a buffer as far as it goes; 0 at the end. Raises OSError."""

    def close(self) -> None: ...


class Entry:
    """One thing of a tree.

    `mode` is st_mode, type included; `mtime` in nanoseconds since 1970, before it negative; `target` a symbolic link's
    text; `device` st_rdev of a device node; `xattrs` sorted pairs; `first` the path of an earlier entry that is the
    same file (a hard link), b"" for none; `holes` how many bytes of a file have no blocks. `open` gives the content of
    a regular file, and works while the walk stands at the entry.
    """

    __slots__ = ("device", "first", "gid", "holes", "mode", "mtime", "open", "path", "size", "target", "uid", "xattrs")

    def __init__(
        self,
        path: bytes,
        mode: int,
        uid: int,
        gid: int,
        mtime: int,
        size: int = 0,
        target: bytes = b"",
        device: int = 0,
        xattrs: tuple[tuple[bytes, bytes], ...] = (),
        first: bytes = b"",
        holes: int = 0,
        open: Callable[[], Content] | None = None,
    ) -> None:
        self.path = path
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.size = size
        self.target = target
        self.device = device
        self.xattrs = xattrs
        self.first = first
        self.holes = holes
        self.open = open

    @property
    def kind(self) -> str:
        """The word for what it is: "file", "directory", "link", ..."""
        return KINDS.get(stat.S_IFMT(self.mode), "unknown")

    def __repr__(self) -> str:
        return f"<{self.kind} {self.path!r}>"


KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


class Tree(Protocol):
    """A root file system to read. `losses`: what this way of reading can't see, one sentence each."""

    losses: list[str]

    def entries(self) -> Iterator[Entry]:
        """Every entry, in order. Raises OSError, TreeError."""

    def status(self, path: bytes) -> Entry | None:
        """What is at a path, links followed inside the tree, or None. Its content can be opened."""

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, sorted; [] where there is none."""

    def resolve(self, path: bytes) -> bytes:
        """Where a path leads, links followed inside the tree; the path itself as far as there is nothing."""


class TreeError(JoeyError):
    """A source can't be read as a tree."""

    slug = "source"


def read(tree: Tree, path: bytes, limit: int = LARGEST_READ) -> bytes | None:
    """A small file's content, links followed inside the tree; None for no file. Raises OSError, TreeError."""
    entry = tree.status(path)
    if entry is None or entry.open is None:
        return None
    if entry.size > limit:
        raise TreeError(f"{shown(path)} has {entry.size} bytes: too large to be what its name says")
    return first_bytes(entry, entry.size)


def first_bytes(entry: Entry, most: int) -> bytes:
    """The beginning of an entry's content, so many bytes at most. Raises OSError, TreeError."""
    data = bytearray(min(entry.size, most))
    view, filled = memoryview(data), 0
    if data:
        with opened(entry) as content:
            while filled < len(data) and (count := content.readinto(view[filled:])):
                filled += count
    return bytes(view[:filled])


def text(tree: Tree, path: bytes, limit: int = LARGEST_READ) -> str:
    """The same as text; "" where there is no file."""
    return (read(tree, path, limit) or b"").decode("utf-8", "surrogateescape")


class _Opened:
    def __init__(self, content: Content) -> None:
        self.content = content

    def __enter__(self) -> Content:
        return self.content

    def __exit__(self, *_: object) -> None:
        self.content.close()


def opened(entry: Entry) -> AbstractContextManager[Content]:
    """An entry's content, closed at the end of a `with`."""
    assert entry.open is not None, entry
    return _Opened(entry.open())


def link_together(group: list[Entry], order: Callable[[bytes], bytes]) -> None:
    """Have the first of a file's names, in a walk's order, be the one that the others are links to."""
    lowest = min(group, key=lambda entry: order(entry.path))
    for entry in group:
        entry.first = b"" if entry is lowest else lowest.path


def shown(path: bytes) -> str:
    """A path for people: with its first slash, and nothing in it that a terminal would obey."""
    word = "/" + path.decode("utf-8", "surrogateescape")
    return word if word.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in word)
