"""A recipe: every decision of one migration, with defaults that an inventory fills in."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..image.compress import DEFAULT_LEVELS
from .rules import RULES, Filter, Rule

VERSION = 1
SPARSE_LIMIT = 8 << 30


@dataclass
class Exclude:
    """A path or pattern that does not move, and the reason that the report gives."""

    path: str
    reason: str
    line: int = 0


@dataclass
class ImageSettings:
    """The image's config, in the words of the image-spec; `name` is what the image is called in its index."""

    name: str = "latest"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    user: str = ""
    working_directory: str = ""
    ports: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    stop_signal: str = ""
    health: list[str] = field(default_factory=list)  # docker's words: CMD-SHELL and a line, or CMD and words
    labels: dict[str, str] = field(default_factory=dict)
    architecture: str = ""
    created: str = ""


@dataclass
class Recipe:
    """`drop` says of each rule whether it applies; `exclude` and `keep` are patterns of the user's own; `sparse_limit`
    is how many bytes of holes a file may have before its size is an error.
    """

    drop: dict[str, bool] = field(default_factory=lambda: {rule.name: rule.default for rule in RULES})
    exclude: list[Exclude] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    image: ImageSettings = field(default_factory=ImageSettings)
    compression: str = "gzip"
    level: int = DEFAULT_LEVELS["gzip"]
    split: bool = True
    sparse_limit: int = SPARSE_LIMIT
    comments: dict[str, str] = field(
        default_factory=dict
    )  # what an inventory says beside a key, not part of the recipe

    def filter(self) -> Filter:
        """What the recipe drops. The user's own patterns come before the rules."""
        own = [Rule(f"exclude {item.path}", "drop", True, item.reason, (item.path,)) for item in self.exclude]
        return Filter([*own, *(rule for rule in RULES if self.drop.get(rule.name, rule.default))], self.keep)
