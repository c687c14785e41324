"""The child's steps that build the root: mounts, cgroups shown, masks, read-only places, and the change of root.

They run in the new mount namespace while the host's tree is still there. Every target is resolved inside the root file
system by `Root` and mounted on by descriptor, so that no link in an image leads a mount out of it.
"""

from __future__ import annotations

import errno
import os
import stat

from ...compat import files, libc, mounting, procfs
from ...compat.constants import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)
from ...compat.errors import KernelError, StepError
from ...compat.mountflags import PROPAGATION, MountOptions
from ...compat.mounting import at
from ...compat.rootpath import Root
from ..bundle import is_bind
from . import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# File systems whose files have no label of their own (linux.mountLabel)
LABELLED = ("tmpfs", "devpts", "mqueue", "overlay", "ramfs")


class CutPropagation(Step):
    """Stop mounts of the container from reaching the host."""

    __slots__ = ("propagation", "root")

    def __init__(self, root: Root, propagation: str) -> None:
        self.root = root
        self.propagation = propagation

    def describe(self) -> str:
        return f"make / {self.propagation or 'rslave'}"

    def run(self) -> None:
        libc.mount("", "/", "", PROPAGATION.get(self.propagation, MS_SLAVE | MS_REC))
        mounting.make_rootfs_parent_private(self.root.path)


class BindRoot(Step):
    """Make the root file system a mount of its own: from itself, or from where its quota has it."""

    __slots__ = ("extra", "root", "source")

    def __init__(self, root: Root, source: str, extra: int) -> None:
        self.root = root
        self.source = source
        self.extra = extra  # MS_NOSUID where no_new_privs is given by nosuid mounts

    def describe(self) -> str:
        return f"bind {self.source} on {self.root.path if self.source != self.root.path else 'itself'}"

    def run(self) -> None:
        libc.mount(self.source, self.root.path, "", MS_BIND | MS_REC)
        if self.extra:
            mounting.remount_by_bind(self.root.path, self.extra)
        self.root.attach()


