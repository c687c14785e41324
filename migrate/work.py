"""The work folder of a migration: what is made on the way, kept for the next run if this one is cut off.

Its name comes from the source, so that a run finds what an interrupted one left; a lock keeps two runs apart.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING

from ..compat.errors import JoeyError
from ..compat.files import mounts

if TYPE_CHECKING:
    from types import TracebackType

_DEFAULT = "/var/tmp"
_TRIES = 10


def default_base() -> str:
    """Where work folders are, where nobody says so."""
    return os.environ.get("TMPDIR") or _DEFAULT


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


class Work:
    """A context whose value is the folder's path."""

    def __init__(self, sources: list[str], base: str = "") -> None:
        self._base = base or default_base()
        found = hashlib.sha256()
        # what was fetched from a host stays in a folder that was named: the next run fetches what changed
        self._keep = bool(base) and any(source.startswith("ssh://") for source in sources)
        for source in sources:
            if source.startswith("ssh://") or not os.path.lexists(source):
                found.update(source.encode("utf-8", "surrogateescape") + b"\n")
                continue
            status = os.stat(source)
            found.update(f"{os.path.realpath(source)} {status.st_size} {status.st_mtime_ns} {status.st_ino}\n".encode())
        self.path = os.path.join(self._base, f"joey-migrate-{os.geteuid()}-{found.hexdigest()[:16]}")
        self._lock = -1

    def __enter__(self) -> str:
        signal.signal(signal.SIGTERM, _interrupted)  # it shall leave as little behind as the keyboard's does
        if not os.path.isdir(self._base):
            raise JoeyError(f"the folder {self._base} for work files does not exist", "--work DIR", "work")
        for _ in range(_TRIES):
            if self._take():
                return self.path
            time.sleep(0.1)  # it may be a child of a killed run, which lets go when it executes its program
        raise JoeyError("another joey migrates this source now", f"it works in {self.path}", "work")

    def _take(self) -> bool:
        """Make the folder, or take the one that is there, if nobody has it."""
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            pass
        try:
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False  # whoever had it removed it
        status = os.fstat(lock)
        try:
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise JoeyError(f"{self.path} is somebody else's", "--work DIR names a folder of your own", "work")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(self.path), status):
                self._lock = lock
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if self._lock != lock:
                os.close(lock)
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        names = os.listdir(self.path)
        worth = any(name.endswith((".raw", ".tar", ".tar.part")) for name in names)
        if not (worth and (kind is not None or self._keep)):
            mounted = [mount.target for mount in mounts() if mount.target.startswith(os.path.realpath(self.path) + "/")]
            if mounted:  # it would be emptied
                raise JoeyError(f"{mounted[0]} is still mounted", f"umount it, and remove {self.path}", "work")
            for name in names:
                path = os.path.join(self.path, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                else:
                    os.unlink(path)
            os.rmdir(self.path)
        os.close(self._lock)

    def kept(self) -> bool:
        """Whether something stays for the next run."""
        return os.path.isdir(self.path)
