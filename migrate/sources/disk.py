"""A machine's disks: image files of any format, raw ones, block devices, OVA and OVF."""

from __future__ import annotations

import hashlib
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

from ..disks import convert, dissecting, guestfs, mounting, ova
from ..disks.blocks import DiskError
from ..disks.volumes import volumes
from .contract import Opened, Options

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..disks.volumes import Volume
    from ..trees.entry import Entry

Guest = mounting.Guest | dissecting.DissectGuest | guestfs.GuestfsGuest
READERS = ("mount", "dissect", "guestfs")


class DiskSource:
    """The disks of one machine, in its order. `done` is told (what is done now, share of it)."""

    def __init__(
        self, paths: list[str], options: Options, done: Callable[[str, float], None] = lambda what, share: None
    ) -> None:
        self._paths = paths
        self._files = list(paths)  # whose digests are noted
        self._options = options
        self._done = done
        self._digests: list[str] = []
        self._failure = ""
        self._hashing = threading.Thread(target=self._hash, daemon=True)
        self._stop = False
        self._guest: Guest | None = None

    def __enter__(self) -> Opened:
        options = self._options
        if options.reader not in ("", *READERS):
            raise DiskError(f"there is no reader {options.reader!r}", "readers: " + ", ".join(READERS))
        raws: list[str] = []
        for path in self._paths:
            raws += self._raw(path)
        ours = {raw for raw in raws if os.path.dirname(raw) == options.work}
        found = volumes(raws)
        guest, reader, notes = self._read(raws, found, ours)
        self._guest = guest
        self._hashing.start()  # beside the work that follows
        title = os.path.basename(self._paths[0]) + (f" and {len(self._paths) - 1} more" if len(self._paths) > 1 else "")
        opened = Opened(guest.tree, "disk", title)
        opened.facts = {"root": f"{guest.volume.title} ({guest.volume.type})", "reader": reader}
        opened.notes += [*notes, *guest.layout.notes]
        joined = [f"{mount.target} from {mount.volume.title} ({mount.volume.type})" for mount in guest.layout.mounts]
        if joined:
            opened.facts["mounts"] = ", ".join(joined)
        if reader == "guestfs":
            return opened
        opened.notes += [f"{v.title} is not read: {v.error}" for v in found if v.error]
        used = {guest.volume, *(mount.volume for mount in guest.layout.mounts)}
        opened.notes += [
            f"{v.title} ({v.type}) is not read: no line of the machine's fstab mounts it"
            for v in found
            if v not in used and not v.error and v.type not in ("swap", "nothing known")
        ]
        return opened

    def _read(self, raws: list[str], found: list[Volume], ours: set[str]) -> tuple[Guest, str, list[str]]:
        """The guest, by the best reader that works or the one that is named; its name, and notes."""
        options = self._options
        how = options.work, found, options.root_volume, options.skipped_mounts
        readers: dict[str, Callable[[], Guest]] = {
            "mount": lambda: mounting.mount_guest(options.work, ours, *how[1:]),
            "dissect": lambda: dissecting.read_guest(*how),
            "guestfs": lambda: guestfs.read_guest(options.work, raws, *how[2:], self._done),
        }
        if options.reader:
            guest = readers[options.reader]()
            return guest, options.reader, guest.notes
        first: DiskError | None = None
        for name, read in readers.items():
            if first and not _may_read(name, first, found):
                continue
            try:
                guest = read()
            except DiskError as error:
                first = first or error
                continue
            notes = [f"read by {name}, without mounting: {first.message}"] if first else []
            return guest, name, [*notes, *guest.notes]
        assert first
        raise first

    def _raw(self, path: str) -> list[str]:
        """The raw disks of an image or appliance."""
        options = self._options
        done = partial(self._done, f"converting {os.path.basename(path)}")
        if not ova.is_appliance(path):
            return [convert.raw(path, options.work, options.backing, done)]
        found = []
        for part in ova.disks(path):
            if part.path == path:
                found.append(convert.raw_part(*part, options.work, done))
            else:
                self._files.append(part.path)
                found.append(convert.raw(part.path, options.work, False, done))
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guest is not None:
            self._guest.close()
        self._stop = True
        if self._hashing.is_alive():
            self._hashing.join()

    def complete(self, wants: Callable[[Entry], bool]) -> None:
        """It is all here."""

    def digest(self) -> str:
        """The SHA-256 of a disk's file, or of the digests of several."""
        self._hashing.join()
        if self._failure:
            raise DiskError(self._failure)
        if len(self._digests) == 1:
            return f"sha256:{self._digests[0]}"
        return "sha256:" + hashlib.sha256("\n".join(self._digests).encode()).hexdigest()

    def _hash(self) -> None:
        for path in self._files:
            found = hashlib.sha256()
            try:
                with open(path, "rb") as file:
                    while not self._stop and (data := file.read(1 << 20)):
                        found.update(data)
            except OSError as error:
                self._failure = f"can't read {path}: {error.strerror}"
            self._digests.append(found.hexdigest())


def _may_read(reader: str, error: DiskError, found: list[Volume]) -> bool:
    """Whether a reader is here, and may read what failed with an error before."""
    if not (dissecting if reader == "dissect" else guestfs).is_here():
        return False
    if isinstance(error, mounting.CanNotMount):
        return True
    known = [v for v in found if not v.error and (v.type == "swap" or (v.file_system and v.file_system.readable))]
    return reader == "guestfs" and len(known) < len(found)
