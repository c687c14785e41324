"""One file with the compiled code of every module a command loads.

Some fifty modules, found, checked and read one by one, are 3 ms of each start. The file is made when a command first
succeeds without it, beside the modules' own compiled files and like them: for one interpreter, and dropped when a
source changes. Where it can't be written, all goes on as without it. A module is taken from it when it is imported: the
start that made the file may have done more than most do.
"""

from __future__ import annotations

import marshal
import os
import sys

from .. import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    # whether it is a package, its source below the package joey, the source's mtime in ns and size, the code's bytes
    Entry = tuple[bool, str, int, int, bytes]

# What clients wait for; other commands run for people.
COMMANDS = frozenset(
    ("run", "create", "start", "exec", "state", "kill", "delete", "ps", "list", "pause", "resume", "update")
)
LIMIT = 4 << 20
TOP = os.path.dirname(os.path.dirname(__file__)) + "/"

_loaded_in_order: list[str] = []


def command_of(argv: list[str]) -> str:
    """The command of a command line, or "": a guess, and a wrong one costs nothing but time."""
    return next((word for word in argv if word in COMMANDS), "")


class _Kept:
    """Finds and loads the modules of a file. Source: importlib.abc, MetaPathFinder and Loader."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        self._spec: Any = sys.modules["_frozen_importlib"].ModuleSpec

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        entry = self._entries.get(name)
        if entry is None:
            return None
        is_package, source, _, _, _ = entry
        spec = self._spec(name, self, origin=TOP + source, is_package=is_package)
        spec.has_location = True  # it has a __file__
        if is_package:
            spec.submodule_search_locations.append((TOP + source).rpartition("/")[0])
        return spec

    def create_module(self, spec: object) -> None:
        """One as usual."""

    def exec_module(self, module: ModuleType) -> None:
        code = marshal.loads(self._entries[module.__name__][4])  # noqa: S302  (trusted as the files it stands among)
        exec(code, module.__dict__)  # noqa: S102  (as the interpreter does with a module's own file)


def load(command: str) -> bool:
    """Have a command's modules come from its file; False, and nothing done, where there is none or it does not fit."""
    entries = _fitting(_file(command))
    if entries:
        sys.meta_path.insert(0, _Kept(entries))
    return bool(entries)


def _fitting(file: str) -> dict[str, Entry]:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, LIMIT)
        finally:
            os.close(fd)
        magic, entries = marshal.loads(data)  # noqa: S302  (trusted as much as the compiled files it stands among)
        if magic != _magic():
            return {}
        for _, source, mtime, size, _ in entries.values():
            status = os.stat(TOP + source)
            if status.st_mtime_ns != mtime or status.st_size != size:
                return {}
    except (OSError, EOFError, TypeError, ValueError, AttributeError):
        return {}
    found: dict[str, Entry] = entries
    return found


def watch(command: str) -> None:
    """Note the order in which modules are ready from here on, where a file for the command could be written."""
    folder = os.path.dirname(_file(command))
    if sys.dont_write_bytecode or not os.access(folder, os.W_OK):
        return
    loader: Any = sys.modules["_frozen_importlib_external"].SourceFileLoader
    execute = loader.exec_module

    def exec_module(self: Any, module: ModuleType) -> None:
        execute(self, module)
        _loaded_in_order.append(module.__name__)

    loader.exec_module = exec_module


def keep(command: str, argv: list[str]) -> None:
    """Write what `watch` has seen to the command's file.

    Not of a start that probed first, for later ones won't; nor of one that did not do the command's work.
    """
    names = [name for name in _loaded_in_order if name.startswith("joey.")]
    if not names or "joey.probes.run" in names or not {"--help", "-h", "--dry-run"}.isdisjoint(argv):
        return
    from ..compat.files import write_atomically

    entries: dict[str, Entry] = {}
    try:
        for name in names:
            module = sys.modules[name]
            source = str(module.__file__)
            status = os.stat(source)
            loader: Any = module.__loader__
            if not source.startswith(TOP):
                return  # part of it is somewhere else
            source = source.removeprefix(TOP)
            code = marshal.dumps(loader.get_code(name))
            entries[name] = (hasattr(module, "__path__"), source, status.st_mtime_ns, status.st_size, code)
        write_atomically(_file(command), marshal.dumps((_magic(), entries)), 0o644)
    except (OSError, ImportError, KeyError):
        return  # an upgrade is going on, or the disk is full


def _file(command: str) -> str:
    return f"{os.path.dirname(__file__)}/__pycache__/{command}.{sys.implementation.cache_tag}.start"


def _magic() -> tuple[bytes, str]:
    """What the code is for: this interpreter, and this joey."""
    return sys.modules["_frozen_importlib_external"].MAGIC_NUMBER, __version__
