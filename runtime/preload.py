"""One file with the compiled code of every module a command loads.

Some fifty modules, found, checked and read one by one, are 3 ms of each start. The file is made when a command first
succeeds without it, beside the modules' own compiled files and like them: for one interpreter, and dropped when a
source changes. Where it can't be written, all goes on as without it.
"""

from __future__ import annotations

import marshal
import os
import sys

from .. import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    # name, whether it is a package, its source below the package joey, the source's mtime in ns and its size, the code
    Entry = tuple[str, bool, str, int, int, CodeType]

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


def load(command: str) -> bool:
    """Load a command's modules from its file; False, and nothing done, where there is none or it does not fit."""
    entries = _fitting(_file(command))
    for name, is_package, source, _, _, code in entries:
        if name in sys.modules:
            continue
        module: ModuleType = type(sys)(name)
        parent, _, last = name.rpartition(".")
        values: dict[str, Any] = module.__dict__
        values["__file__"] = TOP + source
        values["__package__"] = name if is_package else parent
        if is_package:
            values["__path__"] = [(TOP + source).rpartition("/")[0]]
        sys.modules[name] = module
        setattr(sys.modules[parent], last, module)
        exec(code, values)  # noqa: S102  (as the interpreter does with a module's own file)
    return bool(entries)


def _fitting(file: str) -> list[Entry]:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, LIMIT)
        finally:
            os.close(fd)
        magic, entries = marshal.loads(data)  # noqa: S302  (trusted as much as the compiled files it stands among)
        if magic != _magic():
            return []
        for _, _, source, mtime, size, _ in entries:
            status = os.stat(TOP + source)
            if status.st_mtime_ns != mtime or status.st_size != size:
                return []
    except (OSError, EOFError, TypeError, ValueError):
        return []
    found: list[Entry] = entries
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

    entries: list[Entry] = []
    try:
        for name in names:
            module = sys.modules[name]
            source = str(module.__file__)
            status = os.stat(source)
            loader: Any = module.__loader__
            if not source.startswith(TOP):
                return  # part of it is somewhere else
            source = source.removeprefix(TOP)
            row = (name, hasattr(module, "__path__"), source, status.st_mtime_ns, status.st_size, loader.get_code(name))
            entries.append(row)
        write_atomically(_file(command), marshal.dumps((_magic(), entries)), 0o644)
    except (OSError, ImportError, KeyError):
        return  # an upgrade is going on, or the disk is full


def _file(command: str) -> str:
    return f"{os.path.dirname(__file__)}/__pycache__/{command}.{sys.implementation.cache_tag}.start"


def _magic() -> tuple[bytes, str]:
    """What the code is for: this interpreter, and this joey."""
    return sys.modules["_frozen_importlib_external"].MAGIC_NUMBER, __version__
