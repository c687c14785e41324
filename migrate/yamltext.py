"""YAML that people write: read with the line number in every complaint, and without what makes it costly (aliases)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..compat.errors import JoeyError

if TYPE_CHECKING:
    from collections.abc import Callable


class Reader:
    """Nodes of YAML as plain values; what they are not is an `error` with the file and the line."""

    error: type[JoeyError] = JoeyError

    def __init__(self, name: str) -> None:
        self.name = name

    def fail(self, node: Any, message: str, hint: str = "") -> JoeyError:
        return self.error(f"{self.name}:{node.start_mark.line + 1}: {message}", hint)

    def mapping(self, node: Any, readers: dict[str, Callable[[Any], None]], what: str) -> None:
        """Give the value of each key to its reader. Unknown keys and keys that come twice are errors."""
        from yaml import MappingNode

        if not isinstance(node, MappingNode):
            raise self.fail(node, f"{what} is a mapping of keys and values")
        seen = set()
        for key, value in node.value:
            word = str(key.value)
            if word not in readers:
                raise self.fail(key, f"{what} has no key {word!r}", "keys: " + ", ".join(readers))
            if word in seen:
                raise self.fail(key, f"{word!r} is there twice")
            seen.add(word)
            readers[word](value)

    def text(self, node: Any, what: str) -> str:
        from yaml import ScalarNode

        if not isinstance(node, ScalarNode) or node.tag == "tag:yaml.org,2002:null":
            raise self.fail(node, f"{what} is a text")
        value = str(node.value)
        if "\0" in value:
            raise self.fail(node, f"{what} has a zero byte in it")
        return value

    def switch(self, node: Any, what: str) -> bool:
        from yaml import ScalarNode

        if not isinstance(node, ScalarNode) or node.tag != "tag:yaml.org,2002:bool":
            raise self.fail(node, f"{what} is yes or no")
        return str(node.value).lower() in ("yes", "true", "on")

    def items(self, node: Any, what: str) -> list[Any]:
        from yaml import SequenceNode

        if not isinstance(node, SequenceNode):
            raise self.fail(node, f"{what} is a list")
        return list(node.value)

    def texts(self, node: Any, what: str) -> list[str]:
        return [self.text(item, f"an item of {what}") for item in self.items(node, what)]

    def number(self, node: Any, what: str, least: int, most: int) -> int:
        text = self.text(node, what)
        if not text.isascii() or not text.isdigit() or len(text) > 18 or not least <= int(text) <= most:
            raise self.fail(node, f"{what} is a whole number, {least} to {most}")
        return int(text)

    def root(self, data: str, largest: int, what: str) -> Any:
        """The node of a whole text, None for an empty one. Raises `error`."""
        yaml = load_yaml()
        if len(data) > largest:
            raise self.error(f"{self.name}: {what} of more than {largest} bytes")
        try:
            for event in yaml.parse(data, Loader=yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent):
                    line = getattr(event.start_mark, "line", 0) + 1
                    raise self.error(f"{self.name}:{line}: {what} has no aliases")
            return yaml.compose(data, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = getattr(error.problem_mark or error.context_mark, "line", 0) + 1
            raise self.error(f"{self.name}:{line}: {error.problem or error.context}") from None
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise self.error(f"{self.name}: {error}") from None


def load_yaml() -> Any:
    """The YAML library. Raises JoeyError on a host that has nothing but the kit."""
    try:
        import yaml
    except ImportError:
        raise JoeyError("PyYAML is not in this Python", "migrate from a machine with `pip install joey`") from None
    return yaml
