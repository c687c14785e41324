"""Ports that services are configured to listen on: read from their configuration, not tried."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..trees.entry import Tree, shown, text
from .model import Port

if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGEST = 1 << 20
_MOST_FILES = 2000
# (service, files, what a line that names a port looks like, the port where no line does)
_SERVICES: tuple[tuple[str, tuple[str, ...], str, int], ...] = (
    ("sshd", ("etc/ssh/sshd_config", "etc/ssh/sshd_config.d/*.conf"), r"^[ \t]*Port[ \t]+(\d{1,5})\b", 22),
    ("nginx", ("etc/nginx/nginx.conf", "etc/nginx/conf.d/*.conf", "etc/nginx/sites-enabled/*"),
     r"^[ \t]*listen[ \t]+(?:[\d.*]{1,20}:|\[[^\]\n]{0,60}\]:)?(\d{1,5})\b", 0),
    ("httpd", ("etc/httpd/conf/httpd.conf", "etc/httpd/conf.d/*.conf", "etc/apache2/ports.conf"),
     r"^[ \t]*Listen[ \t]+(?:[\d.]{1,20}:|\[[^\]\n]{0,60}\]:)?(\d{1,5})\b", 0),
    ("postgresql", ("etc/postgresql/*/*/postgresql.conf", "var/lib/pgsql/data/postgresql.conf",
                    "var/lib/pgsql/*/data/postgresql.conf"), r"^[ \t]*port[ \t]*=[ \t]*(\d{1,5})\b", 5432),
    ("mysqld", ("etc/my.cnf", "etc/my.cnf.d/*.cnf", "etc/mysql/my.cnf", "etc/mysql/*.conf.d/*.cnf"),
     r"^[ \t]*port[ \t]*=[ \t]*(\d{1,5})\b", 3306),
    ("redis", ("etc/redis.conf", "etc/redis/redis.conf"), r"^[ \t]*port[ \t]+(\d{1,5})\b", 6379),
    ("memcached", ("etc/memcached.conf", "etc/sysconfig/memcached"), r'^[ \t]*(?:-p[ \t]*|PORT=")(\d{1,5})\b', 11211),
    ("haproxy", ("etc/haproxy/haproxy.cfg",), r"^[ \t]*bind[ \t]+\S{0,100}:(\d{1,5})\b", 0),
    ("tomcat", ("etc/tomcat*/server.xml", "opt/*tomcat*/conf/server.xml"),
     r'<Connector\b[^<>]{0,500}?\bport="(\d{1,5})"', 0),
    ("vsftpd", ("etc/vsftpd.conf", "etc/vsftpd/vsftpd.conf"), r"^[ \t]*listen_port=(\d{1,5})\b", 21),
    ("mongod", ("etc/mongod.conf", "etc/mongodb.conf"), r"^[ \t]*port[ \t]*[:=][ \t]*(\d{1,5})\b", 27017),
    ("named", ("etc/named.conf", "etc/bind/named.conf.options"), r"listen-on(?:-v6)?[ \t]+port[ \t]+(\d{1,5})\b", 53),
)  # fmt: skip


def ports(tree: Tree) -> list[Port]:
    """The ports of services whose configuration is there."""
    found: dict[tuple[int, str], Port] = {}
    for service, patterns, line, default in _SERVICES:
        numbers: dict[int, str] = {}
        first = ""
        for path in _matching(tree, patterns):
            data = _settings(text(tree, path, _LARGEST))
            first = first or shown(path)
            for number in re.findall(line, data, re.MULTILINE):
                if 0 < int(number) < 65536:
                    numbers.setdefault(int(number), shown(path))
        if first and not numbers and default:
            numbers[default] = f"{first} (its default)"
        protocol = "udp" if service == "named" else "tcp"
        for number, where in numbers.items():
            found.setdefault((number, protocol), Port(number, protocol, service, where))
    return [found[key] for key in sorted(found)]


def _settings(data: str) -> str:
    """The lines that are no comments."""
    return "\n".join(line for line in data.splitlines() if not line.lstrip().startswith(("#", ";", "!")))


def _matching(tree: Tree, patterns: tuple[str, ...]) -> Iterator[bytes]:
    """The files that patterns with * in their names match."""
    count = 0
    for pattern in patterns:
        for path in expand(tree, b"", pattern.encode().split(b"/")):
            entry = tree.status(path)
            if entry is not None and entry.open is not None and entry.size <= _LARGEST:
                count += 1
                if count > _MOST_FILES:
                    return
                yield path


def expand(tree: Tree, folder: bytes, parts: list[bytes]) -> Iterator[bytes]:
    """The paths that a pattern, cut at its slashes, stands for below a folder."""
    if not parts:
        yield folder
        return
    head, *rest = parts
    prefix = folder + b"/" if folder else b""
    if b"*" not in head:
        yield from expand(tree, prefix + head, rest)
        return
    match = re.compile(b".*".join(re.escape(piece) for piece in head.split(b"*")), re.DOTALL).fullmatch
    for name in tree.names(folder):
        if match(name) and not name.startswith(b"."):
            yield from expand(tree, prefix + name, rest)
