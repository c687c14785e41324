"""Packages as an application: .deb and .rpm files, whose files stay where they put them. Their scripts are not run.

They are unpacked by the tools of their own: dpkg-deb, and rpm2archive (rpm 4.12).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

from ...compat.errors import UsageError
from ...compat.files import find_program
from ..image.digest import of_file
from ..inventory.application import look
from ..trees.entry import TreeError
from ..trees.layers import ArchiveTree
from .contract import Opened, Options

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..trees.entry import Entry

_LARGEST = 64 << 30  # of what one unpacks to
_CHUNK = 1 << 20
_ENDINGS = (".deb", ".rpm")
_MOST = 1000


def is_package(path: str) -> bool:
    """Whether a file is a package, by its name and its first bytes."""
    if not path.endswith(_ENDINGS) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read(8) in (b"!<arch>\n",) if path.endswith(".deb") else file.read(4) == b"\xed\xab\xee\xdb"


class PackagesSource:
    """Package files, each over those before it."""

    def __init__(self, paths: list[str], options: Options, done: Callable[[str, float], None]) -> None:
        self._paths = paths
        self._options = options
        self._done = done
        self._spools: list[str] = []

    def __enter__(self) -> Opened:
        if len(self._paths) > _MOST:
            raise UsageError(f"{len(self._paths)} packages are more than the {_MOST} that are taken at once")
        for number, path in enumerate(self._paths):
            self._done("unpacking packages", number / len(self._paths))
            spool = os.path.join(self._options.work, f"package-{number}.tar")
            self._spools.append(spool)
            _unpack(path, spool)
        tree = ArchiveTree(self._spools)
        title = os.path.basename(self._paths[0]) if len(self._paths) == 1 else f"{len(self._paths)} packages"
        opened = Opened(tree, "application", title)
        opened.facts = {"reader": "packages", "packages": " ".join(map(os.path.basename, self._paths))[:1000]}
        opened.notes = ["the scripts of packages are not run: users and links that they make are not there"]
        found = opened.application = look(tree, b"")
        wanted = sorted({word for path in self._paths for word in _wants(path)})
        if wanted:
            found.advice.append("its packages want " + ", ".join(wanted[:30]))
        opened.architecture = found.architecture
        return opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for spool in self._spools:
            if os.path.lexists(spool):
                os.unlink(spool)

    def complete(self, wants: Callable[[Entry], bool]) -> None:
        """It is all here."""

    def digest(self) -> str:
        """Of one package its file's; of several that of their digests."""
        digests = [of_file(path) for path in self._paths]
        if len(digests) == 1:
            return digests[0]
        return "sha256:" + hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _tool(name: str, package: str) -> str:
    path = find_program(name)
    if not path:
        raise UsageError(f"there is no {name} here", f"install {package}")
    return path


def _unpack(path: str, spool: str) -> None:
    """Put a package's files into a plain tar. Raises TreeError for a damaged one."""
    is_deb = path.endswith(".deb")
    argv = (
        [_tool("dpkg-deb", "dpkg"), "--fsys-tarfile", "/dev/stdin"]
        if is_deb
        else [_tool("rpm2archive", "rpm"), "--nocompression", "-"]
    )
    with (
        open(path, "rb") as source,
        open(spool, "wb") as target,
        subprocess.Popen(argv, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,
    ):
        assert process.stdout
        assert process.stderr
        size = 0
        while data := process.stdout.read(_CHUNK):
            size += len(data)
            if size > _LARGEST:
                process.kill()
                raise TreeError(f"{path} unpacks to more than {_LARGEST >> 30} GiB")
            target.write(data)
        said = process.stderr.read().decode("utf-8", "replace").strip()
    if process.returncode or not size:
        raise TreeError(f"{path} is a damaged package: {said.splitlines()[-1][:200] if said else argv[0]}")


def _wants(path: str) -> list[str]:
    """What a package depends on, but for what every one of its kind does."""
    if path.endswith(".deb"):
        done = subprocess.run([_tool("dpkg-deb", "dpkg"), "--field", path, "Pre-Depends", "Depends"],
                              capture_output=True, text=True, errors="replace", check=False)  # fmt: skip
        lines = [line.partition(": ")[2] or line for line in done.stdout.splitlines()]
        return [word.strip() for line in lines for word in line.split(",") if word.strip()]
    done = subprocess.run([_tool("rpm", "rpm"), "-qpR", "--nosignature", path], capture_output=True, text=True,
                          errors="replace", check=False)  # fmt: skip
    return [line for line in done.stdout.splitlines() if not line.startswith(("rpmlib(", "/", "rtld("))]
