"""Reading a guest by libguestfs, the last rung: a small machine with a kernel of its own mounts the disks.

It is slow, and needs no privilege; it reads what neither this kernel nor dissect does: thin and striped LVM, other RAID
levels, ReiserFS, JFS, XFS of version 4. One guestfish is told what to do by its standard input. Source: guestfish(1),
guestfs(3).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

from ...compat.files import find_program
from ...runtime.tables import plain
from ..trees.layers import ArchiveTree
from .blocks import DiskError

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 600.0  # seconds for an answer but the archive
_LARGEST = 1 << 20
_MARK = "joey-has-read"
_SAFE = re.compile(r"/[A-Za-z0-9_./+:@=-]*")


class Named(NamedTuple):
    """A volume, as far as it is told of."""

    title: str
    type: str


class Mounted(NamedTuple):
    """Where a volume is in the guest."""

    volume: Named
    target: str


class Layout(NamedTuple):
    """As guest.Layout has it."""

    mounts: list[Mounted]
    notes: list[str]


class GuestfsGuest:
    """A guest read by libguestfs, with the same parts as one that is mounted."""

    def __init__(self, archive: str, volume: Named, layout: Layout) -> None:
        self.tree = ArchiveTree([archive])
        self.volume = volume
        self.layout = layout
        self.notes: list[str] = []
        self._archive = archive

    def close(self) -> None:
        os.unlink(self._archive)


def is_here() -> bool:
    return bool(find_program("guestfish"))


def read_guest(
    work: str, raws: list[str], wanted: str, skipped: list[str], done: Callable[[str, float], None]
) -> GuestfsGuest:
    """Read a guest's file systems, which its fstab joins, into an archive in the work folder. Raises DiskError."""
    done("starting libguestfs", 0)
    with _Fish(raws) as fish:
        fish.ask("run")
        roots = fish.ask("inspect-os")
        if wanted:
            roots = [root for root in roots if wanted.removeprefix("/dev/") in (root.removeprefix("/dev/"), root)]
        kinds = dict(line.rsplit(": ", 1) for line in fish.ask("list-filesystems") if ": " in line)
        if not roots:
            found = "; ".join(f"{plain(device)}: {plain(kind)}" for device, kind in kinds.items())
            raise DiskError("no root file system on the disks given", f"volumes: {found or 'none'}")
        if len(roots) > 1:
            shown = ", ".join(map(plain, roots))
            raise DiskError(f"more than one root file system: {shown}", "--root-volume NAME takes one of them")
        mounts = {}
        for line in fish.ask(f"inspect-get-mountpoints {_device(roots[0])}"):
            target, _, device = line.partition(": ")
            if target not in skipped:
                mounts[target] = device
        for target in sorted(mounts, key=lambda path: (path.count("/") if path != "/" else 0, path)):
            if not _SAFE.fullmatch(target):
                raise DiskError(f"the machine mounts something at {plain(target)}, which libguestfs is not told of")
            fish.ask(f"mount-ro {_device(mounts[target])} {target}")
        archive = os.path.join(work, f"guest-{os.getpid()}.tar")
        try:
            fish.copy(archive, done)
            named = {target: Named(plain(device), kinds.get(device, "")) for target, device in mounts.items()}
            joined = [Mounted(volume, target) for target, volume in named.items() if target != "/"]
            return GuestfsGuest(archive, named["/"], Layout(joined, []))
        except BaseException:
            if os.path.lexists(archive):
                os.unlink(archive)
            raise


def _device(word: str) -> str:
    """A device's name as guestfish may be told; with a hint for what is no plain one. Raises DiskError."""
    if not _SAFE.fullmatch(word):
        raise DiskError(f"libguestfs names a volume {plain(word)}, which it is not told of again")
    return word


class _Fish:
    """A guestfish that runs. Raises DiskError where it says no."""

    def __init__(self, raws: list[str]) -> None:
        program = find_program("guestfish")
        if not program:
            raise DiskError("there is no guestfish here", "install libguestfs-tools (guestfs-tools)")
        disks = [word for raw in raws for word in ("-a", os.path.abspath(raw))]
        # plain users and root alike: no libvirt between, whose own user can't read the disks
        environment = {"LIBGUESTFS_BACKEND": "direct", **os.environ, "LC_ALL": "C.UTF-8"}
        self._process = subprocess.Popen(
            [program, "--ro", "--format=raw", *disks], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment, start_new_session=True,
        )  # fmt: skip
        self._said = b""
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._kill()
            self._process.wait()

    def _kill(self) -> None:
        """End it and its machine."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _listen(self) -> None:
        assert self._process.stderr
        while data := self._process.stderr.readline(4096):
            self._said = (self._said + data)[-_LARGEST:]

    def ask(self, command: str, seconds: float = _PATIENCE) -> list[str]:
        """The lines that a command prints."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        watch = threading.Timer(seconds, self._kill)
        watch.start()
        lines: list[str] = []
        try:
            stdin.write(f"{command}\necho {_MARK}\n".encode())
            stdin.flush()
            while line := stdout.readline(_LARGEST):
                text = line.decode("utf-8", "surrogateescape").rstrip("\n")
                if text == _MARK:
                    return lines
                lines.append(text)
        except BrokenPipeError:
            pass
        finally:
            watch.cancel()
        self._process.wait()
        self._listener.join(5)
        said = [line for line in self._said.decode("utf-8", "replace").splitlines() if "error:" in line]
        why = plain(said[0].partition("error: ")[2]) if said else "it ended"
        raise DiskError(f"libguestfs: {command.split()[0]}: {why}", "libguestfs-test-tool tells more")

    def copy(self, archive: str, done: Callable[[str, float], None]) -> None:
        """All files into a tar."""
        rows = [line.split() for line in self.ask("df")]
        used = sum(int(row[2]) for row in rows if len(row) > 3 and row[0].startswith("/dev") and row[2].isdecimal())
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(1):
                size = os.path.getsize(archive) if os.path.exists(archive) else 0
                done("reading by libguestfs", min(size / (used * 1024 + 1), 1))

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            options = "numericowner:true xattrs:true selinux:true acls:true"
            self.ask(f"tar-out / {_quoted(archive)} {options}", seconds=24 * 3600)
        finally:
            ended.set()
            teller.join()


def _quoted(path: str) -> str:
    """A path for guestfish, in whose double quotes a backslash escapes."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
