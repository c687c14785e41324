"""Unpacking layers into a directory that hostile ones can't lead out of, as root or as a plain user.

Every name is resolved inside the root by descriptors; what a layer puts where a link is replaces the link. A layer is
checked against its digest before it is applied, and can be applied again after a killed run. A plain user can't give
files away: owners and device nodes are then written down (compat/unprivileged/owners.py), in attributes that umoci
reads too; a node is an empty file. Source: image-spec, layer.md (whiteouts); openat2(2).
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from ...compat import xattrs
from ...compat.errors import KernelError
from ...compat.files import write_all
from ...compat.rootpath import Root
from ...compat.unprivileged.owners import Owner, Owners, table_of
from ..trees.entry import Entry, opened, shown
from ..trees.paths import Subtrees
from .digest import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .layerreader import LayerReader

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20
_CACHED = 64  # open folders
_MOST_WARNINGS = 1000


class Unpacker:
    """Applies layers to a directory. `owners`: whether files can be given to anybody (root). `warnings` for people."""

    def __init__(self, path: str, native: bool, owners: bool) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a tree of 2,000 levels is open at all of them
        self._root = Root(path, native)
        self._root.attach()
        self._owners = owners
        self._written = None if owners else Owners(os.geteuid(), os.getegid(), table_of(path), path)
        self._folders: OrderedDict[bytes, int] = OrderedDict()
        self._finish: dict[bytes, tuple[int, int]] = {}  # folders: mode and time, which come when all is in them
        self._subtrees: Subtrees | None = None  # of those, once something was taken away
        self._buffer = memoryview(bytearray(_CHUNK))
        self.warnings: list[str] = []
        self.again = False  # a layer is applied a second time, after a run that was cut off amid it

    def close(self) -> None:
        self._forget()
        self._root.close()

    def apply(self, reader: LayerReader, done: Callable[[int], None] = lambda count: None) -> None:
        """Apply one layer. Raises ImageError for what can't be applied, OSError (ENOSPC)."""
        made: set[int] = set()
        for entry in reader:
            try:
                self._apply(entry, made)
            except OSError as error:
                raise OSError(error.errno, error.strerror, shown(entry.path)) from error
            except KernelError as error:
                raise OSError(error.errno, os.strerror(error.errno), shown(entry.path)) from error
            done(reader.unpacked)

    def recall(self, reader: LayerReader, done: Callable[[int], None] = lambda count: None) -> None:
        """Read a layer that is applied already, for what `finish` must know of it."""
        for entry in reader:
            folder, _, name = entry.path.rpartition(b"/")
            if stat.S_ISDIR(entry.mode) and not entry.first:
                self._finish_later(entry)
            elif not name.startswith(_WHITEOUT):
                self._finish.pop(entry.path, None)
            elif name != _OPAQUE:
                self._drop_finish((folder + b"/" if folder else b"") + name[len(_WHITEOUT) :])
            done(reader.unpacked)

    def _drop_finish(self, path: bytes) -> None:
        if self._subtrees is None:
            self._subtrees = Subtrees(self._finish)
        for known in self._subtrees.take(path):
            self._finish.pop(known, None)

    def _finish_later(self, entry: Entry) -> None:
        self._finish[entry.path] = entry.mode, entry.mtime
        if self._subtrees is not None:
            self._subtrees.add(entry.path)

    def finish(self) -> None:
        """Give the folders their modes and times, those below first."""
        self._forget()
        for path in sorted(self._finish, reverse=True):
            mode, mtime = self._finish[path]
            try:
                fd = self._open_folder(path)
            except (OSError, KernelError):
                continue  # a later layer took it away
            os.fchmod(fd, stat.S_IMODE(mode))
            os.utime(fd, ns=(mtime, mtime))
        self._forget()
        self._finish.clear()

    def warn(self, text: str) -> None:
        if len(self.warnings) < _MOST_WARNINGS and text not in self.warnings[-20:]:
            self.warnings.append(text)

    def _forget(self) -> None:
        for fd in self._folders.values():
            os.close(fd)
        self._folders.clear()

    def _open_folder(self, path: bytes) -> int:
        """A descriptor of a folder, links followed inside the root; kept for the next entries."""
        if path in self._folders:
            self._folders.move_to_end(path)
            return self._folders[path]
        handle = self._root.open("/" + os.fsdecode(path))
        try:
            fd = os.open(".", _DIRECTORY, dir_fd=handle)
        finally:
            os.close(handle)
        self._folders[path] = fd
        if len(self._folders) > _CACHED:
            os.close(self._folders.popitem(last=False)[1])
        return fd

    def _parent(self, path: bytes) -> tuple[int, str]:
        """The folder that an entry is to be in, made where it is missing, and the entry's name."""
        folder, _, name = path.rpartition(b"/")
        try:
            return self._open_folder(folder), os.fsdecode(name)
        except FileNotFoundError:
            pass
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
        os.close(self._root.make_directories("/" + os.fsdecode(folder)))
        return self._open_folder(folder), os.fsdecode(name)

    def _apply(self, entry: Entry, made: set[int]) -> None:
        if not entry.path:
            if not stat.S_ISDIR(entry.mode):
                raise ImageError(f"the root of the image is a {entry.kind}")
            self._attributes(entry, self._open_folder(b""))
            return
        if entry.path.rpartition(b"/")[2].startswith(_WHITEOUT):
            self._whiteout(entry, made)
            return
        parent, name = self._parent(entry.path)
        path = entry.path
        while path and (mark := hash(path)) not in made:
            made.add(mark)
            path = path.rpartition(b"/")[0]
        if entry.first:
            self._link(entry, parent, name)
            return
        kind = stat.S_IFMT(entry.mode)
        if kind == stat.S_IFDIR:
            self._directory(entry, parent, name)
            return
        self._remove(parent, name, entry.path)
        if kind == stat.S_IFREG:
            self._file(entry, parent, name)
        elif kind == stat.S_IFLNK:
            os.symlink(entry.target, os.fsencode(name), dir_fd=parent)
            self._attributes_by_name(entry, parent, name)
        else:
            self._node(entry, parent, name)

    def _directory(self, entry: Entry, parent: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._remove(parent, name, entry.path)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        try:
            _bare(fd)
            self._attributes(entry, fd)
            os.fchmod(fd, stat.S_IMODE(entry.mode) | 0o700)
        finally:
            os.close(fd)

    def _file(self, entry: Entry, parent: int, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            with opened(entry) as content:
                while count := content.readinto(self._buffer):
                    write_all(fd, self._buffer[:count])
            self._attributes(entry, fd)
        finally:
            os.close(fd)

    def _node(self, entry: Entry, parent: int, name: str) -> None:
        try:
            os.mknod(name, entry.mode, entry.device, dir_fd=parent)
        except PermissionError:
            if self._owners:
                raise
            self.warn(f"{shown(entry.path)}: a {entry.kind} takes root to make; it is an empty file here")
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent))
        self._attributes_by_name(entry, parent, name)

    def _link(self, entry: Entry, parent: int, name: str) -> None:
        """A second name of a file. The first is looked up inside the root, a link at its end not followed."""
        folder, _, last = entry.first.rpartition(b"/")
        if entry.first == entry.path:
            raise ImageError(f"{shown(entry.path)} is a link to itself")
        try:
            source = self._open_folder(folder)
            os.stat(last, dir_fd=source, follow_symlinks=False)
            self._remove(parent, name, entry.path)
            os.link(os.fsdecode(last), name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError, KernelError) as error:
            if isinstance(error, KernelError) and error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            if self.again and _is_file(parent, name):
                return  # a run that was cut off made it, and took the first name away later in this layer
            raise ImageError(f"{shown(entry.path)} is a link to {shown(entry.first)}, which is not there") from None
        except PermissionError:
            raise ImageError(f"{shown(entry.path)} is a link to {shown(entry.first)}, which is a folder") from None

    def _attributes(self, entry: Entry, fd: int) -> None:
        if stat.S_ISDIR(entry.mode):
            self._finish_later(entry)
        if self._owners:
            os.fchown(fd, entry.uid, entry.gid)
        else:
            self._note_owner(entry, f"/proc/self/fd/{fd}", os.fstat(fd), follow=True)
        for key, value in entry.xattrs:
            self._xattr(entry, fd, os.fsdecode(key), value)
        if not stat.S_ISDIR(entry.mode):
            os.fchmod(fd, stat.S_IMODE(entry.mode))
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _xattr(self, entry: Entry, fd: int, key: str, value: bytes) -> None:
        try:
            xattrs.set(fd, key, value)
        except KernelError as error:
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise
            self.warn(f"{shown(entry.path)}: its attribute {key} can't be set here ({error.message})")

    def _note_owner(self, entry: Entry, path: str, status: os.stat_result, follow: bool) -> None:
        """Write down to whom a plain user's file belongs, for a container whose ids are pretended."""
        if self._written and (entry.uid or entry.gid or entry.device or self._written.has_table):
            mode = entry.mode if entry.device else status.st_mode
            numbers = os.major(entry.device), os.minor(entry.device)
            self._written.set(path, status, Owner(entry.uid, entry.gid, mode, numbers), follow)

    def _attributes_by_name(self, entry: Entry, parent: int, name: str) -> None:
        if self._owners:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        else:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            self._note_owner(entry, f"/proc/self/fd/{parent}/{name}", status, follow=False)
        if not stat.S_ISLNK(entry.mode):
            os.chmod(name, stat.S_IMODE(entry.mode), dir_fd=parent)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
        for key, _ in entry.xattrs:
            self.warn(f"{shown(entry.path)}: the attribute {os.fsdecode(key)} of a {entry.kind} is not set")

    def _whiteout(self, entry: Entry, made: set[int]) -> None:
        """Take away what the layers below have; what this layer itself put there stays."""
        folder, _, name = entry.path.rpartition(b"/")
        try:
            parent = self._open_folder(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        except KernelError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        prefix = folder + b"/" if folder else b""
        if name == _OPAQUE:
            for found in os.listdir(parent):
                below = prefix + os.fsencode(found)
                if hash(below) not in made:
                    self._remove(parent, found, below)
            return
        if name.startswith(b".wh..wh."):
            return  # what AUFS kept for itself
        hidden = name[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise ImageError(f"{shown(entry.path)} is no whiteout that makes sense")
        if hash(prefix + hidden) not in made:
            self._remove(parent, os.fsdecode(hidden), prefix + hidden)

    def _remove(self, parent: int, name: str, path: bytes) -> None:
        """Take away what is at a name, a folder with all that is in it; nothing, where nothing is."""
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            _remove_tree(parent, name)
            self._drop_finish(path)
        else:
            os.unlink(name, dir_fd=parent)
            if not stat.S_ISLNK(mode):
                return
        # a descriptor must not serve for what comes in the place of a folder, or of a link to one, by whatever name
        folder = path.rpartition(b"/")[0]
        keep = self._folders.pop(folder, -1)
        self._forget()
        if keep >= 0:  # the caller works in it
            self._folders[folder] = keep


def _remove_tree(parent: int, name: str) -> None:
    """Remove a folder of any depth by descriptors, no link followed."""
    top = os.open(name, _DIRECTORY, dir_fd=parent)
    stack = [(parent, name, top, iter(os.listdir(top)))]
    while stack:
        above, title, fd, names = stack[-1]
        found = next(names, None)
        if found is None:
            os.close(fd)
            stack.pop()
            os.rmdir(title, dir_fd=above)
            continue
        try:
            os.unlink(found, dir_fd=fd)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            below = os.open(found, _DIRECTORY, dir_fd=fd)
            stack.append((fd, found, below, iter(os.listdir(below))))


def _is_file(parent: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _bare(fd: int) -> None:
    """Take the attributes away that a lower layer gave a folder: the entry at hand has all that it shall have."""
    try:
        names = xattrs.names(fd)
    except KernelError:
        return
    for name in names:
        if name.startswith(("user.", "system.posix_acl_")):
            xattrs.remove(fd, name)
