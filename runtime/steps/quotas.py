"""Steps of disk quotas: the parent's limit directories or make images; the child's mount those."""

from __future__ import annotations

import fcntl
import os
import shutil
from binascii import crc32
from functools import partial

from ...compat import files, jsonio, libc
from ...compat.constants import CLONE_NEWNS, MS_PRIVATE, MS_REC
from ...compat.errors import JoeyError
from ...compat.quota import images, places, projects, qgroups
from ...compat.quota.places import Place
from ...compat.quota.words import Pool
from ...compat.treecopy import copy_contents
from .. import log
from ..quota import DiskQuota
from ..state import State
from . import Step

LIBRARY = "/var/lib/joey"
_INODE_SLACK = 512  # mke2fs rounds up, by block group
_LAST_SHORT_ID, _LAST_ID = 0xFFFF, 0xFFFFFFFE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class LimitDirectories(Step):
    """Limit the directories where they are; the limits are taken back should the start fail."""

    __slots__ = ("quota", "state")

    def __init__(self, quota: DiskQuota, state: State) -> None:
        self.quota = quota
        self.state = state

    def describe(self) -> str:
        return "limit " + ", ".join(f"{'&'.join(pool.places)} to {pool.size} bytes" for pool in self.quota.pools)

    def run(self) -> None:
        for pool in self.quota.pools:
            self._limit(pool, [self.quota.sources[place] for place in pool.places])

    def _limit(self, pool: Pool, sources: list[str]) -> None:
        raise NotImplementedError

    def _record(self, entry: dict[str, Any]) -> None:
        """Before the limit is there: what a killed joey left is taken back by what was recorded."""
        self.state.quotas.append(entry)
        self.state.save()

    def undo(self) -> None:
        lift(self.state)


class LimitProjects(LimitDirectories):
    """Give each pool a project of its own, with a limit."""

    __slots__ = ()

    def _limit(self, pool: Pool, sources: list[str]) -> None:
        place = places.find(sources[0])
        number = project_number(place)
        self._record({"kind": "project", "path": sources[0], "number": number, "places": pool.places})
        projects.limit(place, number, pool.size, pool.inodes)
        for source in sources:
            projects.mark(source, number)


