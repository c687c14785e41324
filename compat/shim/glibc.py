"""Where a root file system has its glibc, what its version is, and which one old kernels don't satisfy."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOADER = "/lib64/ld-linux-x86-64.so.2"
# the first without a way of its own for kernels before 3.2
FIRST_UNFIT = (2, 26)
REFUSAL = b"FATAL: kernel too old"  # in loaders and static programs up to glibc 2.35
_FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
_NAMES = ("libc.so.6", "libpthread.so.0")  # those that make the system calls, beside the loader
_VERSION = re.compile(rb"GNU C Library [^\n]{0,80}? version (\d+)\.(\d+)")


class Library:
    """A file of the C library. `path` is where it is in the root, no link left; `data` its content."""

    __slots__ = ("data", "path")

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self.data = data


def find(get: Callable[[str], Library | None], loader: str = LOADER) -> tuple[tuple[int, int] | None, list[Library]]:
    """The version of a root's glibc for x86-64, and its files, each once; None where there is none.

    `get` gives the x86-64 library at a path of the root, links followed.
    """
    first = get(loader) or get(LOADER)
    if first is None:
        return None, []
    found, version = [first], None
    for folder in dict.fromkeys((first.path.rpartition("/")[0], *_FOLDERS)):
        for name in _NAMES:
            library = get(f"{folder}/{name}")
            if library is None or any(library.path == known.path for known in found):
                continue
            found.append(library)
            if name == "libc.so.6" and (match := _VERSION.search(library.data)):
                version = int(match[1]), int(match[2])
    return (version, found) if version else (None, [])
