"""A tarball application: a tar, compressed or not, a zip or a folder, whose files go below a prefix and are root's.

An archive with a whole root file system in it is a machine like any other, and stays where it is.
"""

from __future__ import annotations

import calendar
import os
import re
import stat
import zipfile
from typing import IO, TYPE_CHECKING

from ...compat.errors import UsageError
from ..disks import mounting
from ..image import compress, tarheader
from ..image.digest import of_file
from ..inventory.application import look
from ..trees.entry import Entry, TreeError
from ..trees.folder import FolderTree
from ..trees.layers import ArchiveTree
from ..trees.moved import MovedTree
from .contract import Opened, Options

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..trees.entry import Tree

_CHUNK = 1 << 20
_LARGEST = 1 << 40  # of what an archive unpacks to
_ARCHIVES_OF_JAVA = (".jar", ".war")
_ENDINGS = re.compile(r"(\.tar)?\.(jar|war|gz|bz2|xz|zst|tgz|tbz2?|txz|zip|tar)$|\.tar$", re.IGNORECASE)
_VERSION = re.compile(r"[-_.]v?\d+(\.\d+)*([-_.](bin|dist|linux|x86_64|amd64|x64|release|final))*$", re.IGNORECASE)


def is_archive(path: str) -> bool:
    """Whether a file is a tar, compressed or not, or a zip."""
    broken: tuple[type[Exception], ...] = (OSError, *compress.errors())
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            if head.startswith(b"PK\x03\x04") or head[257:262] == b"ustar":
                return True
            kind = compress.kind_of(head[:6])
            if kind == "none":
                return False
            file.seek(0)
            block = bytearray(512)
            return compress.reader(file, kind).readinto(memoryview(block)) >= 262 and block[257:262] == b"ustar"
    except broken:
        return False


def is_single(path: str) -> bool:
    """Whether a file is an application by itself: a program, a script, an archive of Java."""
    if path.lower().endswith(_ARCHIVES_OF_JAVA):
        return os.path.isfile(path)
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError:
        return False
    return head == b"\x7fELF" or (head[:2] == b"#!" and os.access(path, os.X_OK))


def is_system(tree: Tree) -> bool:
    """Whether a tree is a root file system. A folder of an application may have an etc and a bin of its own."""
    return tree.status(b"etc") is not None and (tree.status(b"usr") is not None or mounting.is_system(tree))


class ApplicationSource:
    """An archive or folder. `options.kind` says "machine" or "application" where the files do not tell."""

    def __init__(self, path: str, options: Options, done: Callable[[str, float], None]) -> None:
        self._path = path
        self._options = options
        self._done = done
        self._spool = ""
        self._folder: FolderTree | None = None
        self._digest = ""

    def __enter__(self) -> Opened:
        path = self._path
        tree: Tree
        if os.path.isdir(path):
            tree = self._folder = FolderTree(path)
        else:
            self._spool = os.path.join(self._options.work, "archive.unpacked")
            self._unpack()
            tree = ArchiveTree([self._spool])
        title = os.path.basename(os.path.abspath(path))
        is_machine = not is_single(path) and is_system(tree)
        kind = self._options.kind or ("machine" if is_machine else "application")
        if kind == "machine":
            opened = Opened(tree, "folder", title)
            opened.facts = {"reader": "folder" if self._folder else "archive"}
            return opened
        name = _VERSION.sub("", _ENDINGS.sub("", title)) or "application"
        prefix = (self._options.prefix or f"/opt/{name}").strip("/")
        if not prefix or ".." in prefix.split("/"):
            raise UsageError(f"--prefix {self._options.prefix}: not a folder of an image", "such as /opt/app")
        moved = MovedTree(tree, b"" if self._folder else _top(tree), prefix.encode())
        opened = Opened(moved, "application", title)
        opened.facts = {"reader": "folder" if self._folder else "archive", "prefix": "/" + prefix}
        opened.application = look(moved, prefix.encode())
        opened.architecture = opened.application.architecture
        return opened

    def _unpack(self) -> None:
        """Put the archive into the work folder as a plain tar, and note its digest."""
        self._digest = of_file(self._path)
        if is_single(self._path):
            with open(self._spool, "wb") as target:
                _from_file(self._path, target)
            return
        with open(self._path, "rb") as file:
            head = file.read(6)
            file.seek(0)
            broken: tuple[type[Exception], ...] = (*compress.errors(), zipfile.BadZipFile, RuntimeError)  # encrypted
            try:
                with open(self._spool, "wb") as target:
                    if head.startswith(b"PK"):
                        _from_zip(self._path, target)
                    else:
                        _copy(
                            compress.reader(file, compress.kind_of(head)),
                            target,
                            os.path.getsize(self._path),
                            self._done,
                        )
            except broken as error:
                raise TreeError(f"{self._path} is a damaged archive: {error}") from None
            except OSError as error:
                if error.errno is None:
                    raise TreeError(f"{self._path} is a damaged archive: {error}") from None
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.close()
        if self._spool and os.path.lexists(self._spool):
            os.unlink(self._spool)

    def complete(self, wants: Callable[[Entry], bool]) -> None:
        """It is all here."""

    def digest(self) -> str:
        """Of an archive its file's."""
        return self._digest


