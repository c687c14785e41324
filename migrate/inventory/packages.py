"""The packages of a machine and the paths they own, from its dpkg or RPM database.

dpkg's is text and read here. RPM's is read by the `rpm` program of this machine, from a copy: it knows the Berkeley,
SQLite and ndb formats. Source: deb-control(5), dpkg's doc/; rpm(8).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from ...compat.files import find_program
from ..trees.entry import Tree, opened, read, text

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST_LIST = 16 << 20
_LARGEST_STATUS = 64 << 20
_MOST_OWNED = 1_000_000
_RPM_FOLDERS = (b"var/lib/rpm", b"usr/lib/sysimage/rpm")
_RPM_FILES = (b"Packages", b"rpmdb.sqlite", b"Packages.db")
_LARGEST_RPM = 1 << 30
_RPM_PARTS = (b"Packages", b"Name", b"rpmdb.sqlite", b"rpmdb.sqlite-wal", b"Packages.db", b"Index.db")
_BASE_PRIORITIES = ("required", "important")
# what every RPM distribution's smallest system is made of: the others hang on these
_BASE_RPMS = frozenset(
    "basesystem filesystem setup glibc glibc-common bash coreutils rpm rpm-libs yum dnf systemd systemd-libs "
    "initscripts upstart udev util-linux util-linux-ng shadow-utils pam openssl openssl-libs nss ncurses "
    "ncurses-libs readline zlib libselinux libgcc libstdc++ tzdata ca-certificates sed grep gawk findutils tar "
    "gzip bzip2 xz procps procps-ng centos-release redhat-release-server rocky-release almalinux-release".split()
)


class Package(NamedTuple):
    """`base`: one of those that every machine of the release has."""

    name: str
    version: str
    architecture: str
    base: bool


class Packages:
    """`kind` is "dpkg", "rpm" or "" for none; `owners` gives for a path, its folders' links followed, an index into
    `found`; `configuration` are paths the package manager itself calls configuration.
    """

    def __init__(self, kind: str, found: list[Package]) -> None:
        self.kind = kind
        self.found = found
        self.owners: dict[bytes, int] = {}
        self.configuration: set[bytes] = set()
        self.losses: list[str] = []


def packages(tree: Tree) -> Packages:
    """The packages of a tree. Never raises for what a database holds; says what is lost instead."""
    if tree.status(b"var/lib/dpkg/status") is not None:
        return _dpkg(tree)
    for folder in _RPM_FOLDERS:
        for name in _RPM_FILES:
            if tree.status(folder + b"/" + name) is not None:
                return _rpm(tree, folder)
    return Packages("", [])


class _Folders:
    """Paths with the links of their folders followed: dpkg says /bin/ls where there is /usr/bin/ls."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._known: dict[bytes, bytes] = {b"": b""}

    def plain(self, path: bytes) -> bytes:
        folder, _, name = path.strip(b"/").rpartition(b"/")
        if folder not in self._known:
            self._known[folder] = self._tree.resolve(folder)
        place = self._known[folder]
        return place + b"/" + name if place else name


def _stanzas(data: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a control file; continued lines are joined by newlines."""
    for block in data.split("\n\n"):
        fields: dict[str, str] = {}
        last = ""
        for line in block.split("\n"):
            if line[:1] in (" ", "\t"):
                if last:
                    fields[last] += "\n" + line.strip()
                continue
            name, colon, value = line.partition(":")
            if colon:
                last = name.lower()
                fields[last] = value.strip()
        if fields:
            yield fields


def _dpkg(tree: Tree) -> Packages:
    found = Packages("dpkg", [])
    folders = _Folders(tree)
    lists = set(tree.names(b"var/lib/dpkg/info"))
    for fields in _stanzas(text(tree, b"var/lib/dpkg/status", _LARGEST_STATUS)):
        name = fields.get("package", "")
        if not name or not fields.get("status", "").endswith(" installed"):
            continue
        base = fields.get("priority") in _BASE_PRIORITIES or fields.get("essential") == "yes"
        architecture = fields.get("architecture", "")
        index = len(found.found)
        found.found.append(Package(name, fields.get("version", ""), architecture, base))
        for line in fields.get("conffiles", "").splitlines():
            if line.startswith("/"):
                found.configuration.add(folders.plain(os.fsencode(line.split(" ")[0])))
        for candidate in (f"{name}:{architecture}.list", f"{name}.list"):
            known = os.fsencode(candidate)
            if known in lists:
                lists.discard(known)  # a package that is there twice has one list
                data = read(tree, b"var/lib/dpkg/info/" + known, _LARGEST_LIST) or b""
                for owned in data.split(b"\n"):
                    if owned.startswith(b"/") and owned != b"/.":
                        found.owners.setdefault(folders.plain(owned), index)
                if len(found.owners) > _MOST_OWNED:
                    found.losses.append(f"only {_MOST_OWNED} paths of packages were taken")
                    return found
                break
    return found


_QUERY = "\\v%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\t%{ARCH}\\n[%{FILEFLAGS}\\t%{FILENAMES}\\n]"
_RPM_CONFIG = 1


def _rpm(tree: Tree, folder: bytes) -> Packages:
    found = Packages("rpm", [])
    tool = find_program("rpm")
    if not tool:
        found.losses.append("the RPM database was not read: there is no rpm program here (install rpm)")
        return found
    with tempfile.TemporaryDirectory(prefix="joey-rpm-") as place:
        try:
            _copy_database(tree, folder, place)
            done = subprocess.run(
                [tool, "-qa", "--dbpath", place, "--nosignature", "--nodigest", "--noplugins", "--qf", _QUERY],
                capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=300,
                env={"PATH": os.defpath, "LC_ALL": "C", "HOME": place},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            found.losses.append(f"the RPM database was not read: {error}")
            return found
    if done.returncode or (not done.stdout and done.stderr):
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        found.losses.append(f"the RPM database was not read: {words[-1] if words else 'rpm failed'}")
        return found
    folders = _Folders(tree)
    for block in done.stdout.split(b"\v")[1:]:
        head, _, files = block.partition(b"\n")
        fields = head.decode("utf-8", "replace").split("\t")
        if len(fields) != 3 or fields[0] == "gpg-pubkey":
            continue
        index = len(found.found)
        found.found.append(Package(fields[0], fields[1].removeprefix("0:"), fields[2], fields[0] in _BASE_RPMS))
        for line in files.split(b"\n"):
            flags, _, name = line.partition(b"\t")
            if not name.startswith(b"/"):
                continue
            path = folders.plain(name)
            found.owners.setdefault(path, index)
            if flags.isdigit() and int(flags) & _RPM_CONFIG:
                found.configuration.add(path)
    return found


def _copy_database(tree: Tree, folder: bytes, place: str) -> None:
    """The files of a database, without the environment of Berkeley DB (__db.*), which is for one machine and moment."""
    left = _LARGEST_RPM
    for name in _RPM_PARTS:
        entry = tree.status(folder + b"/" + name)
        if entry is None or entry.open is None:
            continue
        left -= entry.size
        if left < 0:
            raise OSError(f"it has more than {_LARGEST_RPM >> 20} MiB")
        with open(os.path.join(os.fsencode(place), name), "wb") as target, opened(entry) as content:
            buffer = bytearray(1 << 20)
            size = entry.size
            while size and (count := content.readinto(memoryview(buffer)[: min(size, len(buffer))])):
                if any(buffer[:count]):
                    target.write(buffer[:count])
                else:
                    target.seek(count, 1)  # a hole
                size -= count
            target.truncate(entry.size)
