"""Imports point one way: compat <- probes <- runtime <- migrate, and nothing imports tools."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
LAYERS = ("compat", "probes", "runtime", "migrate")


def imports(source: str, module: str) -> list[str]:
    """The modules a source file imports, absolute; `module` is its own dotted name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            stem = ".".join([*base, *(node.module.split(".") if node.module else [])])
            found += [stem, *(f"{stem}.{alias.name}" for alias in node.names)]
    return found


def upward(source: str, module: str) -> list[str]:
    """Imports of a layer above the module's own."""
    own = LAYERS.index(module.split(".")[1])
    forbidden = tuple(f"joey.{name}" for name in LAYERS[own + 1 :]) + ("joey.tools", "tools", "tests")
    return [
        name for name in imports(source, module) if any(name == top or name.startswith(top + ".") for top in forbidden)
    ]


def sources() -> list[tuple[str, Path]]:
    found = []
    for layer in LAYERS:
        for path in sorted((TOP / layer).rglob("*.py")):
            parts = path.relative_to(TOP).with_suffix("").parts
            found.append((".".join(("joey", *parts)), path))
    return found


def test_no_module_imports_upward() -> None:
    assert len(sources()) > 50
    bad = {module: names for module, path in sources() if (names := upward(path.read_text(), module))}
    assert not bad


@pytest.mark.parametrize(
    "line",
    [
        "from ..runtime import cli",
        "from ...runtime.cli import main",
        "import joey.migrate",
        "from joey import runtime",
        "import tools.demo",
    ],
)
def test_an_injected_upward_import_is_seen(line: str) -> None:
    module = "joey.probes.groups.mounts" if "..." in line else "joey.probes.plan"
    assert upward(line, module)


@pytest.mark.parametrize("line", ["from ..compat import libc", "from . import ladder", "import os", "import toolsmith"])
def test_a_downward_import_is_not(line: str) -> None:
    assert not upward(line, "joey.probes.plan")
