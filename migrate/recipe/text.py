"""Recipes as YAML: written with a comment beside every choice, read with the line number in every complaint."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ...compat.errors import JoeyError
from ..image import compress
from ..sizes import parse_size, shown_size
from ..yamltext import Reader
from .model import VERSION, Exclude, ImageSettings, Recipe
from .rules import BY_NAME, RULES, pattern

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST = 1 << 20
_PORT = re.compile(r"([1-9]\d{0,4})(/(tcp|udp|sctp))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,254}")


class RecipeError(JoeyError):
    """A recipe's text is off; the message begins with its file and line."""

    slug = "recipe"


class _Reader(Reader):
    """With the kinds of values that only a recipe has."""

    error = RecipeError

    def pattern(self, node: Any, what: str) -> str:
        value = self.text(node, what)
        if not value.startswith("/") or value.strip("/") == "" or ".." in value.split("/"):
            raise self.fail(node, f"{what} {value!r} is not a path from the root", 'such as "/var/cache/*"')
        try:
            re.compile(pattern(value))
        except re.error as error:
            raise self.fail(node, f"{what} {value!r} is no pattern: {error}") from None
        return value

    def size(self, node: Any, what: str) -> int:
        found = parse_size(self.text(node, what))
        if found is None:
            raise self.fail(node, f"{what} is a size, such as 8G")
        return found


def parse(data: str, name: str) -> Recipe:
    """A recipe's text. `name` is the file's, for messages. Raises RecipeError."""
    read = _Reader(name)
    node = read.root(data, _LARGEST, "a recipe")
    if node is None:
        raise RecipeError(f"{name} is empty", "joey migrate plan SOURCE writes a recipe")
    recipe = Recipe()
    read.mapping(
        node,
        {
            "joey-recipe": lambda n: _version(read, n),
            "source": lambda n: None,  # where the recipe came from, for its reader
            "image": lambda n: _image(read, n, recipe.image),
            "drop": lambda n: _drop(read, n, recipe),
            "exclude": lambda n: _exclude(read, n, recipe),
            "keep": lambda n: recipe.keep.extend(read.pattern(item, "keep") for item in read.items(n, "keep")),
            "layers": lambda n: _layers(read, n, recipe),
        },
        "a recipe",
    )
    if not any(str(key.value) == "joey-recipe" for key, _ in node.value):
        raise RecipeError(f"{name}:1: the first line of a recipe is: joey-recipe: {VERSION}")
    return recipe


def _version(read: _Reader, node: Any) -> None:
    if read.text(node, "joey-recipe") != str(VERSION):
        raise read.fail(node, f"a recipe of version {node.value!r}; this joey reads {VERSION}")


def _drop(read: _Reader, node: Any, recipe: Recipe) -> None:
    def reader(name: str) -> Callable[[Any], None]:
        def put(value: Any) -> None:
            recipe.drop[name] = read.switch(value, f"drop: {name}")

        return put

    read.mapping(node, {name: reader(name) for name in BY_NAME}, "drop")


def _exclude(read: _Reader, node: Any, recipe: Recipe) -> None:
    for item in read.items(node, "exclude"):
        found = Exclude("", "", item.start_mark.line + 1)

        def path(value: Any, found: Exclude = found) -> None:
            found.path = read.pattern(value, "exclude: path")

        def reason(value: Any, found: Exclude = found) -> None:
            found.reason = read.text(value, "exclude: reason")

        read.mapping(item, {"path": path, "reason": reason}, "an item of exclude")
        if not found.path or not found.reason.strip():
            raise read.fail(item, "an item of exclude has a path and a reason")
        recipe.exclude.append(found)


def _layers(read: _Reader, node: Any, recipe: Recipe) -> None:
    level = [0, node]
    given = []

    def compression(value: Any) -> None:
        recipe.compression = read.text(value, "layers: compression")
        if recipe.compression not in compress.MEDIA_TYPES:
            raise read.fail(value, f"there is no compression {recipe.compression!r}", "gzip, zstd or none")

    def number(value: Any) -> None:
        word = read.text(value, "layers: level")
        if not re.fullmatch(r"[0-9]{1,3}", word):
            raise read.fail(value, "layers: level is a number")
        level[:] = [int(word), value]
        given.append(word)

    def split(value: Any) -> None:
        recipe.split = read.switch(value, "layers: split")

    def sparse(value: Any) -> None:
        recipe.sparse_limit = read.size(value, "layers: sparse-limit")

    read.mapping(node, {"compression": compression, "level": number, "split": split, "sparse-limit": sparse}, "layers")
    recipe.level = level[0] if given else compress.DEFAULT_LEVELS[recipe.compression]
    try:
        compress.check(recipe.compression, recipe.level)
    except JoeyError as error:
        raise read.fail(level[1], error.message, error.hint) from None


