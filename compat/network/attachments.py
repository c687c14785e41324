"""Attachments by CNI on disk, so that a container that ended with its host is detached nevertheless.

Plugins keep what they gave (host-local: addresses, in /var/lib/cni) beyond a reboot; states of containers are gone by
then. A record is of nobody once the host has started anew, or once the state of its container says no more that it
is attached. Source: CNI specification 1.1.0, section 2: DEL is to be called for every ADD.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

from .. import files, jsonio
from ..errors import JoeyError
from . import cni

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

FOLDER = "/var/lib/joey/cni"
_BOOT = "/proc/sys/kernel/random/boot_id"


@contextmanager
def locked() -> Iterator[None]:
    """Hold the records against every other joey."""
    files.make_private_directories(FOLDER)
    with open(f"{FOLDER}/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep(entry: dict[str, Any], holder: str) -> None:
    """Record an attachment, as it is in the state of a container, in the state folder `holder`."""
    record = {"boot": files.read_line(_BOOT), "holder": holder, "entry": entry}
    files.write_atomically(_path(entry), jsonio.dumps(record))


def forget(entry: dict[str, Any]) -> None:
    """The attachment is detached."""
    try:
        os.unlink(_path(entry))
    except FileNotFoundError:
        return


def collect(warn: Callable[[str], None]) -> int:
    """Call DEL for the records of nobody; how many they were. The lock is held.

    One that can't be detached stays, for the next time; `warn` is told.
    """
    found = 0
    for name in sorted(os.listdir(FOLDER)):
        if not name.endswith(".json"):
            continue
        path = f"{FOLDER}/{name}"
        try:
            record = jsonio.loads(files.read_text(path))
            entry, holder, boot = record["entry"], record["holder"], record["boot"]
            if boot == files.read_line(_BOOT) and _says(holder, entry):
                continue
            found += 1
            cni.Attachment(entry["list"], entry["container"], "", entry["link"]).delete(entry.get("result") or {})
            cni.drop_namespace(entry["namespace"])
            os.unlink(path)
        except (JoeyError, OSError, ValueError, KeyError, TypeError) as error:
            warn(f"{path}: what a container that is gone had of CNI plugins is not given back: {error}")
    return found


def _path(entry: dict[str, Any]) -> str:
    return f"{FOLDER}/{os.path.basename(entry['namespace'])}.json"


def _says(holder: str, entry: dict[str, Any]) -> bool:
    """Whether the state in a folder says that its container has the attachment."""
    try:
        networks = jsonio.loads(files.read_text(f"{holder}/state.json")).get("networks", [])
        return any(other.get("namespace") == entry["namespace"] for other in networks)
    except (OSError, ValueError, AttributeError):
        return False
