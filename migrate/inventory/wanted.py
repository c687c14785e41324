"""What an application wants of a root file system: the files that a minimal root has.

The loaders and libraries of its programs and theirs, interpreters with their own libraries, programs that scripts name,
and the settings without which name look-ups, certificates and time fail. A program that another calls by a name in its
code can't be found so: `--root-path` names it. Source: ld.so(8), nsswitch.conf(5), execve(2).
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ...compat.errors import UsageError
from ..sizes import shown_size
from ..trees.entry import Entry, first_bytes, read, shown, text
from ..trees.paths import MAX_LINKS
from . import script
from .elf import MAGIC, Elf, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..trees.entry import Tree
    from ..trees.joined import RootTree
    from .application import Application

_HEAD = 256
_LARGEST_SCRIPT = 1 << 20
_MOST_MISSING = 50
# settings and data, with all that is below
_BASICS = (
    "etc/passwd", "etc/group", "etc/nsswitch.conf", "etc/hosts", "etc/host.conf", "etc/gai.conf", "etc/protocols",
    "etc/services", "etc/ld.so.conf", "etc/ld.so.conf.d", "etc/ld.so.cache", "etc/ld-musl-*.path", "etc/localtime",
    "etc/timezone", "etc/os-release", "usr/lib/os-release", "etc/ssl/certs", "etc/ssl/openssl.cnf",
    "etc/pki/tls/cert.pem", "etc/pki/tls/certs", "etc/pki/tls/openssl.cnf", "etc/pki/ca-trust/extracted",
    "usr/share/ca-certificates", "usr/lib/ssl/certs", "usr/lib/ssl/openssl.cnf", "usr/lib/locale/C.utf8",
    "etc/crypto-policies/back-ends",
)  # fmt: skip
_FOLDERS = ("tmp", "var", "var/tmp", "run", "root", "home", "proc", "sys", "dev", "etc", "usr")
_BINARIES = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
_LIBRARIES = (
    "lib64", "usr/lib64", "lib/*-linux-gnu*", "usr/lib/*-linux-gnu*", "lib", "usr/lib", "usr/local/lib",
    "usr/local/lib/*-linux-gnu*",
)  # fmt: skip
_OFTEN_OPENED = ("libgcc_s.so.1",)  # by pthread_cancel(3) and pthread_exit(3) of glibc
# what an interpreter's programs are called, and the folders it does not run without
_RUNTIMES = {
    "python": (
        r"python3(\.\d+)?", ("usr/lib/python3*", "usr/lib64/python3*", "usr/local/lib/python3*", "etc/python3*")
    ),
    "perl": (r"perl(5[.\d]*)?", ("usr/share/perl*", "usr/lib/*/perl*", "usr/lib64/perl*", "usr/lib/perl*", "etc/perl")),
    "ruby": (
        r"ruby([.\d]+)?", ("usr/lib*/ruby", "usr/lib/*/ruby", "usr/share/ruby*", "var/lib/gems", "usr/share/gems")
    ),
    "php": (r"php([.\d]+)?", ("usr/lib/php*", "usr/lib64/php*", "usr/share/php*", "etc/php*")),
    "java": (r"java", ("usr/lib/jvm", "etc/java*", "etc/alternatives/java", "etc/alternatives/jre*")),
    "node": (r"node(js)?", ("usr/share/nodejs", "usr/lib/*/nodejs", "usr/lib/node_modules")),
    "dotnet": (r"dotnet", ("usr/share/dotnet", "usr/lib/dotnet", "usr/lib64/dotnet")),
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z0-9_.+/\[-]+")
_SHELLS = frozenset("sh bash dash ash ksh zsh".split())
_BUILTIN = frozenset(
    "alias bg break case cd command continue do done echo elif else esac eval exec exit export false fc fg fi for "
    "function getopts hash if in jobs let local printf pwd read readonly return select set shift source test then time "
    "times trap true type ulimit umask unalias unset until wait while [".split()
)


class Wanted:
    """What is taken of a root. `paths` grow until everything in them has what it wants.

    Of what nobody named only files are taken that everybody there may read or execute: keys and passwords are not.
    """

    def __init__(self, root: RootTree, tree: Tree) -> None:
        self.paths: set[bytes] = set()
        self._root = root
        self._tree = tree
        self._todo: list[tuple[Entry, bool, tuple[str, ...]]] = []  # whether it is the root's, folders of who wants it
        self._missing: dict[str, str] = {}
        self._whole: set[bytes] = set()  # folders that were taken with all that is in them
        self._elves: dict[bytes, Elf | None] = {}
        self._own: set[str] = set()  # names of the application's executables, and of its ELF files
        self._libraries = self._folders()
        self._programs = {
            os.fsdecode(name): folder.encode() + b"/" + name
            for folder in reversed(_BINARIES)
            for name in root.names(folder.encode())
        }
        self._runtimes: set[str] = set()
        self.files, self.size = 0, 0

    @property
    def architecture(self) -> str:
        """That of the root's programs, "" where none tells."""
        for name in ("sh", "bash", "busybox", "ls", "env"):
            entry = self._root.status(self._programs.get(name, b"bin/" + name.encode()))
            if entry is not None and entry.open is not None and (elf := self._elf(entry)) and elf.architecture:
                return elf.architecture
        return ""

    def basics(self) -> None:
        for name in _FOLDERS:
            self._take(name.encode(), deep=False)
        for pattern in _BASICS:
            self._take_like(pattern)
        services = set(re.findall(r"^\s*\w+:\s*(.*)$", text(self._root, b"etc/nsswitch.conf"), re.MULTILINE))
        for service in sorted({word for line in services for word in line.split() if word.isalnum()}):
            self._library(f"libnss_{service}.so.2", None, "")
        for name in _OFTEN_OPENED:
            self._library(name, None, "")

    def application(self, found: Application) -> None:
        """What the application's own files want."""
        entries = [entry for entry in self._tree.entries() if entry.open is not None and not entry.first]
        for entry in entries:
            if entry.mode & 0o111 or first_bytes(entry, _HEAD).startswith(MAGIC):
                self._own.add(entry.path.rpartition(b"/")[2].decode("utf-8", "replace"))
        for entry in entries:
            self._wants(entry, of_root=False)
        for name, why in found.runtimes.items():
            if not self._runtime(name):
                self._missing.setdefault(name, why)
        self.close()

    def named(self, path: str) -> None:
        """A path that the user wants, with all below it; it may be a pattern. Raises UsageError where there is none."""
        word = path.strip("/")
        if not word or ".." in word.split("/") or not self._take_like(word, anything=True):
            raise UsageError(f"--root-path {path}: there is nothing in the root file system that is called so")

    def close(self) -> None:
        """Take what is wanted by what was taken."""
        while self._todo:
            self._wants(*self._todo.pop())

    def told(self, title: str) -> list[str]:
        """What the report says."""
        lines = [
            f"{self.files} files ({shown_size(self.size)}) of {title} are below it; a program that it calls without a "
            "script naming it is not among them: --root-path"
        ]
        lines += [f"{who} wants {what}, which {title} does not have" for what, who in self._missing.items()]
        if len(lines) > _MOST_MISSING:
            lines[_MOST_MISSING:] = [f"and {len(lines) - _MOST_MISSING} more are not there"]
        return lines

    def _folders(self) -> list[bytes]:
        """Where the loader looks, as the root's settings say."""
        found: list[bytes] = []
        files = [b"etc/ld.so.conf", *(b"etc/ld.so.conf.d/" + name for name in self._root.names(b"etc/ld.so.conf.d"))]
        for path in files:
            for line in text(self._root, path).splitlines():
                word = line.partition("#")[0].strip()
                if word.startswith("/"):
                    found.append(os.fsencode(word.strip("/")))
        for name in self._root.names(b"etc"):
            if name.startswith(b"ld-musl-") and name.endswith(b".path"):
                words = re.split(r"[:\n]", text(self._root, b"etc/" + name))
                found += [os.fsencode(word.strip("/")) for word in words if word.startswith("/")]
        for pattern in _LIBRARIES:
            found += self._like(pattern)
        return list(dict.fromkeys(found))

    def _like(self, pattern: str) -> Iterator[bytes]:
        """The root's paths that a pattern names, a star within one name."""
        found = [b""]
        for part in pattern.split("/"):
            if "*" not in part and "?" not in part and "[" not in part:
                found = [(at + b"/" + os.fsencode(part)).lstrip(b"/") for at in found]
                continue
            found = [
                (at + b"/" + name).lstrip(b"/")
                for at in found
                for name in self._root.names(at)
                if fnmatchcase(os.fsdecode(name), part)
            ]
        return (path for path in found if self._root.status(path) is not None)

    def _take_like(self, pattern: str, anything: bool = False) -> bool:
        return bool([path for path in self._like(pattern) if self._take(path, anything=anything)])

    def _take(self, path: bytes, deep: bool = True, anything: bool = False, folders: tuple[str, ...] = ()) -> bool:
        """Take a path and what leads to it, where it is `deep` also all below it; whether it is there.

        Links below it are followed, to folders with all in them. `anything`: also what not everybody may read.
        `folders` are where its loader looks, too.
        """
        todo = [path]
        real = self._lead(path, folders, anything)
        if real is None:
            return False
        while deep and todo:
            real = self._lead(todo.pop(), folders, anything)
            if not real or real in self._whole or self._root.entry(real).kind != "directory":
                continue
            if not anything and not self._root.entry(real).mode & 0o001:
                continue
            self._whole.add(real)
            for each in self._root.below(real, lambda entry: anything or bool(entry.mode & 0o001)):
                self._add(each, folders, anything)
                if self._root.target(each) is not None:
                    todo.append(each)
        return True

    def _lead(self, path: bytes, folders: tuple[str, ...], anything: bool) -> bytes | None:
        """Take a path with the links and folders that lead to it; where it is, None for nowhere. At most 40 links."""
        trail: list[bytes] = []
        todo = path.split(b"/")[::-1]
        at, links = b"", 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                at = at.rpartition(b"/")[0]
                continue
            here = (at + b"/" + part).lstrip(b"/")
            if not self._root.has(here):
                return None
            trail.append(here)
            target = self._root.target(here)
            if target is None:
                if todo and not anything and not self._root.entry(here).mode & 0o001:
                    return None  # a folder that not everybody may look into
                at = here
                continue
            links += 1
            if links > MAX_LINKS:
                return None
            at = b"" if target.startswith(b"/") else at
            todo += target.split(b"/")[::-1]
        for each in trail:
            self._add(each, folders, anything)
        return at

    def _add(self, path: bytes, folders: tuple[str, ...], anything: bool) -> None:
        if path in self.paths:
            return
        entry = self._root.entry(path)
        if entry.kind not in ("file", "directory", "link"):
            return
        if entry.kind == "file":
            if not (anything or entry.mode & 0o005):
                return
            self.files += 1
            self.size += entry.size
            self._todo.append((entry, True, folders))
        self.paths.add(path)

    def _wants(self, entry: Entry, of_root: bool, folders: tuple[str, ...] = ()) -> None:
        """Take what a file wants: by its ELF header, or its first line."""
        data = first_bytes(entry, _HEAD)
        who = shown(entry.path)
        if data.startswith(MAGIC):
            elf = self._elf(entry) if of_root else parse(entry)
            if elf is None:
                return
            if elf.interpreter:
                self._path(elf.interpreter, who)
            beside = shown(entry.path.rpartition(b"/")[0])
            own = [folder.replace("${ORIGIN}", beside).replace("$ORIGIN", beside) for folder in elf.folders if folder]
            below = tuple(dict.fromkeys([*own, *folders]))  # a DT_RPATH holds for the libraries of libraries, too
            for library in elf.libraries:
                is_own = not of_root and library in self._own
                self._library(library, elf, "" if is_own else who, below)
            self._runtime_of(entry.path.rpartition(b"/")[2])
        elif data.startswith(script.MAGIC):
            # what comes with an interpreter need not all run there
            self._script(entry, *script.interpreter(data), "" if of_root else who, of_root)

    def _script(self, entry: Entry, path: str, command: str, who: str, of_root: bool) -> None:
        if not path:
            return
        self._path(path, who)
        if command:
            self._command(command, who)
        name = command or path.rpartition("/")[2]
        self._runtime_of(name.encode())
        if name not in _SHELLS or entry.size > _LARGEST_SCRIPT:
            return
        content = read(self._root if of_root else self._tree, entry.path, _LARGEST_SCRIPT) or b""
        code = re.sub(r"(?m)(^|\s)#.*$", "", content.decode("utf-8", "replace"))
        for word in sorted(set(_WORD.findall(code))):
            if word.startswith("/"):
                self._program(os.fsencode(word.strip("/")))
            elif word in self._programs and word not in _BUILTIN:
                self._program(self._programs[word])

    def _program(self, path: bytes) -> bool:
        """Take a path where a program is; a folder of the same name is none."""
        entry = self._root.status(path)
        return (
            entry is not None and entry.open is not None and bool(entry.mode & 0o111) and self._take(path, deep=False)
        )

    def _command(self, name: str, who: str) -> None:
        if not self._program(self._programs.get(name, b"")) and who and name not in self._own:
            self._missing.setdefault(name, who)

    def _path(self, path: str, who: str) -> None:
        word = os.fsencode(path.strip("/"))
        if self._tree.status(word) is None and not self._program(word) and who:
            self._missing.setdefault(path, who)

    def _library(self, name: str, elf: Elf | None, who: str, folders: tuple[str, ...] = ()) -> None:
        """Take a library from where the loader would. Without a `who` it is no loss if there is none."""
        for folder in (*(os.fsencode(each).strip(b"/") for each in folders), *self._libraries):
            path = os.fsencode(name).strip(b"/") if "/" in name else folder + b"/" + os.fsencode(name)
            entry = self._root.status(path)
            if entry is None or entry.open is None:
                continue
            found = self._elf(entry)
            fits = found is not None and (elf is None or found.machine == elf.machine)
            if fits and self._take(path, deep=False, folders=folders):
                return
        if who:
            self._missing.setdefault(name, who)

    def _elf(self, entry: Entry) -> Elf | None:
        if entry.path not in self._elves:
            self._elves[entry.path] = parse(entry)
        return self._elves[entry.path]

    def _runtime_of(self, program: bytes) -> None:
        for name, (pattern, _) in _RUNTIMES.items():
            if re.fullmatch(pattern, os.fsdecode(program)):
                self._runtime(name)

    def _runtime(self, name: str) -> bool:
        """Take an interpreter with its libraries; whether the root has it."""
        if name in self._runtimes:
            return True
        pattern, trees = _RUNTIMES[name]
        programs = [path for word, path in sorted(self._programs.items()) if re.fullmatch(pattern, word)]
        if not [path for path in programs if self._program(path)]:
            return False
        self._runtimes.add(name)
        for each in trees:
            self._take_like(each)
        return True
