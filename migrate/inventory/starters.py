"""How an application starts that is no program itself: by a Procfile, or by the runtime of its language.

Source: the Procfile format of Heroku; npm's package.json; the JAR file specification.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import zipfile
from typing import TYPE_CHECKING, NamedTuple

from ..trees.entry import read, shown

if TYPE_CHECKING:
    from ..trees.entry import Tree

_LARGEST_TEXT = 1 << 20
_LARGEST_JAR = 100 << 20
_PYTHON = ("__main__.py", "app.py", "main.py", "server.py", "run.py")
_PORTS = re.compile(
    r"\.listen\(\s*(\d{2,5})\b|\bport\s*[=:]\s*(\d{2,5})\b"
    r"|\bPORT['\"]?\s*(?:,|\|\||\?\?)\s*['\"]?(\d{2,5})\b"
)


class Start(NamedTuple):
    """A command, why, and the ports that the file it runs tells."""

    command: list[str]
    why: str
    ports: dict[int, str]


def by_procfile(tree: Tree, prefix: bytes) -> Start | None:
    """What a Procfile has for `web`."""
    for line in _text(tree, _join(prefix, b"Procfile")).splitlines():
        kind, colon, command = line.partition(":")
        if colon and kind.strip() == "web" and command.strip():
            return Start(["/bin/sh", "-c", f"exec {command.strip()}"], "its Procfile says so", {})
    return None


def by_runtime(tree: Tree, prefix: bytes, runtimes: dict[str, str]) -> Start | None:
    """What Node.js, Java or Python would run of it."""
    if "node" in runtimes and (found := _node(tree, prefix)):
        return found
    if "java" in runtimes and (found := _java(tree, prefix)):
        return found
    for name in _PYTHON:
        path = _join(prefix, name.encode())
        if _text(tree, path):
            return Start(["python3", shown(path)], f"{name} is a usual name for what Python runs", _ports(tree, path))
    return None


def _node(tree: Tree, prefix: bytes) -> Start | None:
    try:
        value = json.loads(_text(tree, _join(prefix, b"package.json")) or "{}")
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    scripts = value.get("scripts")
    start = scripts.get("start") if isinstance(scripts, dict) else None
    try:
        words = shlex.split(start) if isinstance(start, str) else []
    except ValueError:
        words = []
    if words[:1] == ["node"] and len(words) == 2:
        return _script_of_node(tree, prefix, words[1], "its package.json starts it so")
    if words:
        return Start(["npm", "start"], "its package.json says how it starts", {})
    main = value.get("main")
    return _script_of_node(tree, prefix, main, "it is the main of its package.json") if isinstance(main, str) else None


def _script_of_node(tree: Tree, prefix: bytes, name: str, why: str) -> Start | None:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        return None
    path = _join(prefix, "/".join(parts).encode("utf-8", "surrogateescape"))
    return Start(["node", shown(path)], why, _ports(tree, path)) if tree.status(path) is not None else None


def _java(tree: Tree, prefix: bytes) -> Start | None:
    """The only archive that says what is run of it."""
    found = [
        path
        for folder in (prefix, _join(prefix, b"lib"))
        for path in (_join(folder, name) for name in tree.names(folder))
        if path.endswith((b".jar", b".war")) and _has_main(tree, path)
    ]
    if len(found) != 1:
        return None
    return Start(["java", "-jar", shown(found[0])], "it is the only archive with a Main-Class", {})


def _has_main(tree: Tree, path: bytes) -> bool:
    data = read(tree, path, _LARGEST_JAR)
    try:
        with zipfile.ZipFile(io.BytesIO(data or b"")) as archive, archive.open("META-INF/MANIFEST.MF") as manifest:
            return b"Main-Class:" in manifest.read(_LARGEST_TEXT)
    except (zipfile.BadZipFile, KeyError, OSError, ValueError, RuntimeError):
        return False


def _ports(tree: Tree, path: bytes) -> dict[int, str]:
    words = {word for found in _PORTS.findall(_text(tree, path)) for word in found if word}
    return {number: shown(path) for number in sorted(map(int, words)) if 0 < number < 65536}


def _text(tree: Tree, path: bytes) -> str:
    return (read(tree, path, _LARGEST_TEXT) or b"").decode("utf-8", "replace")


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name
