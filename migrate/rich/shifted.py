"""A rich container whose ids are others on the host: its files belong to those, in a copy of the image that containers
of the same map share.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat

from ...compat import treecopy
from ...compat.errors import JoeyError
from ...runtime.layers import FOLDER as LAYERS
from .model import Rich, parse_id_map
from .store import DEFAULT, Container


def lower_of(container: Container, rich: Rich) -> str:
    """Where the image's files are with the ids that the container's have on the host."""
    if not rich.id_map:
        return rich.lower
    first, count = parse_id_map(rich.id_map)
    name = hashlib.sha256(os.fsencode(f"{rich.lower} {first} {count}")).hexdigest()[:24]
    return f"{container.store.path}/.shifted/{name}/rootfs"


def prepare(container: Container, rich: Rich) -> None:
    """Make that copy if it is not there, and let the container's root reach and own what is its. Raises OSError."""
    if not rich.id_map:
        return
    _check_way(container.store.path)
    first, count = parse_id_map(rich.id_map)
    lower = lower_of(container, rich)
    folder = os.path.dirname(lower)
    with container.store.alone("shifted"):
        if not os.path.isdir(lower):
            new = f"{folder}.new"
            if os.path.lexists(new):
                shutil.rmtree(new)  # of one that was killed
            os.makedirs(f"{new}/rootfs")
            source, target = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (rich.lower, f"{new}/rootfs"))
            try:
                treecopy.copy_contents(source, target)
            finally:
                os.close(source)
                os.close(target)
            _shift(f"{new}/rootfs", first, count)
            os.rename(new, folder)
    for path in (container.store.path, os.path.dirname(folder), folder, container.folder, container.bundle):
        os.chmod(path, 0o711)  # to pass through, not to look into
    os.makedirs(f"{container.bundle}/{LAYERS}/upper", exist_ok=True)
    for path in (f"{container.bundle}/{LAYERS}/upper", container.console):
        os.chown(path, first, first)


def _check_way(path: str) -> None:
    """Its root has to get to its files. Raises JoeyError."""
    if path == DEFAULT:
        os.chmod(os.path.dirname(path), 0o711)  # joey's own
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & 0o001:
            raise JoeyError(
                f"--id-map: {path} lets nobody but its owner through", f"chmod o+x {path}, or another --store"
            )


def _shift(root: str, first: int, count: int) -> None:
    """Give every file to the host's ids; those that are not in the map stay, and are nobody's inside."""
    for folder, names, files in os.walk(root):
        for name in ("", *(name for name in names if os.path.islink(f"{folder}/{name}")), *files):
            path = f"{folder}/{name}".rstrip("/")
            status = os.lstat(path)
            uid, gid = (first + number if number < count else -1 for number in (status.st_uid, status.st_gid))
            os.lchown(path, uid, gid)
            if status.st_mode & 0o6000 and not stat.S_ISLNK(status.st_mode):
                os.chmod(path, stat.S_IMODE(status.st_mode))  # a change of owner takes set-id bits away


def own(container: Container, rich: Rich, folder: str) -> None:
    """Have a directory that joey has made for the container be its root's."""
    if rich.id_map:
        first, count = parse_id_map(rich.id_map)
        _shift(folder, first, count)
