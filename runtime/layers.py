"""A root file system of layers: which way this machine has for it, what each costs, and making it.

`joey-layers/` in the bundle says how the root was made (record.json), and holds what a container writes where its
layers are mounted. Both stay for the next container of the bundle.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import contextmanager

from ..compat import files, jsonio, libc
from ..compat.constants import MNT_DETACH
from ..compat.errors import JoeyError, UsageError
from ..compat.layers import clone, mounted, tree
from ..probes.plan import Need
from ..probes.report import Finding, KernelReport
from . import progress
from .needs import LAYERS_ANNOTATION, layer_words, layers_place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .bundle import Bundle
    from .state import State

FEATURE = "layers"
FOLDER = "joey-layers"
MOUNTED = ("overlay", "fuse-overlayfs")
WAYS = {"reflink": "clone", "hard-links": "link", "copy": "copy"}
_OF_ELSEWHERE = {"overlay": "overlay", "fuse-overlayfs": "fuse.overlayfs"}  # findings of another machine
_LIMIT = 500  # layers of one root; the kernel's own
_SAMPLE_FILES, _SAMPLE_BYTES = 64, 8 << 20
# what would let a container write to what it shares by hard links: remount, or open past the read-only mount
_DANGEROUS = ("CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
_HINT = "start anew with: rm -r {0} and its root"


class Layers:
    """The layers of a bundle's root, lowest first, and how they become its root. `by` is the mechanism, once chosen."""

    __slots__ = ("by", "folder", "paths", "target")

    def __init__(self, bundle: Bundle, paths: list[str]) -> None:
        self.paths = paths
        self.folder = f"{bundle.path}/{FOLDER}"
        place = layers_place(bundle)
        self.target = f"{bundle.path}/{place}" if place else bundle.rootfs
        self.by = ""

    @property
    def is_mounted(self) -> bool:
        """Whether they are mounted for each container; else they are made into one directory, once."""
        return self.by in MOUNTED

    @property
    def writable(self) -> str:
        """The host's directory that holds what a container writes to its root."""
        place = self.folder if self.is_mounted else self.target
        return place if os.path.isdir(place) else os.path.dirname(place)

    def record(self) -> dict[str, object]:
        """How the root was made; {} for not yet. Raises JoeyError."""
        path = f"{self.folder}/record.json"
        try:
            value = dict(jsonio.loads(files.read_text(path)))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise JoeyError(f"{path} can't be read: {error}", _HINT.format(self.folder), FEATURE) from None
        if value.get("layers") != self.paths:
            raise JoeyError(
                f"{self.target} was made of other layers: {path} names them", _HINT.format(self.folder), FEATURE
            )
        return value

    def keep(self, made: bool) -> None:
        record = {"by": self.by, "layers": self.paths, "made": made}
        files.write_atomically(f"{self.folder}/record.json", jsonio.dumps(record))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone at the root's making; its folder is there."""
        files.make_private_directories(self.folder)
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def prepare(self) -> None:
        """The empty directory that the root will be at. Raises UsageError where something else is in it."""
        os.makedirs(self.target, 0o755, exist_ok=True)
        if os.listdir(self.target):
            raise UsageError(
                f"{self.target} is not empty: layers can't become it", "empty it, or run the bundle without --layer"
            )

    def make_tree(self, done: Callable[[int], None]) -> None:
        """Make the root in one directory, where it is not there yet. Raises JoeyError, OSError; then nothing stays."""
        with self.locked():
            record = self.record()
            made_at = f"{os.path.dirname(self.target)}/.joey-{os.path.basename(self.target)}"
            if record.get("made") or (record and os.path.isdir(self.target) and os.listdir(self.target)):
                self.keep(made=True)  # a killed joey may not have come to say so
                return
            self.prepare()
            if os.path.lexists(made_at):
                shutil.rmtree(made_at)  # of a joey that was killed
            try:
                if self.by == "btrfs-snapshot":
                    clone.snapshot(self.paths[0], os.path.dirname(made_at), os.path.basename(made_at))
                else:
                    os.mkdir(made_at, 0o700)
                    tree.Maker(WAYS[self.by], done).make(self.paths, made_at)
                self.keep(made=False)
                os.rename(made_at, self.target)
            except BaseException:
                shutil.rmtree(made_at, ignore_errors=True)
                raise
            self.keep(made=True)

    def mount(self, before: Callable[[], None]) -> None:
        """Mount the layers at the root; `before` is called when all is ready for it. Raises JoeyError, OSError."""
        with self.locked():
            self.record()
            if os.path.ismount(self.target):
                raise JoeyError(
                    f"{self.target} is mounted already", "another container of the bundle has it: `joey list`", FEATURE
                )
            self.prepare()
            for name in ("upper", "work"):
                os.makedirs(f"{self.folder}/{name}", 0o755, exist_ok=True)
            if not self.record():
                shutil.copystat(self.paths[-1], f"{self.folder}/upper")
            self.keep(made=True)
            before()
            mount = mounted.mount_overlay if self.by == "overlay" else mounted.mount_fuse_overlayfs
            mount(self.paths, f"{self.folder}/upper", f"{self.folder}/work", self.target)


