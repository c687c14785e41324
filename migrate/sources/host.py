"""A live host over SSH: listed first, then fetched as tar archives, then what changed meanwhile fetched once more.

Nothing is installed or written there: it takes find, tar and a shell, which every old system has. What is fetched lies
in the work folder with the listing it was fetched by, so that the next run fetches only what changed. Source: find(1),
tar(1) of GNU.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
from typing import TYPE_CHECKING

from ...runtime.tables import plain
from ..image import tarheader
from ..trees.entry import LARGEST_READ, Content, Entry, TreeError, shown
from ..trees.indexed import IndexedTree
from ..trees.paths import in_order
from ..trees.spool import SpoolTree
from .contract import Opened, Options
from .listing import FORMAT, Row, mounts, states, write_states
from .listing import rows as read_rows
from .ssh import Ssh, SshError, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import IO

# what an inventory reads: fetched before anything else
_FIRST = re.compile(
    rb"etc(/.*)?|var/lib/dpkg/(status|info/.*\.list)|var/lib/rpm/[^_.][^/]*|usr/lib/sysimage/rpm/[^_.][^/]*|"
    rb"(usr/)?lib/systemd/system/.*|usr/lib/os-release|var/spool/(cron|at)/.*|.*/\.ssh/authorized_keys|"
    rb"(usr/)?s?bin/(init|sh|bash|busybox|env|openrc|initctl)|sbin/init"
)
_LARGEST_FIRST = 1 << 28
# what tar says of files that a live system changes under its hands
_TOLERATED = re.compile(
    r"file changed as we read it|File removed before we read it|Cannot (stat|open): No such file|[Ff]ile shrank|"
    r"socket ignored|Removing leading|Exiting with failure status"
)
_CHUNK = 1 << 20
_MOST_NOTES = 20
_MOUNTS = "cat /proc/self/mountinfo 2>/dev/null || cat /proc/mounts"  # Linux 2.6.26


class HostTree(IndexedTree):
    """The tree of a host: metadata from its listing, contents as far as they were fetched."""

    def __init__(self, rows: dict[bytes, Row], spool: SpoolTree, one: Callable[[bytes, int], Content]) -> None:
        super().__init__()
        self._one = one  # fetches one small file, for an inventory that follows what it reads
        self.update(rows, spool)

    def update(self, rows: dict[bytes, Row], spool: SpoolTree) -> None:
        """Take another listing, and what was fetched by now."""
        self.rows = rows
        self._spool = spool
        self.index(rows)

    def has(self, path: bytes) -> bool:
        return path in self.rows

    def entry(self, path: bytes) -> Entry:
        if self._spool.has(path):
            return self._spool.entry(path)
        known = self.rows[path].entry
        entry = Entry(path, known.mode, known.uid, known.gid, known.mtime, known.size, known.target)
        entry.first, entry.holes = known.first, known.holes
        if known.kind == "file":
            entry.open = lambda: self._one(path, known.size)
        return entry

    def target(self, path: bytes) -> bytes | None:
        row = self.rows.get(path)
        return row.entry.target if row is not None and row.entry.kind == "link" else None


class HostSource:
    """A live host. Its work folder holds `fetched-N.tar` and, beside each, the listing that it was fetched by."""

    def __init__(self, word: str, options: Options, done: Callable[[str, float], None]) -> None:
        self._ssh = Ssh(parse(word), options.ssh_options)
        self._work = options.work
        self._done = done
        self._roots: list[str] = []
        self._tree: HostTree | None = None
        self._xattrs = True
        self._tar: list[str] = []
        self._passes = 0
        self._known: dict[bytes, bytes] = {}  # path -> state, of what was fetched

    def __enter__(self) -> Opened:
        ssh = self._ssh
        self._done(f"connecting to {ssh.target}", 0)
        ssh.connect()
        self._roots, notes = mounts(ssh.output(["sh", "-c", _MOUNTS]))
        self._look_at_tools()
        self._load()
        self._done("listing files", 0)
        rows = self._list()
        first = [path for path, row in rows.items() if _FIRST.fullmatch(path) and row.entry.kind != "socket"]
        self._fetch([path for path in first if rows[path].entry.size < _LARGEST_FIRST], rows)
        self._tree = HostTree(rows, self._spool(rows), self._cat)
        opened = Opened(self._tree, "host", ssh.target.host)
        opened.facts = {"reader": "ssh", "address": str(ssh.target), "mounts": ", ".join(self._roots)}
        opened.notes = [*ssh.notes, *notes]
        if not self._xattrs:
            opened.notes.append("its tar knows no --xattrs: no capabilities, ACLs and other attributes move")
        self._opened = opened
        return opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def digest(self) -> str:
        """A live host has no bytes of its own to name."""
        return ""

    def complete(self, wants: Callable[[Entry], bool]) -> None:
        """Fetch everything that is wanted, and then what changed meanwhile. Raises SshError."""
        assert self._tree is not None
        tree, notes = self._tree, self._opened.notes
        wanted = [entry.path for entry in tree.entries() if entry.kind != "socket" and wants(entry)]
        self._fetch(wanted, tree.rows)
        self._done("listing files once more", 0)
        rows = self._list()
        changed = [
            path for path, row in rows.items()
            if self._known.get(path) != row.state and row.entry.kind != "socket" and wants(row.entry)
        ]  # fmt: skip
        self._fetch(changed, rows)
        spool = self._spool(rows)
        gone = {path for path in wanted if path not in rows}
        for path in [path for path, row in rows.items() if row.entry.kind == "file" and wants(row.entry)]:
            if not spool.has(path):
                del rows[path]
                gone.add(path)
        tree.update(rows, spool)
        if changed:
            notes.append(f"{len(changed)} entries changed while the host was read, and were fetched once more")
        notes += [f"{shown(path)} vanished while the host was read" for path in sorted(gone)[:_MOST_NOTES]]
        if len(gone) > _MOST_NOTES:
            notes.append(f"and {len(gone) - _MOST_NOTES} more vanished")

    def _look_at_tools(self) -> None:
        text = self._ssh.output(["tar", "--help"], ok=(0, 1, 64)).decode("utf-8", "replace")
        if "--no-recursion" not in text or "--null" not in text:
            hint = "a disk image of the host can be migrated instead"
            raise SshError(f"{self._ssh.target}: its tar is not GNU's", hint)
        self._xattrs = "--xattrs" in text
        self._tar = ["tar", "-C", "/", "-c", "-f", "-", "--format=posix", "--pax-option=delete=atime,delete=ctime"]
        self._tar += ["--numeric-owner", "--no-recursion"]
        if self._xattrs:
            self._tar.append("--xattrs")
        if "--xattrs-include" in text:  # CentOS 6's takes all attributes; newer ones must be told
            self._tar.append("--xattrs-include=*")
        self._tar += ["--null", "-T", "-"]

    def _load(self) -> None:
        """What earlier runs fetched; of an archive that was cut off what is whole."""
        part = self._name(len([n for n in os.listdir(self._work) if n.endswith(".list")]), "tar.part")
        if os.path.isfile(part) and os.path.isfile(_list_of(part)):
            self._rescue(part)
        while os.path.isfile(self._name(self._passes, "list")):
            self._known.update(states(self._name(self._passes, "list")))
            self._passes += 1

    def _rescue(self, part: str) -> None:
        spool = SpoolTree([part], cut_off=True)
        planned = states(_list_of(part))
        with open(part, "r+b") as file:
            file.truncate(spool.end)
            file.seek(spool.end)
            file.write(tarheader.END)
        number = len([name for name in os.listdir(self._work) if name.endswith(".list")])
        write_states(self._name(number, "list.new"), {path: planned[path] for path in spool.paths() if path in planned})
        os.rename(part, self._name(number, "tar"))
        os.rename(self._name(number, "list.new"), self._name(number, "list"))

    def _name(self, number: int, ending: str) -> str:
        return os.path.join(self._work, f"fetched-{number}.{ending}")

    def _spool(self, rows: dict[bytes, Row]) -> SpoolTree:
        spool = SpoolTree([self._name(number, "tar") for number in range(self._passes)], rows)
        # a run that was killed between two names of a file has fetched it twice
        spool.link(
            {path: row.entry.first for path, row in rows.items() if row.entry.kind == "file" and row.entry.first}
        )
        return spool

    def _list(self) -> dict[bytes, Row]:
        """Every path of the host's disks."""
        with self._ssh.start(["find", *self._roots, "-xdev", "-printf", FORMAT]) as listing:
            rows = read_rows(listing.out)
            status = listing.wait()
        if status not in (0, 1) or b"" not in rows:
            text = listing.errors.strip()
            word = plain(text.splitlines()[-1]) if text else f"status {status}"
            raise SshError(f"{self._ssh.target}: its files can't be listed: {word}", "find must be GNU's")
        return rows

    def _fetch(self, paths: list[bytes], rows: dict[bytes, Row]) -> None:
        """Fetch paths that are not as they were when they were last. Raises SshError."""
        changed = (path for path in paths if self._known.get(path) != rows[path].state)
        todo = sorted(changed, key=in_order)
        if not todo:
            return
        total = sum(rows[path].entry.size for path in todo if not rows[path].entry.first) or 1
        number = self._passes
        planned = {path: rows[path].state for path in todo}
        write_states(self._name(number, "list.part"), planned)
        with tempfile.TemporaryFile(dir=self._work) as names:
            names.write(b"".join(b"./" + path + b"\0" for path in todo))
            names.seek(0)
            with self._ssh.start(self._tar, names) as archive:
                self._receive(archive.out, self._name(number, "tar.part"), len(todo), total)
                status = archive.wait()
        lines = archive.errors.splitlines()
        bad = [line for line in lines if line.startswith("tar: ") and not _TOLERATED.search(line)]
        if bad or status not in (0, 1, 2):
            word = bad[0] if bad else (lines or ["the connection broke"])[-1]
            raise SshError(f"{self._ssh.target}: {plain(word)}", "the same command goes on")
        os.rename(self._name(number, "tar.part"), self._name(number, "tar"))
        os.rename(self._name(number, "list.part"), self._name(number, "list"))
        self._known.update(planned)
        self._passes = number + 1

    def _cat(self, path: bytes, size: int) -> Content:
        """A small file's content as it is now."""
        if size > LARGEST_READ:
            raise TreeError(f"{shown(path)} was not fetched from the host")
        return io.BytesIO(self._ssh.output(["head", "-c", str(size), "/" + os.fsdecode(path)]))

    def _receive(self, stream: IO[bytes], path: str, count: int, total: int) -> None:
        most = 2 * total + (1 << 30) + count * 4096  # what a host that lies about its files may fill here
        size = 0
        with open(path, "wb") as target:
            while data := stream.read(_CHUNK):
                target.write(data)
                size += len(data)
                if size > most:
                    raise SshError(f"{self._ssh.target} sends more than the {total} bytes that it listed")
                self._done(f"fetching {count} entries", min(size / total, 1))


def _list_of(part: str) -> str:
    """The listing beside an archive that is not finished."""
    return part.removesuffix("tar.part") + "list.part"
