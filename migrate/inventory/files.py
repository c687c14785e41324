"""What one walk over all files tells: sizes by folder, databases, logs, certificates and keys, large data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..trees.entry import Tree, shown
from .model import Found

if TYPE_CHECKING:
    from .model import Inventory

_SKIPPED = (b"proc", b"sys", b"dev", b"run")
DATABASES = (
    (b"var/lib/mysql", "MySQL or MariaDB"),
    (b"var/lib/postgresql", "PostgreSQL"),
    (b"var/lib/pgsql", "PostgreSQL"),
    (b"var/lib/mongodb", "MongoDB"),
    (b"var/lib/mongo", "MongoDB"),
    (b"var/lib/redis", "Redis"),
    (b"var/lib/ldap", "OpenLDAP"),
    (b"var/lib/elasticsearch", "Elasticsearch"),
    (b"var/lib/cassandra", "Cassandra"),
    (b"var/lib/couchdb", "CouchDB"),
    (b"var/lib/rabbitmq", "RabbitMQ"),
    (b"var/lib/influxdb", "InfluxDB"),
    (b"opt/oracle", "Oracle"),
    (b"u01/app/oracle", "Oracle"),
)
# found by name; contents are not read
_SECRETS = (
    (re.compile(rb"(^|/)\.ssh/id_(rsa|dsa|ecdsa|ed25519)[^/.]*$"), "ssh private key"),
    (re.compile(rb"^etc/ssh/ssh_host_[a-z0-9]+_key$"), "ssh host key"),
    (re.compile(rb"(^|/)[^/]+\.(key|p12|pfx|jks|keystore)$"), "private key"),
    (re.compile(rb"^etc/(ssl|pki)/.*private/[^/]+$"), "private key"),
    (re.compile(rb"(^|/)[^/]*keytab$"), "Kerberos keytab"),
    (re.compile(rb"(^|/)\.(pgpass|my\.cnf|netrc|htpasswd|git-credentials)$"), "password file"),
    (re.compile(rb"(^|/)\.aws/credentials$|(^|/)\.docker/config\.json$|(^|/)\.kube/config$"), "cloud credentials"),
    (re.compile(rb"^etc/(openvpn|ipsec\.d|wireguard)/.+\.(key|secrets|conf)$"), "VPN key"),
    (re.compile(rb"^etc/letsencrypt/(live|archive)/.+privkey[^/]*\.pem$"), "private key"),
    (re.compile(rb"^(etc|srv|opt|root|home)/.+\.(crt|cer|pem)$"), "certificate"),
)
_NOT_SECRET = (b"etc/ssl/certs/", b"etc/pki/ca-trust/", b"etc/pki/tls/certs/ca-bundle", b"usr/share/")
_LARGE = 64 << 20
_MOST = 500


def look(tree: Tree, found: Inventory, owned: dict[bytes, int]) -> None:
    """Walk the tree. `owned` are the paths of packages, which are no data of the machine's own."""
    own: dict[bytes, int] = {}
    for entry in tree.entries():
        path = entry.path
        if path.split(b"/", 1)[0] in _SKIPPED:
            continue
        found.entries += 1
        size = 0 if entry.first else entry.size
        found.size += size
        parts = path.split(b"/")
        if size:
            place = b"/".join(parts[: min(2, len(parts) - 1)])
            found.sizes[shown(place)] = found.sizes.get(shown(place), 0) + size
            if path not in owned:
                place = b"/".join(parts[: min(3, len(parts) - 1)])
                own[place] = own.get(place, 0) + size
        if (
            entry.kind == "file"
            and len(found.secrets) < _MOST
            and not path.startswith(_NOT_SECRET)
            and path not in owned
        ):
            for pattern, kind in _SECRETS:
                if pattern.search(path):
                    found.secrets.append(Found(kind, shown(path)))
                    break
    for path, kind in DATABASES:
        size = sum(each for place, each in own.items() if place == path or place.startswith(path + b"/"))
        if size:
            found.databases.append(Found(kind, shown(path), size))
    for place, size in sorted(own.items(), key=lambda item: -item[1]):
        if place.startswith(b"var/log"):
            found.logs.append(Found("logs", shown(place), size))
        elif size >= _LARGE:
            found.data.append(Found("data", shown(place), size))
    del found.data[50:], found.logs[50:]