def unmount(state: State) -> None:
    """Unmount the layers at a container's root, where they still are."""
    if state.layers and os.path.ismount(state.layers):
        libc.umount(state.layers, MNT_DETACH)
    state.layers = ""


def with_layers(
    report: KernelReport, bundle: Bundle, words: list[str], wanted: str, has_quota: bool
) -> tuple[KernelReport, list[Need]]:
    """The report with the ways that this machine has for the bundle's layers, and the need. Sets `bundle.layers`.

    `wanted` is the way to try, "" for the first one that can be had, "*" for all; `has_quota`: it has a disk quota.
    Raises UsageError for what is no layer.
    """
    paths = [os.path.realpath(word if word.startswith("/") else f"{bundle.path}/{word}") for word in words]
    for path in paths:
        if not os.path.isdir(path):
            raise UsageError(f"layer {path} is no directory")
        if path == "/" or _holds(path, bundle.rootfs) or _holds(bundle.rootfs, path):
            raise UsageError(f"layer {path} and the root {bundle.rootfs} are in one another")
    if len(paths) > _LIMIT:
        raise UsageError(f"{len(paths)} layers: more than {_LIMIT}")
    layers = bundle.layers = Layers(bundle, paths)
    need = Need(FEATURE, f"annotations[{LAYERS_ANNOTATION!r}]" if layer_words(bundle) else "--layer")
    if not report.is_of_here:
        return report.with_findings(*_elsewhere(report)), [need]
    record = layers.record()
    found = []
    with _scratch(bundle) as scratch:
        ways = _ways(report, bundle, layers, scratch, has_quota)
        works = False
        for name, try_it in ways.items():
            if record and name != record["by"]:
                why = f"its root is there already, by {record['by']}"
            elif record and name not in MOUNTED:
                why = ""
            elif wanted not in ("*", name) and (wanted or works):
                why = "not tried"
            else:
                why = try_it()
                works = works or not why
            state = "absent" if why else "works"
            found.append(Finding(f"place.{name}", state, f"{name} of the bundle's layers", why or "it can be done"))
    return report.with_findings(*found), [need]


def _elsewhere(report: KernelReport) -> list[Finding]:
    """What is known of another machine, whose directories are not there to look at."""
    found = []
    for name in (*MOUNTED, "btrfs-snapshot", *WAYS):
        asked = _OF_ELSEWHERE.get(name, "")
        state = "works" if report.works(asked) or name == "copy" else "absent"
        answer = report.evidence(asked) if asked else "the directories are not there to look at"
        found.append(Finding(f"place.{name}", state, f"{name} of the bundle's layers", answer))
    return found


def _holds(folder: str, other: str) -> bool:
    return other == folder or other.startswith(folder.rstrip("/") + "/")


