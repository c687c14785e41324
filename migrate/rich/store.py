"""Where rich containers are: a folder each, which outlives them and the host's reboots.

NAME/rich.json      what it is
NAME/life.json      what it is to be (running or stopped), and what became of it
NAME/fixes/         what is put over the image's files; fixes.json says why
NAME/bundle/        config.json and, in joey-layers/, what the container has written
NAME/console        a FIFO, its first process's streams
NAME/log/           console.log, console.log.1, ...
NAME/before/        what it was before an upgrade that is not confirmed
.images/DIGEST/     files of images, shared
.volumes/NAME/      named volumes
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ...compat import libc
from ...compat.constants import MNT_DETACH
from ...compat.errors import JoeyError, StateError
from ...compat.files import make_private_directories, mounts, read_text, write_atomically
from ...runtime import state as states
from .model import Rich, check_name, load

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "/var/lib/joey/rich"
RUNNING, STOPPED = "running", "stopped"
BEFORE = "before"
KEPT = ("fixes", "fixes.json", "bundle")  # what an upgrade exchanges, beside rich.json


class Life:
    """What a container is to be, and what became of it. Written by whoever holds its lock."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.wanted: str = value.get("wanted", STOPPED)
        self.starts: int = value.get("starts", 0)
        self.restarts: int = value.get("restarts", 0)
        self.last_status: int | None = value.get("last_status")
        self.started: float = value.get("started", 0.0)
        self.ended: float = value.get("ended", 0.0)
        self.health: str = value.get("health", "")
        self.error: str = value.get("error", "")

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


class Container:
    """One container's folder."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.folder = f"{store.path}/{name}"
        self.bundle = f"{self.folder}/bundle"
        self.console = f"{self.folder}/console"
        self.being_made = -1  # a lock on its folder, while it is made

    def rich(self) -> Rich:
        found = load(f"{self.folder}/rich.json")
        found.name = self.name  # a rename that was killed has moved the folder only
        return found

    def save(self, rich: Rich) -> None:
        rich.save(f"{self.folder}/rich.json")

    def life(self) -> Life:
        try:
            return Life(json.loads(read_text(f"{self.folder}/life.json")))
        except FileNotFoundError:
            return Life({})
        except ValueError as error:
            raise StateError(
                f"{self.folder}/life.json is damaged: {error}", "`joey rich rm --force` removes it"
            ) from None

    @contextmanager
    def changed_life(self) -> Iterator[Life]:
        """Its life, alone, written back at the end."""
        fd = os.open(f"{self.folder}/life.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            life = self.life()
            yield life
            write_atomically(f"{self.folder}/life.json", json.dumps(life.as_json()) + "\n")
        finally:
            os.close(fd)

    @contextmanager
    def locked(self, seconds: float = 5.0) -> Iterator[None]:
        """Alone at changing it: create, update, upgrade, rm. Raises StateError while somebody else is."""
        fd = os.open(f"{self.folder}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + seconds
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StateError(
                            f"{self.name} is being worked on by another joey", "try again", "busy"
                        ) from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Alone at exchanging its image, or its name. Raises StateError while somebody else is."""
        fd = os.open(f"{self.folder}/changing", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateError(f"{self.name} is being upgraded or renamed", "try again", "busy") from None
            yield
        finally:
            os.close(fd)

    def recover(self) -> None:
        """Take an upgrade back that was not finished: what the container was is moved to its place again."""
        new = f"{self.folder}/{BEFORE}.new"
        if not os.path.isdir(new):
            return
        for name in (*KEPT, "rich.json"):
            path = f"{self.folder}/{name}"
            if os.path.exists(f"{new}/{name}"):
                if os.path.isdir(path):
                    remove_tree(path)
                os.replace(f"{new}/{name}", path)
        remove_tree(new)

    def running(self) -> states.State | None:
        """The runtime's container, while its first process lives."""
        try:
            state = states.load(self.store.runtime, self.name)
        except StateError:
            return None
        return state if state.alive() else None

    def status(self) -> str:
        """running, paused, starting, restarting, stopped."""
        state = self.running()
        if state:
            return "starting" if state.status() in ("created", "creating") else state.status()
        if self.supervisor():
            return "restarting" if self.life().wanted == RUNNING else "stopping"
        return STOPPED

    def supervisor(self) -> int:
        """The pid of its supervisor, while that holds its lock; 0 for none."""
        try:
            fd = os.open(f"{self.folder}/supervisor", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return 0
        except BlockingIOError:
            text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            return int(text) if text.isdigit() else 0
        finally:
            os.close(fd)

    def remove(self) -> None:
        remove_tree(self.folder)


def remove_tree(path: str) -> None:
    """Remove a directory, and what is mounted in it first: nothing is removed through a mount."""
    for mount in mounts_below(path):
        libc.umount(mount, MNT_DETACH)
    shutil.rmtree(path)


def mounts_below(folder: str) -> list[str]:
    """Mount points below a directory, those below others first."""
    prefix = os.path.realpath(folder) + "/"
    return sorted((mount.target for mount in mounts() if mount.target.startswith(prefix)), reverse=True)


class Store:
    """A directory of containers. `runtime` is where joey's runtime keeps the running ones."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path or os.environ.get("JOEY_RICH", "") or DEFAULT)
        suffix = "" if self.path == DEFAULT else f"-{crc32(os.fsencode(self.path)):08x}"
        self.runtime = f"/run/joey/rich{suffix}"

    def get(self, name: str) -> Container:
        """Raises StateError for one that is not there."""
        check_name(name)
        found = Container(self, name)
        if not os.path.exists(f"{found.folder}/rich.json"):
            raise StateError(f"there is no rich container {name}", "see: joey rich ps --all", "no-container")
        return found

    def all(self) -> list[Container]:
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        return [Container(self, name) for name in names if os.path.exists(f"{self.path}/{name}/rich.json")]

    def new(self, name: str) -> Container:
        """A new container's folder. Raises StateError where the name is taken."""
        check_name(name)
        make_private_directories(self.path)
        made = Container(self, name)
        with self.alone("create"):
            if os.path.exists(f"{made.folder}/rich.json"):
                raise StateError(f"there is a rich container {name} already", f"joey rich rm {name}", "exists")
            if os.path.lexists(made.folder):
                fd = os.open(made.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise StateError(f"{name} is being made by another joey", slug="busy") from None
                finally:
                    os.close(fd)
                remove_tree(made.folder)  # of a create that was killed
            os.mkdir(made.folder, 0o700)
            made.being_made = os.open(made.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(made.being_made, fcntl.LOCK_EX)
        return made

    @contextmanager
    def alone(self, what: str, shared: bool = False, wait: bool = True) -> Iterator[bool]:
        """Alone at something of the store, or with others at it; whether it is so, where nothing is waited for."""
        make_private_directories(self.path)
        fd = os.open(f"{self.path}/.{what}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            got = True
        except BlockingIOError:
            got = False
        try:
            yield got
        finally:
            os.close(fd)

    def volume(self, name: str) -> str:
        return f"{self.path}/.volumes/{name}"

    def image(self, digest: str) -> str:
        """Where an image's files are, or shall be."""
        algorithm, _, value = digest.partition(":")
        if not value.isalnum() or not algorithm.isalnum():
            raise JoeyError(f"{digest} is no digest")
        return f"{self.path}/.images/{value}"
