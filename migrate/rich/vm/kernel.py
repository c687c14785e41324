"""The kernel of a virtual machine: one that is named, the image's own, or the host's."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ....compat.errors import JoeyError, UsageError
from ....compat.files import read_fd
from ..guest import Guest

_LARGEST = 128 << 20
_LARGEST_MODULE, _LARGEST_MODULES, _MOST_MODULES = 32 << 20, 64 << 20, 64
_HEAD = 1 << 16  # of an image, where it says its release
# what it takes to have its root, its links and its agent; what is in brackets is used where it is there
NEEDED = ("virtio_pci", "9pnet_virtio", "9p", "virtio_net", "virtio_console", "[virtio_rng]", "[qemu_fw_cfg]")
_HINT = "name one: --kernel FILE, or a directory with boot/vmlinuz-* and lib/modules"


@dataclass
class Kernel:
    """`files` is where its image and its modules are; `path` the image's place there."""

    files: Guest
    path: str
    release: str
    source: str

    def image(self) -> bytes:
        return _bytes(self.files, self.path, _LARGEST)

    def modules(self) -> list[tuple[str, bytes]]:
        """Name and content of each module that is to be loaded, in that order. Raises JoeyError."""
        folder = f"/lib/modules/{self.release}"
        if not self.files.exists(f"{folder}/modules.dep"):
            return []  # all is built in, or it shows as it boots
        depends = {}
        for line in self.files.text(f"{folder}/modules.dep").splitlines():
            path, _, rest = line.partition(":")
            depends[_name(path)] = [os.path.normpath(each) for each in (*reversed(rest.split()), path)]
        built_in = {_name(line) for line in self.files.text(f"{folder}/modules.builtin").splitlines()}
        paths: dict[str, None] = {}
        for word in NEEDED:
            name = word.strip("[]")
            if name in depends:
                paths.update(dict.fromkeys(depends[name]))
            elif name not in built_in and name == word:
                raise JoeyError(f"kernel {self.release} ({self.source}) has no {name}", _HINT, "vm")
        out: dict[str, bytes] = {}
        for path in paths:
            out.setdefault(_name(path), _unpacked(path, _bytes(self.files, f"{folder}/{path}", _LARGEST_MODULE)))
            if len(out) > _MOST_MODULES or sum(map(len, out.values())) > _LARGEST_MODULES:
                raise JoeyError(f"kernel {self.release} ({self.source}) wants too many modules", _HINT, "vm")
        return list(out.items())


def choose(word: str, lower: Guest) -> Kernel:
    """The kernel for a machine; `word` is what was asked for. Raises JoeyError, UsageError."""
    if word:
        return _named(os.path.abspath(word))
    return _newest(lower, "the image's") or _hosts()


def _named(path: str) -> Kernel:
    if os.path.isdir(path):
        found = _newest(Guest(path), path)
        if not found:
            raise UsageError(f"--kernel: {path} has no boot/vmlinuz-*", _HINT)
        return found
    if not os.path.isfile(path):
        raise UsageError(f"--kernel: there is no {path}", _HINT)
    folder = os.path.dirname(path)
    top = os.path.dirname(folder) if os.path.basename(folder) == "boot" else folder
    base = Guest(folder)
    release = _release(_head(base, f"/{os.path.basename(path)}"))
    if not release:
        raise UsageError(f"--kernel: {path} is no Linux kernel for x86-64 (a bzImage)", _HINT)
    if os.path.isfile(f"{top}/lib/modules/{release}/modules.dep"):
        return Kernel(Guest(top), path[len(top.rstrip("/")) :], release, path)
    return Kernel(base, f"/{os.path.basename(path)}", release, path)


def _newest(files: Guest, source: str) -> Kernel | None:
    names = [name for name in files.names("/boot") if name.startswith("vmlinuz-") and not name.endswith(".old")]
    for name in sorted(names, key=_version, reverse=True):
        try:
            release = _release(_head(files, f"/boot/{name}"))
        except JoeyError:
            continue
        if release:
            return Kernel(files, f"/boot/{name}", release, source)
    return None


def _hosts() -> Kernel:
    files = Guest("/")
    running = f"/boot/vmlinuz-{os.uname().release}"
    if files.exists(running):
        return Kernel(files, running, os.uname().release, "the host's")
    found = _newest(files, "the host's")
    if not found:
        raise JoeyError("--isolation vm: neither the image nor the host has a kernel in /boot", _HINT, "vm")
    return found


def _version(name: str) -> list[tuple[int, str]]:
    return [(int(word) if word.isdigit() else -1, word) for word in re.findall(r"\d+|[a-z]+", name)]


def _name(path: str) -> str:
    """A module's name, as modprobe(8) has it."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_").strip()


def _release(image: bytes) -> str:
    """What a bzImage says of itself; "" for what is none. Source: Documentation/arch/x86/boot.rst."""
    if image[0x202:0x206] != b"HdrS" or len(image) < 0x1000:
        return ""
    start = int.from_bytes(image[0x20E:0x210], "little") + 0x200
    words = image[start : start + 256].split(b"\0")[0].split()
    return words[0].decode("ascii", "replace") if words else ""


def _head(files: Guest, path: str) -> bytes:
    fd = files.open(path)
    if fd < 0:
        raise JoeyError(f"{path} can't be read", slug="vm")
    try:
        return os.pread(fd, _HEAD, 0)
    except OSError as error:
        raise JoeyError(f"{path}: {error.strerror}", slug="vm") from None
    finally:
        os.close(fd)


def _bytes(files: Guest, path: str, most: int) -> bytes:
    """A file's content. Raises JoeyError."""
    fd = files.open(path)
    if fd < 0:
        raise JoeyError(f"{path} can't be read", slug="vm")
    try:
        return read_fd(fd, most)
    except OSError as error:
        raise JoeyError(f"{path}: {error.strerror}", slug="vm") from None
    finally:
        os.close(fd)


def _unpacked(path: str, data: bytes) -> bytes:
    """A module as insmod of busybox takes it. Raises JoeyError."""
    try:
        if path.endswith(".xz"):
            import lzma

            return lzma.LZMADecompressor().decompress(data, _LARGEST_MODULE)
        if path.endswith(".gz"):
            import zlib

            return zlib.decompressobj(31).decompress(data, _LARGEST_MODULE)
        if path.endswith(".zst"):
            import zstandard

            return zstandard.ZstdDecompressor().decompress(data, _LARGEST_MODULE)
    except ImportError as error:
        raise JoeyError(f"{path}: this Python can't read it: {error}", "another --kernel", "vm") from None
    except Exception as error:  # each of the three has its own
        raise JoeyError(f"{path} is damaged: {error}", slug="vm") from None
    return data
