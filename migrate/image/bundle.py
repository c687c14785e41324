"""An image as a bundle: its layers in rootfs/, its config as config.json. Source: image-spec, conversion.md.

A folder is a bundle once config.json is there; what a killed run left is gone on with, layer by layer.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from typing import TYPE_CHECKING, Any

from ...compat import libc
from ...compat.constants import RESOLVE_IN_ROOT
from ...compat.errors import JoeyError, KernelError
from ...compat.files import drop_abandoned, is_abandoned, read_text, write_atomically
from ...runtime.commands.spec import template
from ..trees import entry as trees
from ..trees.folder import FolderTree
from .digest import ImageError
from .unpack import Unpacker

if TYPE_CHECKING:
    from ..progress import Progress
    from .read import Image

_PROGRESS = ".joey-unpack.json"
# what docker gives: enough for services that start as root and give their rights up
CAPABILITIES = [
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
]  # fmt: skip
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Limits:
    """What unpacking may make: bytes of layers and entries in all."""

    def __init__(self, size: int = 256 << 30, entries: int = 20_000_000) -> None:
        self.size = size
        self.entries = entries


def has_openat2() -> bool:
    """Whether this kernel resolves paths inside a root by itself (Linux 5.6)."""
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(libc.openat2(fd, ".", os.O_PATH, RESOLVE_IN_ROOT))
    except KernelError:
        return False
    finally:
        os.close(fd)
    return True


def unpack(image: Image, folder: str, limits: Limits, progress: Progress, native: bool | None = None) -> list[str]:
    """Make a bundle of an image in a new folder; the warnings. `native` forces the way that paths are resolved.

    Raises ImageError, OSError; JoeyError for a folder that holds something else.
    """
    os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        if not can_take(folder):
            raise JoeyError(f"{folder} is there already and not empty", "name a new folder", "exists") from None
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JoeyError(f"another joey unpacks to {folder} now", slug="exists") from None
        for name in (_PROGRESS, "config.json"):
            drop_abandoned(f"{folder}/{name}")
        warnings = _layers(image, folder, limits, progress, has_openat2() if native is None else native)
        config = config_of(image, FolderTree(f"{folder}/rootfs"), os.path.basename(os.path.abspath(folder)))
        write_atomically(f"{folder}/config.json", json.dumps(config, indent=2) + "\n", 0o644)
        os.unlink(f"{folder}/{_PROGRESS}")
        return warnings
    finally:
        os.close(lock)


def can_take(folder: str) -> bool:
    """Whether a bundle can be made in a folder that is there: an empty one, or one that a killed run left."""
    names = os.listdir(folder)
    return _PROGRESS in names or all(is_abandoned(name, _PROGRESS) for name in names)


def _layers(image: Image, folder: str, limits: Limits, progress: Progress, native: bool) -> list[str]:
    rootfs = f"{folder}/rootfs"
    digest = image.descriptor["digest"]
    resumed = os.path.exists(f"{folder}/{_PROGRESS}")
    state = _state(folder, digest)
    _note(folder, digest, state)
    os.makedirs(rootfs, mode=0o755, exist_ok=True)
    progress.stage("checking digests", sum(layer.get("size", 0) for layer in image.layers))
    checked = 0

    def count(size: int) -> None:
        nonlocal checked
        checked += size
        progress.at(checked)

    for index in range(state, len(image.layers)):
        image.check_layer(index, count)
    unpacker = Unpacker(rootfs, native, os.geteuid() == 0)
    left, entries = limits.size, limits.entries
    try:
        for index in range(len(image.layers)):
            progress.stage(f"unpacking layer {index + 1} of {len(image.layers)}")
            with image.open_layer(index) as layer:
                reader = layer.reader(left, entries)
                unpacker.again = resumed and index == state
                (unpacker.recall if index < state else unpacker.apply)(reader, progress.at)
                layer.finish()
                for loss in reader.losses:
                    unpacker.warn(loss)
                left -= reader.unpacked
                entries -= reader.entries
            if index >= state:
                _note(folder, digest, index + 1)
        unpacker.finish()
        return unpacker.warnings
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise JoeyError(f"no space left in {folder}", "make room; the same command goes on", "space") from None
        raise
    finally:
        unpacker.close()


def _state(folder: str, digest: str) -> int:
    """How many layers an earlier run applied. Raises JoeyError where it was of another image."""
    try:
        value = json.loads(read_text(f"{folder}/{_PROGRESS}", 4096))
        known, count = value["image"], int(value["layers"])
    except FileNotFoundError:
        return 0
    except (ValueError, LookupError, TypeError):
        known, count = "", 0
    if known != digest:
        raise JoeyError(f"{folder} holds a part of another image", "remove it, or name a new folder", "exists")
    return count


def _note(folder: str, digest: str, count: int) -> None:
    write_atomically(f"{folder}/{_PROGRESS}", json.dumps({"image": digest, "layers": count}))


def config_of(image: Image, tree: FolderTree, hostname: str) -> dict[str, Any]:
    """The config.json of an image whose files are in a tree. Raises ImageError for a user that is not there."""
    settings = image.settings
    config = template(os.geteuid() != 0, os.geteuid(), os.getegid())
    process = config["process"]
    process["terminal"] = False
    process["args"] = [*_texts(settings, "Entrypoint"), *_texts(settings, "Cmd")] or ["/bin/sh"]
    environment = _texts(settings, "Env")
    if not any(item.startswith("PATH=") for item in environment):
        environment = [_PATH, *environment]
    process["env"] = environment
    process["cwd"] = str(settings.get("WorkingDir") or "/")
    process["user"] = user_of(str(settings.get("User") or ""), tree)
    kinds = ("bounding", "effective", "permitted")
    process["capabilities"] = {kind: list(CAPABILITIES) for kind in kinds}
    process["noNewPrivileges"] = False
    del process["rlimits"]
    config["root"]["readonly"] = False
    config["hostname"] = hostname
    notes = {
        "org.opencontainers.image.os": image.config.get("os"),
        "org.opencontainers.image.architecture": image.config.get("architecture"),
        "org.opencontainers.image.created": image.config.get("created"),
        "org.opencontainers.image.stopSignal": settings.get("StopSignal"),
        "org.opencontainers.image.exposedPorts": ",".join(sorted(map(str, _mapping(settings, "ExposedPorts")))),
    }
    labels = _mapping(settings, "Labels")
    config["annotations"] = {key: str(value) for key, value in {**notes, **labels}.items() if value}
    return config


def _mapping(settings: dict[str, Any], key: str) -> dict[str, Any]:
    value = settings.get(key) or {}
    if not isinstance(value, dict):
        raise ImageError(f"the image's {key} is not a mapping")
    return value


def _texts(settings: dict[str, Any], key: str) -> list[str]:
    value = settings.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ImageError(f"the image's {key} is not a list of texts")
    return list(value)


def user_of(word: str, tree: FolderTree) -> dict[str, Any]:
    """`USER[:GROUP]`, each a name or a number, as ids; with a user's further groups. Source: image-spec, config.md."""
    name, _, group = word.partition(":")
    found: dict[str, Any] = {"uid": 0, "gid": 0}
    users = [line.split(":") for line in trees.text(tree, b"etc/passwd").splitlines()]
    groups = [line.split(":") for line in trees.text(tree, b"etc/group").splitlines()]
    if name:
        user = next((u for u in users if len(u) >= 4 and (u[0] == name or u[2] == name) and _is_id(u[2])), None)
        if user:
            found["uid"] = int(user[2])
            found["gid"] = int(user[3]) if _is_id(user[3]) else 0
        elif _is_id(name):
            found["uid"] = int(name)
        else:
            raise ImageError(f"the image runs as user {name!r}, whom its /etc/passwd does not know")
        if user and not group:
            more = [int(g[2]) for g in groups if len(g) >= 4 and _is_id(g[2]) and user[0] in g[3].split(",")]
            if more:
                found["additionalGids"] = sorted({gid for gid in more if gid != found["gid"]})
    if group:
        entry = next((g for g in groups if len(g) >= 3 and group in (g[0], g[2]) and _is_id(g[2])), None)
        if entry:
            found["gid"] = int(entry[2])
        elif _is_id(group):
            found["gid"] = int(group)
        else:
            raise ImageError(f"the image runs as group {group!r}, which its /etc/group does not know")
    return found


def _is_id(word: str) -> bool:
    """Whether a word is a user's or group's number."""
    return re.fullmatch(r"[0-9]{1,10}", word) is not None and int(word) < 1 << 32
