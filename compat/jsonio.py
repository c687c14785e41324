"""JSON without the `json` package: its C parser and encoder only, for the start path.

`import json` costs 7-10 ms here because it pulls in `re` and `enum`; the C halves in `_json` cost nothing.
Where an interpreter lacks them, or changed their signature, the ordinary package is used instead.
"""

from __future__ import annotations

from .errors import JoeyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

WHITESPACE = " \t\n\r"


class _ScannerContext:
    """What `_json.make_scanner` reads its settings from; the same names as `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")


def loads(text: str) -> Any:
    """Parse one JSON document. Raises ValueError with line and column on anything else."""
    scan = _scanner()
    if scan is None:
        return _loads_by_package(text)
    start = _skip(text, 0)
    try:
        value, end = scan(text, start)
    except StopIteration as stop:
        raise ValueError(_at(text, stop.value, "expected a value")) from None
    except SystemError:
        return _loads_by_package(text)  # the C parser takes its error class from the package, where that is loaded
    except RecursionError:
        raise ValueError("nested too deeply") from None
    end = _skip(text, end)
    if end != len(text):
        raise ValueError(_at(text, end, "extra data after the document"))
    return value


def _loads_by_package(text: str) -> Any:
    import json

    return json.loads(text, parse_constant=_ScannerContext.parse_constant)


def dumps(value: object) -> str:
    """One line of JSON without blanks, ASCII only, keys in the order given."""
    try:
        from _json import encode_basestring_ascii, make_encoder

        encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)
        return "".join(encode(value, 0))
    except (ImportError, TypeError):
        import json

        return json.dumps(value, allow_nan=False, separators=(",", ":"))


def indented(value: object, margin: str = "") -> str:
    """The same on lines of its own, for people."""
    inner = margin + "  "
    if isinstance(value, dict) and value:
        rows = ",\n".join(f"{inner}{dumps(key)}: {indented(item, inner)}" for key, item in value.items())
        return f"{{\n{rows}\n{margin}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(inner + indented(item, inner) for item in value) + f"\n{margin}]"
    return dumps(value)


def _scanner() -> Callable[[str, int], tuple[Any, int]] | None:
    try:
        from _json import make_scanner
    except ImportError:
        return None
    return make_scanner(_ScannerContext)  # type: ignore[arg-type]


def _skip(text: str, index: int) -> int:
    while index < len(text) and text[index] in WHITESPACE:
        index += 1
    return index


def _at(text: str, index: int, message: str) -> str:
    line = text.count("\n", 0, index) + 1
    column = index - text.rfind("\n", 0, index)
    return f"{message}: line {line} column {column}"


def _refuse(value: object) -> object:
    raise JoeyError(f"can't write {type(value).__name__} as JSON")
