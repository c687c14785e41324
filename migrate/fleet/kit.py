"""The host kit: what it is here, and bringing it to a host.

On a host every kit has a folder of its own, named by its digest, in KIT.kits/ beside KIT, which is a link to one of
them: a rename switches. What the host's present kit has already is linked from there, the rest is sent; then the
whole is checked by its SHA256SUMS, and has to run, before it is switched to. The one before stays, to go back to.
Whatever happens on the way, KIT is the old or the new one (there/kit-send.sh, there/kit-switch.sh).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from isal import igzip

from ...compat.errors import JoeyError
from .link import LinkError, script

if TYPE_CHECKING:
    from collections.abc import Callable

    from .link import Link

_SUM = re.compile(r"([0-9a-f]{64}) [ *]\./((?:[A-Za-z0-9_.+,@=-]+/)*[A-Za-z0-9_.+,@=-]+)")
_LARGEST = 1 << 30
_LARGEST_SUMS = 8 << 20
_MOST_PACKED = 3  # hosts whose kits differ each have another archive


class KitError(JoeyError):
    """A folder or archive is no host kit, or is damaged."""

    slug = "kit"


class State(NamedTuple):
    """What a host has at its KIT: the digest of a kit, "" for none; `sums` is its SHA256SUMS."""

    digest: str
    sums: str
    before: str
    machine: str
    runs: bool
    bad: frozenset[str] = frozenset()  # files that are not what SHA256SUMS says
    rolled_back: bool = False


class Sent(NamedTuple):
    """What a deployment did. Digests; `size`: bytes sent; `files`: how many."""

    before: str
    after: str
    files: int
    size: int


class Kit:
    """A kit on this machine, a folder or an archive as tools/hostkit makes them, all of it checked. Raises KitError."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._packed: dict[frozenset[str], bytes] = {}
        self.files = _of_folder(Path(path)) if os.path.isdir(path) else _of_archive(path)
        if "SHA256SUMS" not in self.files or "bin/joey" not in self.files:
            raise KitError(f"{path} is no host kit", "tools/hostkit makes one")
        text = self.files["SHA256SUMS"][0]
        self.sums = parse_sums(text.decode("ascii", "replace"))
        self.digest = hashlib.sha256(text).hexdigest()[:16]
        # what it has made itself where it was run
        for name in [name for name in self.files if name not in self.sums and "/__pycache__/" in name]:
            del self.files[name]
        for name, (data, _) in self.files.items():
            if name != "SHA256SUMS" and hashlib.sha256(data).hexdigest() != self.sums.get(name):
                raise KitError(f"{path}: {name} is not what its SHA256SUMS says", "make or fetch the kit again")
        if missing := self.sums.keys() - self.files.keys():
            raise KitError(f"{path}: {min(missing)} is missing", "make or fetch the kit again")

    def changed(self, sums: dict[str, str]) -> frozenset[str]:
        """The files that one with these sums does not have, or has otherwise."""
        return frozenset(name for name, digest in self.sums.items() if sums.get(name) != digest) | {"SHA256SUMS"}

    def packed(self, names: frozenset[str]) -> bytes:
        """These files as a tar.gz; made once for hosts that are alike."""
        with self._lock:
            if names not in self._packed:
                while len(self._packed) >= _MOST_PACKED:
                    del self._packed[next(iter(self._packed))]
                out = io.BytesIO()
                with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
                    for name in sorted(names):
                        data, mode = self.files[name]
                        entry = tarfile.TarInfo(name)
                        entry.size, entry.mode = len(data), mode
                        tar.addfile(entry, io.BytesIO(data))
                self._packed[names] = igzip.compress(out.getvalue(), 2)
            return self._packed[names]


def parse_sums(text: str) -> dict[str, str]:
    """path -> SHA-256 of a SHA256SUMS. Raises KitError for a name that could leave the kit."""
    found = {}
    for line in text.splitlines():
        match = _SUM.fullmatch(line)
        if not match or any(part in (".", "..") for part in match[2].split("/")):
            raise KitError(f"SHA256SUMS has the line {line[:80]!r}", "make or fetch the kit again")
        found[match[2]] = match[1]
    return found