def project_number(place: Place) -> int:
    """A directory's project: always the same one, no other directory's, and new with the first call.

    From 2^24 + 1 on, or from 2^15 + 1 on where the file system keeps sixteen bits. Raises JoeyError, OSError.
    """
    files.make_private_directories(LIBRARY)
    path = f"{LIBRARY}/projects.json"
    with open(f"{LIBRARY}/projects.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            known: dict[str, int] = jsonio.loads(files.read_text(path, 64 << 20))
        except FileNotFoundError:
            known = {}
        except ValueError as error:
            raise JoeyError(f"{path} is damaged: {error}", "move it away: directories then get new projects") from None
        if place.path in known and projects.keeps(place.path, known[place.path]):
            return known[place.path]
        present = projects.project_of(place.path)
        if present and present < projects.FIRST_ID and present not in known.values():
            hint = "its files count there, perhaps under a limit: take them out of it first (chattr -R -p 0)"
            raise JoeyError(f"{place.path} belongs to project {present} already", hint, "quota")
        for first, last in ((projects.FIRST_ID, _LAST_ID), (projects.FIRST_SHORT_ID, _LAST_SHORT_ID)):
            number = max([first - 1, *(item for item in known.values() if first <= item <= last)]) + 1
            while number <= last and not projects.is_free(place, number):
                number += 1
            if number <= last and projects.keeps(place.path, number):
                files.write_atomically(path, jsonio.dumps({**known, place.path: number}))
                return number
    raise JoeyError(f"{place.mount}: no project number is left", slug="quota")


class LimitSubvolumes(LimitDirectories):
    """Limit the quota group of each subvolume."""

    __slots__ = ()

    def _limit(self, pool: Pool, sources: list[str]) -> None:
        self._record({"kind": "qgroup", "path": sources[0], "places": pool.places})
        qgroups.limit(sources[0], pool.size)


class MakeImages(Step):
    """Make the file systems that are as large as the limits, with what the directories hold; those that are there stay.

    They are put on loop devices, which let go of them by themselves when nobody has them mounted any more. The
    container's device rules let it mount those until it has.
    """

    __slots__ = ("devices", "folder", "quota", "rules", "state")

    def __init__(self, quota: DiskQuota, state: State, folder: str, rules: list[dict[str, Any]] | None) -> None:
        self.quota = quota
        self.state = state
        self.folder = folder
        self.rules = rules  # the container's device rules; None where there are none
        self.devices: list[tuple[int, str]] = []  # descriptor and node, by pool

    def describe(self) -> str:
        return "have an image for " + ", ".join(f"{'&'.join(item.places)} of {item.size}" for item in self.quota.pools)

    def run(self) -> None:
        os.makedirs(self.folder, 0o700, exist_ok=True)
        lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another start of the bundle may be making them
            self._attach_all()
        finally:
            os.close(lock)
        self.state.save()
        if self.rules is not None:
            loops = [os.fstat(device).st_rdev for device, _ in self.devices]
            more = [
                {"allow": True, "type": "b", "major": os.major(loop), "minor": os.minor(loop), "access": "rw"}
                for loop in loops
            ]
            self.state.cgroup.allow_devices([*self.rules, *more], in_use=True)

    def _attach_all(self) -> None:
        for number, pool in enumerate(self.quota.pools):
            path = f"{self.folder}/{image_name(pool)}"
            if not os.path.exists(path):
                self._make(path, pool)
            else:
                self._fit(path, pool)
            self.devices.append(images.attach(path))
            os.makedirs(mount_place(self.state, number), 0o700, exist_ok=True)
            self.state.quotas.append(
                {"kind": "image", "path": path, "device": self.devices[-1][1], "places": pool.places}
            )

    def _fit(self, path: str, pool: Pool) -> None:
        """An image that is there must be no larger than the limit; a smaller one grows."""
        size, wanted = os.stat(path).st_size, images.whole_blocks(pool.size)
        if size > wanted:
            hint = "images do not shrink: ask for as much, or move it away to have the directories copied anew"
            raise JoeyError(f"{path} has {size} bytes, the limit is {wanted}", hint, "quota")
        if size < wanted:
            self._in_private(path, partial(self._grow, path, pool.size))
        room = images.inodes_of(path)
        if pool.inodes and room > pool.inodes + _INODE_SLACK:
            hint = (
                "an image keeps the number of files it was made for: move it away to have the directories copied anew"
            )
            raise JoeyError(f"{path} has room for {room} files, the limit is {pool.inodes}", hint, "quota")

    def _make(self, path: str, pool: Pool) -> None:
        """Make it under another name: one that is there is whole."""
        unready = f"{path}.partial"
        images.make(unready, pool.size, pool.inodes)
        try:
            self._in_private(unready, partial(self._fill, pool))
            os.rename(unready, path)
        except BaseException:
            os.unlink(unready)
            raise

    def _grow(self, path: str, size: int, mounted: str, device: str) -> None:
        fd = os.open(mounted, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        images.grow(path, device, fd, size)
        os.close(fd)

    def _fill(self, pool: Pool, mounted: str, device: str) -> None:
        shutil.rmtree(f"{mounted}/lost+found", ignore_errors=True)
        for place in pool.places:
            target_path = f"{mounted}/{pool.places.index(place)}"
            os.mkdir(target_path)
            source = os.open(self.quota.sources[place], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            target = os.open(target_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                copy_contents(source, target)
            finally:
                os.close(source)
                os.close(target)

    def _in_private(self, path: str, work: Callable[[str, str], None]) -> None:
        """Do something with an image mounted where nobody else sees it; whatever happens, it is unmounted."""
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                libc.unshare(CLONE_NEWNS)
                libc.mount("", "/", "", MS_REC | MS_PRIVATE)
                device, node = images.attach(path)
                place = mount_place(self.state, 0)
                os.makedirs(place, 0o700, exist_ok=True)
                libc.mount(node, place, images.FSTYPE, 0)
                os.close(device)
                work(place, node)
                libc.umount(place)  # with an error, should writing out fail
                os.write(write_end, b"ok")
            except BaseException as error:
                os.write(write_end, str(error).encode("utf-8", "replace")[:2000])
            finally:
                os._exit(0)
        os.close(write_end)
        with open(read_end, "rb") as answer:
            text = answer.read()
        os.waitpid(pid, 0)
        if text != b"ok":
            raise JoeyError(
                f"{path}: {text.decode('utf-8', 'replace') or 'the process that fills it ended'}", slug="quota"
            )

    def place(self, place: str) -> str:
        """Where a place of the container is to be bound from: its directory in an image, or the host's."""
        for number, pool in enumerate(self.quota.pools):
            if place in pool.places:
                return f"{mount_place(self.state, number)}/{pool.places.index(place)}"
        return self.state.rootfs

    def entries(self, mounts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The entries of `mounts`, those in images with their new sources."""
        out = []
        for entry in mounts:
            place = "/" + os.path.normpath(entry["destination"]).strip("/")
            inside = place != "/" and any(place in pool.places for pool in self.quota.pools)
            out.append({**entry, "source": self.place(place)} if inside else entry)
        return out

    def close(self) -> None:
        """Let go of the devices: they are mounted by now."""
        for device, _ in self.devices:
            os.close(device)
        self.devices = []

    def undo(self) -> None:
        self.close()


class LetGoOfImages(Step):
    """The parent's, once the child has them mounted."""

    __slots__ = ("made",)

    def __init__(self, made: MakeImages) -> None:
        self.made = made

    def describe(self) -> str:
        return "leave the images to their mounts"

    def run(self) -> None:
        if self.made.rules is not None:
            self.made.state.cgroup.allow_devices(self.made.rules, in_use=True)
        self.made.close()


class MountImages(Step):
    """Mount the images where the container's mount namespace has them: they go with it."""

    __slots__ = ("extra", "made")

    def __init__(self, made: MakeImages, extra: int) -> None:
        self.made = made
        self.extra = extra  # MS_NOSUID where no_new_privs is given by nosuid mounts

    def describe(self) -> str:
        return f"mount the {len(self.made.quota.pools)} images of the disk quotas"

    def run(self) -> None:
        for number, (_, node) in enumerate(self.made.devices):
            libc.mount(node, mount_place(self.made.state, number), images.FSTYPE, self.extra)


def image_name(pool: Pool) -> str:
    """An image's file for these places, whatever others there are."""
    words = "+".join(place.strip("/").replace("/", "_") or "root" for place in pool.places)
    return f"{words[:100]}-{crc32('&'.join(pool.places).encode()):08x}.img"


def mount_place(state: State, number: int) -> str:
    """Where the image of a pool is mounted."""
    return f"{state.folder}/quota-{number}"


def lift(state: State) -> None:
    """Take the limits of a container off its directories, which keep their projects. What is gone needs nothing."""
    for entry in state.quotas:
        try:
            if entry["kind"] == "project":
                projects.limit(places.find(entry["path"]), entry["number"], 0, 0)
            elif entry["kind"] == "qgroup":
                qgroups.limit(entry["path"], 0)
        except FileNotFoundError:
            continue
        except (JoeyError, OSError) as error:
            log.warn(f"the disk quota of {entry['path']} stays: {error}")
