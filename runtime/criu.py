"""Checkpoint and restore by CRIU, called by its command line: what of a container is outside of it and must be named.

CRIU saves a container's processes with their namespaces, and its tmpfs mounts. What comes from the host is external to
it and given again at the restore: bind mounts, masks (which are the host's /dev/null), cgroup mounts, pipes on the
standard streams, and a network namespace joined by path. Cgroups are joey's: CRIU is told to leave them alone, and
restores into those it is started in. Source: criu(8); runc's images have the same externals.
"""

from __future__ import annotations

import json
import os
import stat

from ..compat import files
from ..compat.errors import JoeyError, StateError
from .bundle import Bundle, is_bind
from .options import Arguments, Option
from .steps.cgroupmounts import cgroup_places
from .steps.devices import DEFAULT_DEVICES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..compat.cgroup.group import Cgroup

DESCRIPTORS = "descriptors.json"  # what the standard streams were, in the image folder; runc's name and form
NETWORK = "extRootNetNS"
NULL = "/dev/null"

IMAGE_OPTIONS = (
    Option("--image-path", "DIR", "the folder of the checkpoint's images", default="checkpoint"),
    Option("--work-path", "DIR", "the folder of CRIU's log and of other files it writes (default: the images')"),
)
# option -> CRIU's; all are switches
SHARED = {
    "tcp-established": "allow established TCP connections",
    "ext-unix-sk": "allow external unix sockets",
    "shell-job": "allow processes of a shell's session",
    "file-locks": "keep file locks",
}
SHARED_OPTIONS = (
    *(Option(f"--{name}", "", text) for name, text in SHARED.items()),
    Option("--empty-ns", "NAME", "`network`: leave that namespace's contents out"),
)


def find() -> str:
    """CRIU's path. Raises JoeyError where it is not installed or the caller may not use it."""
    path = files.find_program("criu")
    if not path:
        raise JoeyError("CRIU is not installed", "install the package criu", "no-criu")
    if os.geteuid() != 0:
        raise JoeyError("checkpoint and restore need root", slug="no-criu")
    return path


def works() -> bool:
    """Whether CRIU is there and finds in this kernel what it needs (`criu check`)."""
    import subprocess

    null = subprocess.DEVNULL
    try:
        check = [find(), "check"]
        return subprocess.run(check, stdin=null, stdout=null, stderr=null, timeout=20, check=False).returncode == 0
    except (JoeyError, OSError, subprocess.TimeoutExpired):
        return False


def flags(arguments: Arguments) -> list[str]:
    """The words that both ways share, from the command line."""
    out = [f"--{name}" for name in SHARED if arguments.switch(name)]
    if arguments.given("empty-ns"):
        if arguments.text("empty-ns") != "network":
            raise JoeyError(f'--empty-ns: "{arguments.text("empty-ns")}" is not "network"', slug="usage")
        out += ["--empty-ns", "net"]
    return out


def refuse_what_it_can_not(bundle: Bundle) -> None:
    """Raise JoeyError for a container that can't be checkpointed, saying why."""
    if bundle.process.get("terminal"):
        raise JoeyError(
            "process.terminal: a container with a terminal can't be checkpointed",
            "its terminal is held by another process: run it without one",
        )
    for name, path in bundle.namespaces.items():
        if path and name != "network":
            raise JoeyError(f"linux.namespaces: a {name} namespace joined by path can't be checkpointed: {path}")


def externals(bundle: Bundle, cgroup: Cgroup, folder: str) -> dict[str, tuple[str, str]]:
    """Mounts from the host: where they are in the container -> (a name, what the restore mounts there)."""
    out: dict[str, tuple[str, str]] = {}
    for entry in bundle.mounts:
        place = os.path.normpath("/" + entry["destination"].lstrip("/"))
        if is_bind(entry):
            source = entry["source"]
            out[place] = (place, source if source.startswith("/") else f"{folder}/{source}")
        elif entry.get("type") in ("cgroup", "cgroup2"):
            out.update({at: (at, group.path) for at, group in cgroup_places(place, cgroup.groups)})
    for path in bundle.linux.get("maskedPaths") or []:
        out[os.path.normpath(path)] = (NULL, NULL)
    devices = [device["path"] for device in bundle.linux.get("devices") or []]
    for path in (*devices, *(path for path, _, _ in DEFAULT_DEVICES)):
        out[os.path.normpath(path)] = (path, path)  # where it is a node, and no mount, CRIU does not ask
    return out


def masks_only_files(places: dict[str, tuple[str, str]], root: str) -> dict[str, tuple[str, str]]:
    """Without the masked directories, which are covered by a tmpfs that CRIU saves."""

    def is_directory(path: str) -> bool:
        try:
            return stat.S_ISDIR(os.stat(f"{root}{path}").st_mode)
        except OSError:
            return True  # not there: nothing is mounted on it

    return {path: value for path, value in places.items() if value[0] != NULL or not is_directory(path)}


def streams_of(pid: int) -> list[str]:
    """What the standard streams of a process are, in CRIU's words: "pipe:[123]", "file[MOUNT:INODE]", or a path."""
    out = []
    for stream in (0, 1, 2):
        path = f"/proc/{pid}/fd/{stream}"
        try:
            link, status = os.readlink(path), os.stat(path)
            if stat.S_ISREG(status.st_mode):
                lines = dict(
                    line.split(":", 1) for line in files.read_text(f"/proc/{pid}/fdinfo/{stream}").splitlines()
                )
                link = f"file[{int(lines['mnt_id']):x}:{status.st_ino:x}]"
        except OSError:
            link = ""  # the program has closed it
        out.append(link)
    return out


def folder_of(arguments: Arguments, create: bool) -> tuple[str, str]:
    """The folders of images and of work, absolute."""
    images = os.path.abspath(arguments.text("image-path"))
    work = os.path.abspath(arguments.text("work-path")) if arguments.given("work-path") else images
    for path in (images, work):
        if create:
            os.makedirs(path, mode=0o700, exist_ok=True)
        elif not os.path.isdir(path):
            raise JoeyError(f"{path}: there is no checkpoint", "give its folder by --image-path", "no-checkpoint")
    return images, work


def failed(what: str, log: str) -> JoeyError:
    """CRIU's own words for a failure: the first errors of its log."""
    errors: list[str] = []
    try:
        for line in files.read_text(log).splitlines():
            _, found, text = line.partition("Error (")
            if found:
                errors.append(text.partition("): ")[2] or text)
    except (OSError, JoeyError):
        pass  # it ended before it could write one
    words = "; ".join(errors[:3]) or "it says nothing"
    return JoeyError(f"CRIU can't {what}: {words}", f"the whole story: {log}; does `criu check` work here?", "criu")


def read_streams(images: str) -> list[str]:
    """The streams as `streams_of` told them at the checkpoint."""
    try:
        value = json.loads(files.read_text(f"{images}/{DESCRIPTORS}"))
    except (OSError, ValueError):
        raise StateError(
            f"{images}: {DESCRIPTORS} is missing or damaged", "is it a checkpoint?", "no-checkpoint"
        ) from None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise StateError(f"{images}/{DESCRIPTORS} is damaged", slug="no-checkpoint")
    return value