def _of_folder(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise KitError(f"{path} is a link: a kit has none", "make or fetch the kit again")
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes(), path.stat().st_mode & 0o755
    return found


def _of_archive(path: str) -> dict[str, tuple[bytes, int]]:
    """Read into memory: it is checked as it was read, and names nothing outside."""
    found = {}
    total = 0
    try:
        with tarfile.open(path, "r:*") as tar:
            for entry in tar:
                name = entry.name.removeprefix("./").partition("/")[2]  # the folder joey-kit-VERSION-x86_64
                total += entry.size
                if total > _LARGEST:
                    raise KitError(f"{path}: more than {_LARGEST >> 20} MiB", "is it a kit?")
                if entry.isdir():
                    continue
                file = tar.extractfile(entry) if entry.isreg() else None
                if file is None or not name or ".." in name.split("/"):
                    raise KitError(f"{path}: a kit has no entry {entry.name!r}", "make or fetch the kit again")
                found[name] = file.read(), entry.mode & 0o755
    except (tarfile.TarError, EOFError, OSError) as error:
        raise KitError(f"{path} is no host kit: {error}", "tools/hostkit makes one") from None
    return found


def state(link: Link) -> State:
    """What the host has. Raises LinkError."""
    done = link.run_as_root(script("kit-state.sh", link.host.kit), limit=_LARGEST_SUMS)
    head, _, sums = done.out.decode("utf-8", "replace").partition("sums\n")
    lines = [line.split(None, 1) for line in head.splitlines()]
    words = {line[0]: line[1] for line in lines if len(line) == 2}
    bad = frozenset(line[1].removeprefix("./") for line in lines if len(line) == 2 and line[0] == "bad")
    return State(words.get("digest", ""), sums, words.get("before", ""), words.get("machine", ""), "runs" in words,
                 bad, "rolled" in words)  # fmt: skip


def deploy(link: Link, kit: Kit, begun: Callable[[str, str], None]) -> Sent:
    """Bring the kit to the host, and switch to it; `begun` is told what from and to before that changes anything.

    Raises LinkError; then the host has what it had, unless the link broke just then.
    """
    if not link.become_root():
        raise LinkError("a kit is deployed by root, and there is no sudo without a password")
    there = state(link)
    if there.machine != "x86_64":
        raise LinkError(f"the kit is for x86_64, and this is {there.machine or 'unknown'}")
    try:
        sums = parse_sums(there.sums) if there.runs else {}
    except KitError:
        sums = {}  # whatever that is, nothing of it is taken along
    names = kit.changed({name: digest for name, digest in sums.items() if name not in there.bad})
    if there.digest == kit.digest and names == {"SHA256SUMS"}:
        return Sent(there.digest, kit.digest, 0, 0)
    data = kit.packed(names)
    want = sum(len(kit.files[name][0]) for name in names) // 1024 * 2 + 1024
    place = link.host.kit
    steps = script("kit-send.sh", place, kit.digest, str(want)) + script("kit-switch.sh", place, kit.digest, "forward")
    begun(there.digest, kit.digest)
    link.send(data, script("lock.sh") + steps)
    return Sent(there.digest, kit.digest, len(names), len(data))


def go_back(link: Link, begun: Callable[[str, str], None]) -> Sent:
    """Switch to the kit before; a host that has gone back already stays there. Raises LinkError."""
    if not link.become_root():
        raise LinkError("a kit is deployed by root, and there is no sudo without a password")
    there = state(link)
    if there.rolled_back:
        link.notes.append("it has gone back to the kit before already")
        return Sent(there.digest, there.digest, 0, 0)
    if not re.fullmatch(r"[0-9a-f]{16}|folder", there.before) or there.before == there.digest:
        raise LinkError("there is no kit to go back to")
    begun(there.digest, there.before)
    done = link.run_as_root(script("lock.sh") + script("kit-switch.sh", link.host.kit, there.before, "back"))
    if done.status:
        raise LinkError(f"it was not switched: {done.reason}")
    return Sent(there.digest, there.before, 0, 0)
