"""Reading a guest by the kernel's own file systems: its volumes mounted read-only in a mount namespace of joey's own.

Nothing of a source is written: what needs its journal replayed, or lies in pieces, is copied first. The mounts and the
loop devices end with the process, however it ends. Source: mount(2), loop(4).
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from struct import pack
from typing import TYPE_CHECKING

from ...compat import libc, loopdevice
from ...compat.constants import (
    CLONE_NEWNS,
    MNT_DETACH,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
)
from ...compat.errors import KernelError
from ...compat.rootpath import Root
from ..trees.entry import text
from ..trees.folder import FolderTree
from . import guest
from .blocks import DiskError, Extent
from .volumes import Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..trees.entry import Tree

_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
_FICLONERANGE = 0x4020940D
_BTRFS_FORGET = 0x50009405
_CHUNK = 4 << 20
_SUBVOLUMES = ("@", "root", "@rootfs", "@root")  # what distributions call the one that the root is in
_MOST_SUBVOLUMES = 200
_SYSTEM = ("etc/fstab", "etc/os-release", "etc/redhat-release", "etc/debian_version", "etc/passwd")


class CanNotMount(DiskError):
    """This kernel, or this user, can't mount what another reader may be able to read."""


class Mounts:
    """The mounts of one guest, below a folder. `ours` are the raw files that joey made and may write to."""

    def __init__(self, folder: str, ours: set[str]) -> None:
        self._folder = folder
        self._ours = ours
        self._places: dict[Volume, str] = {}
        self._copies: dict[Volume, int] = {}
        self._devices: dict[Volume, tuple[int, str]] = {}  # loop devices, held open, and their nodes
        self._targets: list[str] = []
        self._count = 0
        self._volumes: list[Volume] = []

    def enter(self) -> None:
        """Take a mount namespace of joey's own. Raises DiskError without the privilege."""
        try:
            libc.unshare(CLONE_NEWNS)
            libc.mount("none", "/", "", MS_REC | MS_PRIVATE)
        except KernelError as error:
            hint = "run as root; or --reader dissect (pip install 'joey[dissect]')"
            raise CanNotMount(f"mounting a disk takes root: {error.message}", hint) from None

    def place(self, volume: Volume, subvolume: str = "") -> str:
        """Where a volume is mounted by now, or its `subvol=NAME` or `subvolid=N`. Raises DiskError."""
        if not subvolume and volume in self._places:
            return self._places[volume]
        self._count += 1
        target = os.path.join(self._folder, f"volume-{self._count}")
        os.makedirs(target, mode=0o700, exist_ok=True)
        try:
            self._mount(volume, target, subvolume)
        except KernelError as error:
            if error.errno != errno.EROFS or volume in self._copies:
                raise _refused(volume, error) from None
            # XFS tells of a dirty log by refusing to mount what it can't write to
            self._copy(volume)
            try:
                self._mount(volume, target, subvolume)
            except KernelError as again:
                raise _refused(volume, again) from None
        if not subvolume:
            self._places[volume] = target
        return target

    def _mount(self, volume: Volume, target: str, subvolume: str) -> None:
        system = volume.file_system
        assert system
        options = []
        if system.type == "xfs":
            options.append("nouuid")
        if subvolume:
            if "," in subvolume:
                raise DiskError(f"{volume.title}: joey can't mount a subvolume with a comma in its name")
            options.append(subvolume)
        others = [other for other in self._volumes if other is not volume and guest.is_one(volume, other)]
        options += [f"device={self._node(other)}" for other in others]
        kind = "ext4" if system.type.startswith("ext") else system.type
        libc.mount(self._node(volume), target, kind, _FLAGS, ",".join(options))
        self._targets.append(target)

    def _node(self, volume: Volume) -> str:
        """The loop device of a volume: one for all its mounts, for btrfs takes no second one for a file system."""
        if volume not in self._devices:
            if volume not in self._copies:
                self._prepare(volume)
            self._devices[volume] = self._attach(volume)
            if volume.type == "btrfs":
                _forget(self._devices[volume][1])  # what it was of before
        return self._devices[volume][1]

    def _attach(self, volume: Volume) -> tuple[int, str]:
        if volume in self._copies:
            return loopdevice.attach(self._copies[volume], volume.title)
        (extent,) = volume.blocks.extents
        file = os.open(extent.path, (os.O_RDWR if extent.path in self._ours else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            return loopdevice.attach(file, volume.title, extent.offset, extent.size)
        finally:
            os.close(file)

    def _prepare(self, volume: Volume) -> None:
        """Copy a volume that lies in pieces, or that has a journal to replay and is not joey's own to write."""
        extents = volume.blocks.extents
        assert volume.file_system
        if len(extents) != 1 or (volume.file_system.dirty and extents[0].path not in self._ours):
            self._copy(volume)

    def _copy(self, volume: Volume) -> None:
        if volume in self._devices:
            os.close(self._devices.pop(volume)[0])
        self._count += 1
        path = os.path.join(self._folder, f"volume-{self._count}.raw")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.unlink(path)  # it lives as long as it is used
        try:
            copy(volume.blocks.extents, fd)
        except OSError as error:
            os.close(fd)
            raise DiskError(
                f"{volume.title} can't be copied to {self._folder}: {error.strerror}", "--work DIR"
            ) from None
        self._copies[volume] = fd

    def leave(self) -> None:
        """Unmount everything; the namespace stays."""
        for target in reversed(self._targets):
            with suppress(KernelError):
                libc.umount(target, MNT_DETACH)
        self._targets.clear()
        for volume, (fd, node) in self._devices.items():
            if volume.file_system and volume.file_system.devices > 1:
                _forget(node)
            os.close(fd)
        self._devices.clear()
        for fd in self._copies.values():
            os.close(fd)
        self._copies.clear()

    def root(self, volumes: list[Volume], wanted: str = "") -> tuple[Volume, str]:
        """The volume with the guest's root file system, and where it is mounted. Raises DiskError."""
        self._volumes = volumes
        readable = guest.candidates(volumes, wanted)
        found: list[tuple[Volume, str]] = []
        failures = []
        for volume in readable:
            try:
                mounted = self.place(volume)
            except DiskError as error:
                failures.append(error)
                continue
            subvolume = _system_in(volume, mounted)
            if subvolume is not None:
                found.append((volume, self.place(volume, f"subvol={subvolume}") if subvolume else mounted))
        if len(found) > 1:
            names = ", ".join(volume.title for volume, _ in found)
            raise DiskError(f"more than one root file system: {names}", "--root-volume NAME takes one of them")
        if not found:
            if failures:
                raise failures[0]
            raise DiskError("no root file system on the disks given", guest.told(volumes))
        return found[0]

    def join(self, root: str, mounts: list[guest.Mount]) -> None:
        """Mount the guest's other volumes at their places below its root. Raises DiskError."""
        for mount in mounts:
            place = self.place(mount.volume, mount.subvolume)
            inside = Root(root, native=False)
            inside.attach()
            try:
                fd = inside.open(mount.target)
            except OSError as error:
                raise DiskError(f"fstab: {mount.target} is no directory of the guest: {error.strerror}") from None
            finally:
                inside.close()
            try:
                libc.mount(place, f"/proc/self/fd/{fd}", "", MS_BIND)
            except KernelError as error:
                raise DiskError(f"{mount.volume.title} can't be mounted at {mount.target}: {error.message}") from None
            finally:
                os.close(fd)


def _forget(node: str) -> None:
    """Have the kernel know a device as no btrfs's any more. Those of one on several devices it keeps, and takes another
    file system on one of them for a part of that. Source: btrfs-device(8), scan --forget; Linux 5.1.
    """
    with suppress(OSError):  # it is in use, not known, or the kernel is older
        control = os.open("/dev/btrfs-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(control, _BTRFS_FORGET, bytearray(pack("<q4088s", 0, os.fsencode(node))))
        finally:
            os.close(control)


def _refused(volume: Volume, error: KernelError) -> DiskError:
    word = f"{volume.title} ({volume.type}) can't be mounted: {os.strerror(error.errno)}"
    if error.errno in (errno.ENODEV, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS):
        return CanNotMount(word, "as root, on a kernel with that file system; or --reader dissect")
    return DiskError(word, "it may be damaged; --reader dissect reads what it can")


def _system_in(volume: Volume, mounted: str) -> str | None:
    """The subvolume of btrfs that has the root of a system, "" for the volume itself, None for none."""
    tree = FolderTree(mounted)
    try:
        if is_system(tree, b""):
            return ""
        if volume.type == "btrfs":
            # mounted by its name, so that nothing of a link there is followed on this machine
            names = [name for name in tree.names(b"")[:_MOST_SUBVOLUMES] if _is_folder(tree, name)]
            systems = [os.fsdecode(name) for name in names if is_system(tree, name + b"/")]
            known = [name for name in _SUBVOLUMES if name in systems]
            if not known and len(systems) > 1:
                words = ", ".join(map(ascii, systems[:5]))
                raise DiskError(
                    f"{volume.title} has more than one root file system in it: {words}",
                    "one of them as a folder: mount it, joey migrate DIR",
                )
            return next(iter(known or systems), None)
    finally:
        tree.close()
    return None


def _is_folder(tree: FolderTree, name: bytes) -> bool:
    entry = tree.entry_at(name)
    return entry is not None and entry.kind == "directory"


def is_system(tree: Tree, prefix: bytes = b"") -> bool:
    """Whether there is the root file system of a system at a place of a tree."""
    known = sum(tree.status(prefix + name.encode()) is not None for name in _SYSTEM)
    return known >= 1 and any(tree.status(prefix + name) is not None for name in (b"usr", b"bin", b"sbin"))


class Guest:
    """A guest's joined file systems, as a tree in a folder, until `close`."""

    def __init__(self, mounts: Mounts, tree: FolderTree, volume: Volume, layout: guest.Layout) -> None:
        self._mounts = mounts
        self.tree = tree
        self.volume = volume
        self.layout = layout
        self.notes: list[str] = []

    def close(self) -> None:
        """Unmount everything."""
        self.tree.close()
        self._mounts.leave()


def mount_guest(folder: str, ours: set[str], volumes: list[Volume], wanted: str, skipped: list[str]) -> Guest:
    """Mount a guest's volumes as its fstab says. `skipped` are mount points to do without. Raises DiskError."""
    mounts = Mounts(folder, ours)
    mounts.enter()
    try:
        volume, place = mounts.root(volumes, wanted)
        tree = FolderTree(place)
        try:
            found = guest.layout(guest.parse(text(tree, b"etc/fstab", 1 << 20)), volume, volumes)
        finally:
            tree.close()
        guest.check(found, skipped)
        mounts.join(place, [mount for mount in found.mounts if mount.target not in skipped])
        return Guest(mounts, FolderTree(place), volume, found)
    except BaseException:
        mounts.leave()
        raise


def copy(extents: list[Extent], target: int, done: Callable[[int], None] = lambda count: None) -> None:
    """Put extents one after the other in an empty file: shared blocks where the file system can, holes stay holes."""
    size = sum(extent.size for extent in extents)
    os.ftruncate(target, size)
    at = 0
    for extent in extents:
        if extent.path:
            source = os.open(extent.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _copy_one(source, extent, target, at)
            finally:
                os.close(source)
        at += extent.size
        done(at)


def _copy_one(source: int, extent: Extent, target: int, at: int) -> None:
    try:
        fcntl.ioctl(target, _FICLONERANGE, pack("<qQQQ", source, extent.offset, extent.size, at))
        return
    except OSError:
        pass  # another file system, or one without shared blocks
    end = extent.offset + extent.size
    place = extent.offset
    while place < end:
        try:
            start = os.lseek(source, place, os.SEEK_DATA)
            stop = min(end, os.lseek(source, start, os.SEEK_HOLE))
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole is left
            start, stop = place, end
        while start < stop:
            data = os.pread(source, min(_CHUNK, stop - start), start)
            if not data:
                return
            if data.count(0) != len(data):
                os.pwrite(target, data, at + start - extent.offset)
            start += len(data)
        place = stop
