"""The disk of a rich container that has a quota of its own, where the store's file system has none for directories: a
file system in a sparse file, below what the container writes. Its size is the limit.

It is mounted where the runtime keeps what is written above layers, so the image stays shared and outside of it.
"""

from __future__ import annotations

import os
import time

from ...compat import libc, loopdevice
from ...compat.constants import MNT_DETACH, MS_NODEV
from ...compat.errors import JoeyError
from ...compat.files import mount_holding
from ...compat.quota import images, places, projects
from ...compat.quota.words import Pool, pools
from ...runtime.layers import FOLDER as LAYERS
from .model import Rich
from .store import Container

_IMAGE = "disk.img"
_SECONDS = 10.0


def own(container: Container, rich: Rich) -> Pool | None:
    """The quota that is kept by a disk of its own; None where the runtime keeps it, or there is none."""
    words = of_root(rich.quotas)
    if not words:
        return None
    if not os.path.exists(f"{container.bundle}/{_IMAGE}"):
        try:
            if not projects.unfit(places.find(container.store.path)):
                return None
        except (OSError, JoeyError):
            pass
    found = pools(words, ["/"])
    return found[0] if found else None


def of_root(words: list[str]) -> list[str]:
    """Quotas of the root file system alone."""
    return [word for word in words if "=" not in word or word.rpartition("=")[0] == "/"]


def of_others(words: list[str]) -> list[str]:
    return [word for word in words if word not in of_root(words)]


def prepare(container: Container, rich: Rich) -> None:
    """Make the disk if it is not there, and mount it. Raises JoeyError, OSError."""
    quota = own(container, rich)
    if quota is None:
        return
    place = f"{container.bundle}/{LAYERS}"
    os.makedirs(place, 0o700, exist_ok=True)
    if os.path.ismount(place):
        return
    path = f"{container.bundle}/{_IMAGE}"
    if not os.path.exists(path):
        if os.listdir(place):
            raise JoeyError("--disk-quota: it has written already, and this host has no quota of directories",
                            "make a new container with it", "quota")  # fmt: skip
        images.make(f"{path}.new", quota.size, quota.inodes)
        os.rename(f"{path}.new", path)
    remount(container.bundle)
    os.chmod(place, 0o700)


def remount(bundle: str) -> None:
    """Mount the disk of a bundle. Raises JoeyError."""
    path, place = f"{bundle}/{_IMAGE}", f"{bundle}/{LAYERS}"
    if os.path.ismount(place):
        return
    until = time.monotonic() + _SECONDS
    while True:
        try:
            _mount(path, place)
            return
        except (JoeyError, OSError) as error:  # what had it a moment ago is letting go of it
            if time.monotonic() > until:
                raise JoeyError(f"--disk-quota: {path} can't be mounted: {error}", slug="quota") from None
            time.sleep(0.1)


def _mount(path: str, place: str) -> None:
    """Where a mount of it lives on in somebody's mount namespace, that file system is mounted once more."""
    if node := loopdevice.find(path):
        libc.mount(node, place, images.FSTYPE, MS_NODEV)
        return
    device, node = images.attach(path)
    try:
        libc.mount(node, place, images.FSTYPE, MS_NODEV)
    finally:
        os.close(device)


def release(bundle: str) -> None:
    """Unmount the disk of a bundle that is not used any more."""
    place = f"{bundle}/{LAYERS}"
    if os.path.exists(f"{bundle}/{_IMAGE}") and os.path.ismount(place):
        libc.umount(place, MNT_DETACH)


def grow(container: Container, size: int) -> None:
    """Make the disk larger. Raises JoeyError for a smaller one."""
    path, place = f"{container.bundle}/{_IMAGE}", f"{container.bundle}/{LAYERS}"
    if not os.path.ismount(place):
        if images.whole_blocks(size) < os.stat(path).st_size:
            raise JoeyError(f"{path} can't be made smaller than its {os.stat(path).st_size} bytes", slug="quota")
        raise JoeyError(
            "a disk quota is changed while the container runs", f"joey rich start {container.name}", "quota"
        )
    mount = mount_holding(os.path.realpath(place))
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        images.grow(path, mount.source if mount else "", fd, size)
    finally:
        os.close(fd)