def _from_file(path: str, target: IO[bytes]) -> None:
    """One file as a tar."""
    status = os.stat(path)
    mode = 0o644 if path.lower().endswith(_ARCHIVES_OF_JAVA) else 0o755
    entry = Entry(os.fsencode(os.path.basename(path)), stat.S_IFREG | mode, 0, 0, status.st_mtime_ns)
    entry.size = status.st_size
    target.write(tarheader.header(entry))
    with open(path, "rb") as file:
        left = entry.size
        while data := file.read(min(_CHUNK, left)):
            target.write(data)
            left -= len(data)
    if left:
        raise TreeError(f"{path} became shorter while it was read")
    target.write(tarheader.padding(entry.size))
    target.write(tarheader.END)


def _top(tree: Tree) -> bytes:
    """The one folder that everything of an archive is in, or b""."""
    names = tree.names(b"")
    if len(names) != 1:
        return b""
    entry = tree.status(names[0])
    return names[0] if entry is not None and entry.kind == "directory" else b""


def _copy(stream: compress.Stream, target: IO[bytes], size: int, done: Callable[[str, float], None]) -> None:
    total = 0
    buffer = memoryview(bytearray(_CHUNK))
    while count := stream.readinto(buffer):
        target.write(buffer[:count])
        total += count
        if total > _LARGEST:
            raise TreeError(f"the archive unpacks to more than {_LARGEST >> 40} TiB")
        done("unpacking the archive", min(total / (size * 4 + 1), 1))


def _from_zip(path: str, target: IO[bytes]) -> None:
    """A zip's members as a tar. Names are checked where the tar is read. Source: APPNOTE.TXT, 4.4.15."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode)
            if info.is_dir():
                kind = stat.S_IFDIR
            elif kind != stat.S_IFLNK:
                kind = stat.S_IFREG
            permissions = mode & 0o7777 or (0o755 if kind == stat.S_IFDIR else 0o644)
            name = info.filename.replace("\\", "/").strip("/").encode("utf-8", "surrogateescape")
            entry = Entry(name, kind | permissions, 0, 0, _when(info))
            if kind == stat.S_IFLNK:
                if info.file_size > 4096:
                    raise zipfile.BadZipFile("a link to too long a path")
                entry.target = archive.read(info)
                target.write(tarheader.header(entry))
                continue
            entry.size = info.file_size if kind == stat.S_IFREG else 0
            target.write(tarheader.header(entry))
            if entry.size:
                _member(archive, info, target)
                target.write(tarheader.padding(entry.size))
        target.write(tarheader.END)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: IO[bytes]) -> None:
    left = info.file_size
    with archive.open(info) as content:
        while data := content.read(min(_CHUNK, left)):
            target.write(data)
            left -= len(data)
    if left:
        raise zipfile.BadZipFile(f"{info.filename!r} is shorter than it says")


def _when(info: zipfile.ZipInfo) -> int:
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0)) * 1_000_000_000
    except (OverflowError, ValueError):
        return 0
