"""The hosts of a fleet: a YAML file with groups and options, or words of a command line.

    defaults: {user: root, timeout: 60}
    hosts:
      web[01-20].example.com: {port: 2222}
      db1: {address: 10.0.0.7, user: admin, sudo: yes}
    groups:
      web: {hosts: ["web*"], key: ~/.ssh/web}
      all-old: {groups: [web], hosts: [db1]}

What a host says of itself goes before what its groups say (the later one wins), and that before the defaults.
"""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...compat.errors import JoeyError, UsageError
from ..yamltext import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DEFAULT_FILE = "fleet.yaml"
KIT = "/opt/joey"
TIMEOUT = 120
_LARGEST = 4 << 20
_MOST = 100_000  # hosts
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,252}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_RANGE = re.compile(r"\[(\d+)-(\d+)\]")
_WORD = re.compile(r"(?:(?P<user>[^@]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^:@]+)(?::(?P<port>\d+))?")


class HostsError(JoeyError):
    """A fleet's file is off, or names no such host."""

    slug = "fleet"


class _Reader(Reader):
    error = HostsError


@dataclass(frozen=True)
class Host:
    """`user` and `port` are "" and 0 for what the SSH configuration says; `sudo` None: where it is not root.

    `timeout`: seconds that all of a command's work there may take. `kit`: the folder of the host kit there.
    """

    name: str
    address: str = ""
    port: int = 0
    user: str = ""
    key: str = ""
    sudo: bool | None = None
    timeout: int = TIMEOUT
    kit: str = KIT
    groups: tuple[str, ...] = ()


class Fleet:
    """All hosts of a file, by name, and its groups."""

    def __init__(self, hosts: dict[str, Host], groups: dict[str, list[str]], where: str) -> None:
        self.hosts = hosts
        self.groups = groups
        self.where = where

    def select(self, words: list[str]) -> list[Host]:
        """Hosts by name, group, shell pattern, or [USER@]ADDRESS[:PORT]; `!WORD` takes away; all where no word is.

        In the order of the file, each once. Raises HostsError for a word that means nothing here.
        """
        chosen: dict[str, Host] = {}
        wanted = [each for word in words if not word.startswith("!") for each in spread(word)]
        unwanted = [each for word in words if word.startswith("!") for each in spread(word[1:])]
        if not wanted:
            chosen = dict(self.hosts)
        for word in wanted:
            names = self._named(word)
            if names:
                chosen.update({name: self.hosts[name] for name in names})
            elif self.hosts and not re.search(r"[@:]", word):
                raise self._unknown(word)
            else:
                host = from_word(word)
                chosen[host.name] = host
        for word in unwanted:  # wherever they stand, they go last
            names = self._named(word) or [name for name in (word, from_word(word).name) if name in chosen]
            if not names:
                raise self._unknown(word)
            for name in names:
                chosen.pop(name, None)
        if not chosen:
            raise HostsError(
                "no host is named", f"name them, or give --hosts FILE (default: {DEFAULT_FILE} in this folder)"
            )
        order = {name: place for place, name in enumerate(self.hosts)}
        return sorted(chosen.values(), key=lambda host: order.get(host.name, len(order)))

    def _unknown(self, word: str) -> HostsError:
        known = ", ".join(sorted(self.groups)) or "none"
        return HostsError(f"{self.where} has no host or group {word!r}", f"groups: {known}")

    def _named(self, word: str) -> list[str]:
        if word in self.hosts:
            return [word]
        if word == "all":
            return list(self.hosts)
        if word in self.groups:
            return self.groups[word]
        return [name for name in self.hosts if any(c in word for c in "*?[") and fnmatch.fnmatchcase(name, word)]