def _image(read: _Reader, node: Any, image: ImageSettings) -> None:
    def texts(key: str, check: Callable[[Any, str], None] = lambda node, word: None) -> Callable[[Any], None]:
        def put(value: Any) -> None:
            for item, word in zip(read.items(value, key), read.texts(value, key), strict=True):
                check(item, word)
            setattr(image, key, read.texts(value, key))

        return put

    def text(key: str, check: Callable[[Any, str], None] = lambda node, word: None) -> Callable[[Any], None]:
        def put(value: Any) -> None:
            word = read.text(value, key)
            check(value, word)
            setattr(image, key, word)

        return put

    def variable(item: Any, word: str) -> None:
        if "=" not in word or word.startswith("="):
            raise read.fail(item, f"environment: {word!r} is not NAME=VALUE")

    def port(item: Any, word: str) -> None:
        match = _PORT.fullmatch(word)
        if not match or int(match[1]) > 65535:
            raise read.fail(item, f"ports: {word!r} is not a port, such as 80 or 53/udp")

    def path(item: Any, word: str) -> None:
        read.pattern(item, "volumes")

    def health(value: Any) -> None:
        texts("health")(value)
        if image.health and image.health[0] not in ("CMD", "CMD-SHELL", "NONE"):
            problem = f"health: {image.health[0]!r} is none of CMD, CMD-SHELL, NONE"
            raise read.fail(value, problem, "[CMD-SHELL, 'a command']")

    def name(item: Any, word: str) -> None:
        if not _NAME.fullmatch(word):
            raise read.fail(item, f"name: {word!r} is not a name of an image")

    def directory(item: Any, word: str) -> None:
        if not word.startswith("/"):
            raise read.fail(item, f"working-directory: {word!r} does not begin with a slash")

    def moment(item: Any, word: str) -> None:
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", word):
            raise read.fail(item, f"created: {word!r} is no time", "such as 2026-11-25T12:00:00Z")

    def labels(value: Any) -> None:
        from yaml import MappingNode

        if not isinstance(value, MappingNode):
            raise read.fail(value, "labels is a mapping of keys and values")
        for key, item in value.value:
            image.labels[read.text(key, "a label's key")] = read.text(item, "a label's value")

    read.mapping(
        node,
        {
            "name": text("name", name),
            "entrypoint": texts("entrypoint"),
            "command": texts("command"),
            "environment": texts("environment", variable),
            "user": text("user"),
            "working-directory": text("working_directory", directory),
            "ports": texts("ports", port),
            "volumes": texts("volumes", path),
            "stop-signal": text("stop_signal"),
            "health": health,
            "labels": labels,
            "architecture": text("architecture"),
            "created": text("created", moment),
        },
        "image",
    )


def write(recipe: Recipe, source: dict[str, str], sizes: dict[str, tuple[int, int]]) -> str:
    """A recipe as text that `parse` reads as the same recipe. `sizes`: the (entries, bytes) that each rule matches."""
    image = recipe.image
    lines = [
        f"joey-recipe: {VERSION}",
        "# Written by `joey migrate plan`; edit it, then: joey migrate SOURCE --recipe THIS --to DESTINATION",
        "# The same source and recipe give the same image, to the byte. Unknown keys are errors.",
        "",
        "source:  # where this came from; nothing is read from here",
        *(f"  {key}: {_quoted(value)}" for key, value in source.items()),
        "",
        "image:",
        f"  name: {_quoted(image.name)}",
        *_listed("entrypoint", image.entrypoint, recipe.comments.get("entrypoint", "")),
        *_listed("command", image.command, recipe.comments.get("command", "")),
        *_listed("environment", image.environment, recipe.comments.get("environment", "")),
        *_single("user", image.user, recipe.comments.get("user", "")),
        *_single("working-directory", image.working_directory),
        *_listed("ports", image.ports, recipe.comments.get("ports", "")),
        *_listed("volumes", image.volumes, recipe.comments.get("volumes", "")),
        *_single("stop-signal", image.stop_signal, recipe.comments.get("stop-signal", "")),
        *_listed("health", image.health, recipe.comments.get("health", "")),
        *_single("architecture", image.architecture),
        *_single("created", image.created, recipe.comments.get("created", "")),
    ]
    if image.labels:
        lines += ["  labels:", *(f"    {_quoted(key)}: {_quoted(value)}" for key, value in image.labels.items())]
    lines += ["", "drop:  # yes: does not move. With what each matches on this source"]
    for rule in RULES:
        count, size = sizes.get(rule.name, (0, 0))
        matches = f"{count} entries, {shown_size(size)}" if count else "nothing here"
        lines.append(
            f"  {rule.name + ':':<20} {'yes' if recipe.drop[rule.name] else 'no':<4} # {rule.reason} ({matches})"
        )
    lines += ["", "exclude:  # paths of your own that do not move, each with a reason for the report"]
    if recipe.exclude:
        for item in recipe.exclude:
            lines += [f"  - path: {_quoted(item.path)}", f"    reason: {_quoted(item.reason)}"]
    else:
        lines[-1] = "exclude: []  # paths of your own that do not move: - {path: /srv/old, reason: moved elsewhere}"
    lines += ["", *_top_list("keep", recipe.keep, "paths that move although a rule above matches them")]
    lines += [
        "",
        "layers:",
        f"  compression: {recipe.compression}  # gzip, zstd or none",
        f"  level: {recipe.level}",
        f"  split: {'yes' if recipe.split else 'no'}  # packages in layers of their own, which like machines share",
        f"  sparse-limit: {recipe.sparse_limit}  # bytes of holes in one file; more is an error",
        "",
    ]
    return "\n".join(lines)


def _quoted(value: str) -> str:
    """A text in YAML's double quotes."""
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~":
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else f"\\U{ord(char):08x}"


def _single(key: str, value: str, comment: str = "") -> list[str]:
    return [f"  {key}: {_quoted(value)}" + (f"  # {comment}" if comment else "")] if value else []


def _listed(key: str, values: list[str], comment: str = "") -> list[str]:
    tail = f"  # {comment}" if comment else ""
    if len(values) <= 6 and all(len(value) < 30 for value in values):
        return [f"  {key}: [{', '.join(map(_quoted, values))}]{tail}"]
    return [f"  {key}:{tail}", *(f"    - {_quoted(value)}" for value in values)]


def _top_list(key: str, values: list[str], comment: str) -> list[str]:
    if not values:
        return [f"{key}: []  # {comment}"]
    return [f"{key}:  # {comment}", *(f"  - {_quoted(value)}" for value in values)]