class MountEntry(Step):
    """One entry of `mounts`."""

    __slots__ = ("destination", "entry", "extra", "options", "recursive_by", "root", "source", "tree", "within")

    def __init__(
        self, root: Root, entry: dict[str, Any], bundle_path: str, recursive_by: str, extra: int, label: str = "",
        within: str = "",
    ) -> None:  # fmt: skip
        """`within`: a directory of the root, which no link of a destination below it leads out of."""
        self.root = root
        self.entry = entry
        self.destination = os.path.normpath("/" + entry["destination"].lstrip("/"))
        self.within = within if within and self.destination.startswith(f"{within}/") else ""
        self.options = MountOptions(entry.get("options") or [])
        self.recursive_by = recursive_by
        self.extra = extra
        self.tree = -1  # a detached mount that the parent has prepared (OpenIdMapped)
        if self.options.copy_up:
            from ...compat import treecopy as _loaded  # noqa: F401  (now: nothing is imported after the clone)
        if label and not is_bind(entry) and entry["type"] in LABELLED:
            self.options.data += ("," if self.options.data else "") + f'context="{label}"'
        source = entry.get("source") or entry.get("type") or ""
        self.source = f"{bundle_path}/{source}" if is_bind(entry) and not source.startswith("/") else source

    def describe(self) -> str:
        words = ",".join(self.entry.get("options") or [])
        kind = "bind" if is_bind(self.entry) else self.entry["type"]
        return f"mount {kind} {self.source} on {self.destination}" + (f" ({words})" if words else "")

    def run(self) -> None:
        if not self.within:
            self._run()
            return
        outer, destination = self.root, self.destination
        inner = Root(outer.path.rstrip("/") + self.within, outer.native)
        inner.owner = outer.owner
        inner.attach()
        self.root, self.destination = inner, destination.removeprefix(self.within)
        try:
            self._run()
        finally:
            self.root, self.destination = outer, destination
            inner.close()

    def _run(self) -> None:
        if is_bind(self.entry):
            self._bind()
        else:
            self._mount()
        if self.options.propagation or self.options.attr_set or self.options.attr_clear:
            fd = self.root.open(self.destination)
            try:
                for flag in self.options.propagation:
                    libc.mount("", at(fd), "", flag)
                self._set_recursive(fd)
            finally:
                os.close(fd)

    def _bind(self) -> None:
        try:
            is_directory = stat.S_ISDIR(os.stat(self.source).st_mode)
        except OSError as error:
            raise StepError(f"source {self.source}: {error.strerror}") from None
        fd = self.root.make_directories(self.destination) if is_directory else self.root.make_file(self.destination)
        try:
            shows_proc = libc.fs_type(self.source) == procfs.PROC_SUPER_MAGIC
            procfs.check_target(fd, self.root.path, self.destination, shows_proc)
            if self.tree >= 0:
                libc.move_mount_onto(self.tree, fd)
            else:
                libc.mount(self.source, at(fd), "", MS_BIND | (self.options.flags & MS_REC))
        finally:
            os.close(fd)
        flags = (self.options.flags | self.extra) & ~(MS_BIND | MS_REC | MS_REMOUNT)
        if flags or self.options.clear:
            fd = self.root.open(self.destination)
            try:
                mounting.remount_by_bind(at(fd), flags, self.options.clear)
            finally:
                os.close(fd)

    def _mount(self) -> None:
        kind = self.entry["type"]
        data = self.options.data
        flags = self.options.flags | self.extra
        made = len(self.root.created)
        fd = self.root.make_directories(self.destination)
        made = len(self.root.created) - made
        try:
            if kind in ("proc", "sysfs"):
                self._refuse_links(fd)
            procfs.check_target(fd, self.root.path, self.destination, kind == "proc")
            if kind == "tmpfs":
                flags &= ~MS_RDONLY  # made read-only by FinishReadOnly, once what goes into it is there
                if "mode=" not in data and not made:  # the kernel's own default, 1777, where nothing was
                    data += ("," if data else "") + f"mode={stat.S_IMODE(os.fstat(fd).st_mode):o}"
            libc.mount(self.source, at(fd), kind, flags, data)
            if self.options.copy_up and not made:
                self._copy_up(fd)
        finally:
            os.close(fd)

    def _copy_up(self, covered: int) -> None:
        """Fill the new mount with what it covers; `covered` is still open on that."""
        from ...compat import treecopy

        mounted = self.root.open(self.destination)
        try:
            treecopy.copy_contents(covered, mounted)
        except OSError as error:
            raise StepError(f"tmpcopyup of {self.destination}: {error.strerror}") from None
        finally:
            os.close(mounted)

    def keeps(self) -> list[int]:
        return [self.tree] if self.tree >= 0 else []

    def _refuse_links(self, fd: int) -> None:
        """/proc and /sys must be where their names say: a link would put the masks elsewhere (CVE-2019-19921)."""
        if os.readlink(at(fd)) != self.root.path.rstrip("/") + self.destination:
            raise StepError(f"{self.destination} in the root file system leads over a link")

    def _set_recursive(self, fd: int) -> None:
        if not (self.options.attr_set or self.options.attr_clear):
            return
        if self.recursive_by == "mount_setattr":
            mounting.setattr_tree(at(fd), self.options.attr_set, self.options.attr_clear)
        else:
            mounting.remount_tree_one_by_one(at(fd), self.options.attr_set, self.options.attr_clear)