def from_word(word: str) -> Host:
    """`[USER@]ADDRESS[:PORT]`, also with ssh:// before it. Raises UsageError."""
    found = _WORD.fullmatch(word.removeprefix("ssh://").rstrip("/"))
    address = found["host"].strip("[]") if found else ""
    if not found or not _NAME.fullmatch(address.lstrip(":")) or (found["user"] and not _USER.fullmatch(found["user"])):
        raise UsageError(f"{word}: not a host", "[USER@]HOST[:PORT]")
    port = int(found["port"] or 0)
    if port > 65535 or (found["port"] and not port):
        raise UsageError(f"{word}: not a port", "1 to 65535")
    name = address + (f":{port}" if port else "")
    return Host(name, address=address, port=port, user=found["user"] or "")


def read(path: str) -> Fleet:
    """The fleet of a file; of "-": standard input, a host or a pattern of numbers a line; of "": the default file, or
    none. Raises HostsError with the line, OSError."""
    if path == "-":
        lines = (line.partition("#")[0].strip() for line in sys.stdin.read(_LARGEST).splitlines())
        hosts = [from_word(word) for line in lines if line for word in spread(line)]
        return Fleet({host.name: host for host in hosts}, {}, "standard input")
    if not path and not os.path.exists(DEFAULT_FILE):
        return Fleet({}, {}, "the command line")
    path = path or DEFAULT_FILE
    with open(path, encoding="utf-8", errors="replace") as file:
        return parse(file.read(_LARGEST + 1), path)


def spread(name: str) -> list[str]:
    """`web[01-03]` as web01, web02, web03; a name without such a range as it is."""
    count = 1
    for found in _RANGE.finditer(name):
        if len(found[0]) > 32:
            raise HostsError(f"{name[:80]}: not a range of hosts", "such as web[01-20]")
        count *= max(0, int(found[2]) - int(found[1]) + 1)
        if not 0 < count <= _MOST:
            raise HostsError(f"{name}: not a range of hosts, or of more than {_MOST}", "such as web[01-20]")
    return _spread(name)


def _spread(name: str) -> list[str]:
    found = _RANGE.search(name)
    if not found:
        return [name]
    first, last = int(found[1]), int(found[2])
    wide = len(found[1])
    head, tail = name[: found.start()], name[found.end() :]
    return [each for number in range(first, last + 1) for each in _spread(f"{head}{number:0{wide}d}{tail}")]


def parse(data: str, where: str) -> Fleet:
    """A fleet's text. Raises HostsError with the line."""
    read = _Reader(where)
    node = read.root(data, _LARGEST, "a fleet")
    if node is None:
        raise HostsError(f"{where} is empty", "hosts: {web1: , web2: {port: 2222}}")
    defaults: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {}
    groups: dict[str, _Group] = {}
    parts = {
        "defaults": lambda n: defaults.update(_options(read, n, "defaults")),
        "hosts": lambda n: own.update(_hosts(read, n)),
        "groups": lambda n: groups.update(_groups(read, n)),
    }
    read.mapping(node, parts, "a fleet")
    if not own:
        raise HostsError(f"{where}:1: it has no hosts")
    known: dict[str, frozenset[str]] = {}
    for name in groups:
        _members(name, groups, own, (), known)
    order = {name: place for place, name in enumerate(own)}
    members = {name: sorted(known[name], key=order.__getitem__) for name in groups}
    if both := sorted(set(members) & set(own)):
        raise HostsError(f"{where}: {both[0]} is a host and a group")
    hosts = {}
    for name, options in own.items():
        of_groups: dict[str, Any] = {}
        mine = [group for group in groups if name in known[group]]
        for group in mine:
            of_groups.update(groups[group].options)
        hosts[name] = replace(Host(name), **{**defaults, **of_groups, **options}, groups=tuple(mine))
    return Fleet(hosts, members, where)


@dataclass
class _Group:
    """`node` is where it stands, for complaints."""

    read: _Reader
    node: Any
    hosts: list[str]
    groups: list[str]
    options: dict[str, Any]


