"""Quotas as words: Pouch's, and a limit of inodes.

    10G                  the root file system
    /data=10G            the directory that is mounted there
    /&/data=10G          both together: one pool
    /vol.*=5G            each that the pattern matches as a whole
    /data=10G:200000     and at most 200,000 files

What names a directory exactly goes before patterns, and patterns go in the order in which they are given.
"""

from __future__ import annotations

import re

from ..errors import UsageError

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kmgtp]?)i?b?", re.IGNORECASE)
_LEAST = 1 << 20
HINT = "quotas: 10G, /data=10G, /&/data=10G (one pool), /vol.*=5G, and :FILES behind a size"


class Pool:
    """Directories that share a limit: `places` as the container has them, `size` in bytes, `inodes` (0: any number)."""

    __slots__ = ("inodes", "places", "size")

    def __init__(self, places: list[str], size: int, inodes: int) -> None:
        self.places = places
        self.size = size
        self.inodes = inodes


class _Rule:
    def __init__(self, word: str) -> None:
        keys, equals, limit = word.rpartition("=")
        size, colon, inodes = limit.partition(":")
        self.word = word
        self.keys = keys.split("&") if equals else ["/"]
        self.size = _bytes(size, word)
        if colon and (not inodes.isdigit() or not int(inodes)):
            raise UsageError(f'disk quota "{word}": "{inodes}" is no number of files', HINT)
        self.inodes = int(inodes) if colon else 0
        for key in self.keys:
            if not key.startswith(("/", ".", "(", "[")):
                raise UsageError(f'disk quota "{word}": "{key}" is no absolute path and no pattern of one', HINT)

    def exact(self, place: str) -> bool:
        return any(_plain(key) == place for key in self.keys)

    def absent(self, places: list[str]) -> list[str]:
        """Which of its keys name none of the places."""
        return [key for key in self.keys if _plain(key) not in places and not any(re.fullmatch(key, p) for p in places)]

    def matches(self, place: str) -> bool:
        try:
            return any(re.fullmatch(key, place) for key in self.keys)
        except re.error as error:
            raise UsageError(f'disk quota "{self.word}": not a pattern: {error}', HINT) from None


def _plain(key: str) -> str:
    return "/" + key.strip("/")


def _bytes(text: str, word: str) -> int:
    match = _SIZE.fullmatch(text)
    if not match:
        raise UsageError(f'disk quota "{word}": "{text}" is no size', HINT)
    size = int(float(match[1]) * _UNITS[match[2].lower()])
    if not _LEAST <= size < 1 << 62:
        raise UsageError(f'disk quota "{word}": {size} bytes are not from 1 MiB to 4 EiB', HINT)
    return size


def pools(words: list[str], places: list[str]) -> list[Pool]:
    """Which of the container's directories get which limit. Raises UsageError for a word that means none of them."""
    rules = [_Rule(word) for word in words]
    chosen: dict[str, _Rule] = {}
    for place in places:
        exact = [rule for rule in rules if rule.exact(place)]
        rule = next(iter(exact), None) or next((rule for rule in rules if rule.matches(place)), None)
        if rule:
            chosen[place] = rule
    out: list[Pool] = []
    for rule in rules:
        mine = [place for place in places if chosen.get(place) is rule]
        if not mine and not any(rule.exact(place) or rule.matches(place) for place in places):
            known = ", ".join(places)
            raise UsageError(f'disk quota "{rule.word}" names no directory of the container', f"there are: {known}")
        if absent := rule.absent(places):
            hint = "there are: " + ", ".join(places)
            raise UsageError(f'disk quota "{rule.word}": {absent[0]} names no directory of the container', hint)
        together = [place for place in mine if rule.exact(place)] if len(rule.keys) > 1 else []
        if together:
            out.append(Pool(together, rule.size, rule.inodes))
        out += [Pool([place], rule.size, rule.inodes) for place in mine if place not in together]
    return out
