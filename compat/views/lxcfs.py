"""lxcfs: where it is mounted, and one that joey starts for containers that want it. Source: lxcfs(1)."""

from __future__ import annotations

import os
import subprocess
import time

from .. import files, libc
from ..constants import MNT_DETACH
from ..errors import JoeyError

_SECONDS = 10.0
FOLDER = "/run/joey-public"  # below it is what joey starts


def mounted() -> str:
    """Where an lxcfs of somebody else's is mounted and answers; "" for nowhere."""
    found = [mount.target for mount in files.mounts() if mount.fstype == "fuse.lxcfs"]
    return next((place for place in found if not place.startswith(f"{FOLDER}/") and answers(place)), "")


def answers(place: str) -> bool:
    """Whether an lxcfs is mounted there, and its process lives."""
    try:
        return bool(files.read_text(f"{place}/proc/uptime"))
    except OSError:  # ENOTCONN: its process has ended
        return False


def program() -> str:
    """Where lxcfs(1) is; "" where it is not."""
    return files.find_program("lxcfs")


def start(place: str) -> None:
    """Start an lxcfs at a directory, unless one answers there. Raises JoeyError. It stays until `stop`."""
    if answers(place):
        return
    os.makedirs(place, 0o755, exist_ok=True)
    while any(mount.target == place for mount in files.mounts()):
        libc.umount(place, MNT_DETACH)  # of one that has ended
    command = [program() or "lxcfs", "-l", "--enable-cfs", "-p", f"{place}.pid", place]
    try:
        running = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise JoeyError(f"lxcfs: {error.strerror}", slug="views") from None
    deadline = time.monotonic() + _SECONDS
    while not answers(place):
        if running.poll() not in (None, 0) or time.monotonic() > deadline:
            raise JoeyError("lxcfs did not come up", f"try it by hand: {' '.join(command)}", "views")
        time.sleep(0.01)


def stop(place: str) -> None:
    """End one that was started; containers that still show it read errors then. Raises KernelError, OSError."""
    libc.umount(place, MNT_DETACH)
    os.rmdir(place)
    os.unlink(f"{place}.pid")