def _hosts(read: _Reader, node: Any) -> dict[str, dict[str, Any]]:
    from yaml import MappingNode, SequenceNode

    pairs: Iterable[tuple[Any, Any]]
    if isinstance(node, SequenceNode):
        pairs = [(item, None) for item in node.value]
    elif isinstance(node, MappingNode):
        pairs = node.value
    else:
        raise read.fail(node, "hosts is a mapping of names and options, or a list of names")
    found: dict[str, dict[str, Any]] = {}
    for key, value in pairs:
        for name in spread(read.text(key, "a host")):
            if not _NAME.fullmatch(name):
                raise read.fail(key, f"{name!r} is no host's name", "letters, digits, dots and dashes")
            if name in found:
                raise read.fail(key, f"{name} is there twice")
            found[name] = {} if value is None or not value.value else _options(read, value, f"host {name}")
            if len(found) > _MOST:
                raise read.fail(key, f"more than {_MOST} hosts")
    return found


def _groups(read: _Reader, node: Any) -> dict[str, _Group]:
    from yaml import MappingNode

    found = {}
    for key, value in node.value if isinstance(node, MappingNode) else ():
        name = read.text(key, "a group")
        if not _NAME.fullmatch(name) or name == "all" or name in found:
            raise read.fail(key, f"{name!r} can't be a group's name")
        group = _Group(read, key, [], [], {})
        if isinstance(value, MappingNode):
            more = {"hosts": _into(group.hosts, read, "hosts"), "groups": _into(group.groups, read, "groups")}
            group.options.update(_options(read, value, f"group {name}", more))
        else:
            group.hosts += read.texts(value, f"group {name}")
        found[name] = group
    if not isinstance(node, MappingNode):
        raise read.fail(node, "groups is a mapping of names and their hosts")
    return found


def _into(names: list[str], read: _Reader, what: str) -> Callable[[Any], None]:
    """A reader of names that adds them to a list."""
    return lambda node: names.extend(read.texts(node, what))


def _members(name: str, groups: dict[str, _Group], hosts: dict[str, Any], above: tuple[str, ...],
             known: dict[str, frozenset[str]]) -> frozenset[str]:  # fmt: skip
    """The names of a group's hosts; each group is looked at once."""
    if name in known:
        return known[name]
    group = groups[name]
    if name in above:
        raise group.read.fail(group.node, f"group {name} is in itself: {' > '.join([*above, name])}")
    found: set[str] = set()
    for word in group.hosts:
        singles = spread(word)
        some = [each for one in singles for each in ([one] if one in hosts else fnmatch.filter(hosts, one))]
        if not some:
            raise group.read.fail(group.node, f"group {name}: there is no host {word!r}")
        found.update(some)
    for word in group.groups:
        if word not in groups:
            raise group.read.fail(group.node, f"group {name}: there is no group {word!r}")
        found |= _members(word, groups, hosts, (*above, name), known)
    known[name] = frozenset(found)
    return known[name]


def _options(
    read: _Reader, node: Any, what: str, more: dict[str, Callable[[Any], None]] | None = None
) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def text(key: str, pattern: re.Pattern[str] | None = None) -> Callable[[Any], None]:
        def take(value: Any) -> None:
            word = read.text(value, key)
            if not word or (pattern and not pattern.fullmatch(word)):
                raise read.fail(value, f"{word!r} can't be the {key} of a host")
            found[key] = word

        return take

    readers: dict[str, Callable[[Any], None]] = {
        "address": text("address", _NAME),
        "user": text("user", _USER),
        "key": text("key"),
        "kit": text("kit", re.compile(r"(/[A-Za-z0-9][A-Za-z0-9_.+-]*)+")),
        "port": lambda n: found.update(port=read.number(n, "port", 1, 65535)),
        "timeout": lambda n: found.update(timeout=read.number(n, "timeout", 1, 86400)),
        "sudo": lambda n: found.update(sudo=read.switch(n, "sudo")),
    }
    read.mapping(node, {**readers, **(more or {})}, what)
    return found
