"""A command line parser for the start path: a table of options a command, help made from it, errors that teach.

`argparse` costs 10-12 ms of every start here. Accepted: `--name value`, `--name=value`, `-n value`, and, as Go's flag
package allows runc's clients, `-name value`. Options end at `--` or, for commands that run programs, at the first word.
"""

from __future__ import annotations

from ..compat.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Values = dict[str, "str | bool | list[str]"]


class Option:
    """`names` are "--bundle", "-b"; `metavar` is "" for a switch; `many` collects a list."""

    __slots__ = ("default", "help", "many", "metavar", "names")

    def __init__(self, names: str, metavar: str, help_text: str, default: str = "", many: bool = False) -> None:
        self.names = names.split()
        self.metavar = metavar
        self.help = help_text
        self.default = default
        self.many = many

    @property
    def key(self) -> str:
        return self.names[0].lstrip("-")


class Command:
    """A command's name, words, options and texts. `least` and `most` bound its words; `most` -1 is any number.

    `verbs` are commands of their own behind its name: name -> (module, one line for the list), as in `cli.COMMANDS`.
    `run` may be None for one that has nothing but verbs.
    """

    __slots__ = (
        "detail",
        "examples",
        "least",
        "most",
        "name",
        "options",
        "run",
        "stop_at_word",
        "summary",
        "verbs",
        "words",
    )

    def __init__(
        self,
        name: str,
        summary: str,
        run: Callable[[Arguments], int] | None,
        words: str = "",
        least: int = 0,
        most: int = 0,
        options: tuple[Option, ...] = (),
        detail: str = "",
        examples: tuple[str, ...] = (),
        stop_at_word: bool = False,
        verbs: dict[str, tuple[str, str]] | None = None,
    ) -> None:
        self.name = name
        self.summary = summary
        self.run = run
        self.words = words
        self.least = least
        self.most = most
        self.options = options
        self.detail = detail
        self.examples = examples
        self.stop_at_word = stop_at_word
        self.verbs = verbs or {}

    @property
    def shown(self) -> dict[str, str]:
        """The verbs that people use, each with its line; those without one are joey's own."""
        return {name: summary for name, (_, summary) in self.verbs.items() if summary}

    def help(self) -> str:
        """The text of `joey NAME --help`."""
        usage = f"joey {self.name}" + (" [options]" if self.options else "") + (f" {self.words}" if self.words else "")
        if self.verbs:
            usage = (usage + "\n" if self.run else "") + f"joey {self.name} {'|'.join(self.shown)} ..."
        parts = [f"{usage}\n\n{self.summary[0].upper()}{self.summary[1:]}."]
        if self.verbs:
            rows = (f"  {name:<10} {summary}" for name, summary in self.shown.items())
            parts.append("Each with its own --help:\n" + "\n".join(rows))
        if self.detail:
            parts.append(self.detail)
        if self.options:
            parts.append("Options:\n" + describe(self.options))
        if self.examples:
            parts.append("Examples:\n" + "\n".join(f"  {line}" for line in self.examples))
        return "\n\n".join(parts) + "\n"


def describe(options: tuple[Option, ...]) -> str:
    """The options as an aligned list."""
    rows = []
    for option in options:
        left = ", ".join(sorted(option.names, key=len)) + (f" {option.metavar}" if option.metavar else "")
        rows.append((left, option.help + (f" (default: {option.default})" if option.default else "")))
    width = min(max(len(left) for left, _ in rows), 34)
    lines = []
    for left, right in rows:
        gap = f"\n{'':{width + 4}}" if len(left) > width else " " * (width - len(left) + 2)
        lines.append(f"  {left}{gap}{right}")
    return "\n".join(lines)


class Arguments:
    """What was given: `text`, `switch` and `many` by the option's first name, and the words."""

    __slots__ = ("_values", "shared", "words")

    def __init__(self, values: Values, words: list[str]) -> None:
        self._values = values
        self.words = words
        self.shared: Arguments = self  # the options before the command's name

    def given(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str:
        value = self._values.get(name, "")
        return value if isinstance(value, str) else ""

    def switch(self, name: str) -> bool:
        return self._values.get(name) is True

    def many(self, name: str) -> list[str]:
        value = self._values.get(name)
        return value if isinstance(value, list) else []

    def number(self, name: str, default: int) -> int:
        """A whole number. Raises UsageError."""
        text = self.text(name)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise UsageError(f'--{name}: "{text}" is not a whole number') from None


def parse(options: tuple[Option, ...], argv: list[str], stop_at_word: bool, hint: str) -> Arguments:
    """Split a command line into options and words. Raises UsageError."""
    by_name = {}
    for option in options:
        for name in option.names:
            by_name[name] = option
            if name.startswith("--"):
                by_name[name[1:]] = option
    values: Values = {}
    for option in options:
        if option.default:
            values[option.key] = option.default
    words: list[str] = []
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if word == "--":
            words += argv[index:]
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            if stop_at_word:
                words += argv[index:]
                break
            continue
        name, equals, value = word.partition("=")
        found = by_name.get(name)
        if found is None:
            raise UsageError(f"unknown option {name}", hint)
        if not found.metavar:
            values[found.key] = not equals or value not in ("false", "0")
            continue
        if not equals:
            if index == len(argv):
                raise UsageError(f"option {name} needs a value: {name} {found.metavar}", hint)
            value = argv[index]
            index += 1
        if found.many:
            values.setdefault(found.key, [])
            values[found.key] = [*values[found.key], value]  # type: ignore[misc]
        else:
            values[found.key] = value
    return Arguments(values, words)