class MaskPaths(Step):
    """Cover files by /dev/null and directories by an empty read-only tmpfs."""

    __slots__ = ("paths", "root")

    def __init__(self, root: Root, paths: list[str]) -> None:
        self.root = root
        self.paths = paths

    def describe(self) -> str:
        return "mask " + " ".join(self.paths)

    def run(self) -> None:
        null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
        status = os.fstat(null)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
            raise StepError("the host's /dev/null is not the null device")
        for path in self.paths:
            fd = open_if_there(self.root, path)
            if fd < 0:
                continue
            try:
                if stat.S_ISDIR(os.fstat(fd).st_mode):
                    libc.mount(
                        "tmpfs", at(fd), "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0k,nr_inodes=2"
                    )
                else:
                    libc.mount(at(null), at(fd), "", MS_BIND)
                    self._protect(path)
            finally:
                os.close(fd)
        os.close(null)

    def _protect(self, path: str) -> None:
        """The file is the host's own: nobody is to change its mode or owner by this name."""
        mask = open_if_there(self.root, path)
        try:
            libc.mount("", at(mask), "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC)
        finally:
            os.close(mask)


class ProtectPaths(Step):
    """Make paths read-only by a bind on themselves."""

    __slots__ = ("paths", "root")

    def __init__(self, root: Root, paths: list[str]) -> None:
        self.root = root
        self.paths = paths

    def describe(self) -> str:
        return "make read-only " + " ".join(self.paths)

    def run(self) -> None:
        for path in self.paths:
            fd = open_if_there(self.root, path)
            if fd < 0:
                continue
            try:
                libc.mount(at(fd), at(fd), "", MS_BIND | MS_REC)
            finally:
                os.close(fd)
            fd = self.root.open(path)
            try:
                mounting.remount_by_bind(at(fd), MS_RDONLY)
            finally:
                os.close(fd)


def open_if_there(root: Root, path: str) -> int:
    """A descriptor of a path inside the root; -1 where there is none."""
    try:
        return root.open(path)
    except (OSError, KernelError) as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return -1
        raise


class FinishReadOnly(Step):
    """Make tmpfs mounts that asked for it read-only, now that their contents are there; and the root, last."""

    __slots__ = ("paths", "root", "whole_root")

    def __init__(self, root: Root, paths: list[str], whole_root: bool) -> None:
        self.root = root
        self.paths = paths
        self.whole_root = whole_root

    def describe(self) -> str:
        return "make read-only " + " ".join([*self.paths, *(["/"] if self.whole_root else [])])

    def run(self) -> None:
        for path in self.paths:
            fd = self.root.open(path)
            try:
                mounting.remount_by_bind(at(fd), MS_RDONLY)
            finally:
                os.close(fd)
        if self.whole_root:
            mounting.remount_by_bind(self.root.path, MS_RDONLY)


class MakeWorkingDirectory(Step):
    """Create process.cwd where the root file system lacks it."""

    __slots__ = ("path", "root")

    def __init__(self, root: Root, path: str) -> None:
        self.root = root
        self.path = path

    def describe(self) -> str:
        return f"create the working directory {self.path} if it is missing"

    def run(self) -> None:
        if not self.root.exists(self.path):
            os.close(self.root.make_directories(self.path))


class SetSysctls(Step):
    """Write namespaced sysctls through the host's /proc, which shows each process its own namespaces' values."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def describe(self) -> str:
        return "set sysctls " + ", ".join(f"{name}={value}" for name, value in self.values.items())

    def run(self) -> None:
        for name, value in self.values.items():
            path = f"/proc/sys/{procfs.sysctl_path(name)}"
            try:
                files.write_text(path, value)
            except OSError as error:
                raise StepError(f"linux.sysctl[{name!r}]: {path}: {error.strerror}") from None


class EnterRoot(Step):
    """Make the root file system the process's root."""

    __slots__ = ("by", "propagation", "root")

    def __init__(self, root: Root, by: str, propagation: str) -> None:
        self.root = root
        self.by = by
        self.propagation = propagation

    def describe(self) -> str:
        return f"change the root to {self.root.path} by {self.by}"

    def run(self) -> None:
        if self.by == "pivot_root":
            mounting.enter_by_pivot_root(self.root.path)
        else:
            mounting.enter_by_move_and_chroot(self.root.path)
        self.root.close()
        flag = PROPAGATION.get(self.propagation, 0)
        if flag & (MS_SHARED | MS_UNBINDABLE):
            libc.mount("", "/", "", flag)