def _ways(
    report: KernelReport, bundle: Bundle, layers: Layers, scratch: str, has_quota: bool
) -> dict[str, Callable[[], str]]:
    """For each way what tells why it can't be had for these layers here, "" where it can; tried in `scratch`."""
    if not scratch:
        return dict.fromkeys((*MOUNTED, "btrfs-snapshot", *WAYS), lambda: f"{bundle.path} can't be written to")

    def overlay() -> str:
        return _as_root() or mounted.overlay_unfit(layers.paths, scratch)

    def fuse_overlayfs() -> str:
        missing = "" if mounted.fuse_program() else "fuse-overlayfs is not installed"
        return _as_root() or ("" if report.works("fuse") else report.evidence("fuse")) or missing

    def btrfs_snapshot() -> str:
        several = "" if len(layers.paths) == 1 else "there are several layers"
        return several or clone.snapshot_unfit(layers.paths[0], bundle.path)

    def reflink() -> str:
        return next((why for path in layers.paths if (why := clone.clone_unfit(path, scratch))), "")

    return {
        "overlay": overlay,
        "fuse-overlayfs": fuse_overlayfs,
        "btrfs-snapshot": btrfs_snapshot,
        "reflink": reflink,
        "hard-links": lambda: _links_unfit(bundle, layers, has_quota),
        "copy": lambda: _copy_unfit(bundle, layers),
    }


def _as_root() -> str:
    return "" if os.geteuid() == 0 else "only root can mount it"


@contextmanager
def _scratch(bundle: Bundle) -> Iterator[str]:
    """A directory for trials, on the file system of the bundle; "" where it can't be made."""
    path = f"{bundle.path}/.joey-try-{os.getpid()}"
    try:
        os.mkdir(path, 0o700)
    except OSError:
        yield ""
        return
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _links_unfit(bundle: Bundle, layers: Layers, has_quota: bool) -> str:
    bounding = (bundle.created_process.get("capabilities") or {}).get("bounding") or []
    dangerous = [name for name in _DANGEROUS if name in bounding]
    if dangerous:
        return f"with {dangerous[0]} the container could write to the layers' files"
    if "user" in bundle.namespaces:
        return "root of a user namespace could write to the layers' files"
    if has_quota:
        return "the layers' files would count for its disk quota"
    if layers.target != bundle.rootfs:
        return "what is not its root can't be guarded: the container could write to the layers' files"
    parent = os.path.dirname(layers.target)
    device = os.stat(parent if os.path.isdir(parent) else bundle.path).st_dev
    return "" if all(os.stat(path).st_dev == device for path in layers.paths) else "they are on another file system"


def _copy_unfit(bundle: Bundle, layers: Layers) -> str:
    cost = tree.measure(layers.paths)
    room = os.statvfs(bundle.path)
    free = room.f_bavail * room.f_frsize
    return "" if free > cost.bytes else f"it needs {cost.bytes >> 20} MB, and {free >> 20} MB are free"


def costs(bundle: Bundle, layers: Layers) -> list[tuple[str, int, int, float]]:
    """What each way writes before a container starts: its name, files, bytes, and seconds by a sample that is written.

    What is mounted copies a file when it is written to first.
    """
    cost = tree.measure(layers.paths)
    a_file, a_byte = _speed(bundle)
    rest, rest_bytes = cost.files - cost.shared_files, cost.bytes - cost.shared_bytes
    return [
        *((name, 0, 0, 0.0) for name in (*MOUNTED, "btrfs-snapshot")),
        ("reflink", cost.files, 0, cost.files * a_file),
        ("hard-links", rest, rest_bytes, cost.files * a_file + rest_bytes * a_byte),
        ("copy", cost.files, cost.bytes, cost.files * a_file + cost.bytes * a_byte),
    ]


def _speed(bundle: Bundle) -> tuple[float, float]:
    """Seconds a file and a byte take here, by some that are written."""
    with _scratch(bundle) as scratch:
        if not scratch:
            return 0.0, 0.0
        started = time.perf_counter()
        for number in range(_SAMPLE_FILES):
            with open(f"{scratch}/{number}", "wb"):
                pass
            os.chown(f"{scratch}/{number}", -1, -1)
            os.utime(f"{scratch}/{number}")
        a_file = (time.perf_counter() - started) / _SAMPLE_FILES * 2  # it is read, too
        started = time.perf_counter()
        with open(f"{scratch}/large", "wb") as file:
            file.write(bytes(_SAMPLE_BYTES))
        return a_file, (time.perf_counter() - started) / _SAMPLE_BYTES


def make(layers: Layers) -> None:
    """Make the tree of a root, and say what it costs while it is made."""
    if layers.record().get("made"):
        return
    with progress.of(f"making {layers.target} of {len(layers.paths)} layers by {layers.by}", "files") as done:
        layers.make_tree(done)
