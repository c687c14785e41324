"""Keys, read once for all hosts of a fleet: those of hosts that are known, and the user's own."""

from __future__ import annotations

import os
import threading
from typing import Any

_KNOWN = ("/etc/ssh/ssh_known_hosts", "~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_files: dict[tuple[str, int], tuple[list[Any], set[str]]] = {}
_keys: dict[tuple[str, int], Any] = {}
_loading = threading.Lock()


def check(connection: Any, paramiko: Any) -> None:
    """Have a connection take known host keys only: fabric takes any."""
    client = connection.client
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    given = connection.ssh_config.get("userknownhostsfile", "").split()
    entries: list[Any] = []
    revoked: set[str] = set()
    for path in (*_KNOWN[:1], *(given or _KNOWN[1:])):
        place = os.path.expanduser(path.strip('"'))
        if os.path.isfile(place):
            more, withdrawn = _entries(place, os.stat(place).st_mtime_ns, paramiko)
            entries += more
            revoked |= withdrawn
    taken = paramiko.HostKeys()
    taken._entries = [entry for entry in entries if entry.key.get_base64() not in revoked]
    client._system_host_keys = taken


def _entries(path: str, changed: int, paramiko: Any) -> tuple[list[Any], set[str]]:
    """The entries of a known_hosts file, and the keys that it revokes; read once for all hosts.

    A line that says nothing to us, such as that of a certificate's authority, is passed over, as ssh does.
    Source: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
    """
    with _loading:
        if (path, changed) not in _files:
            entries, revoked = [], set()
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in file:
                    words = line.split()
                    if words[:1] == ["@revoked"] and len(words) > 3:
                        revoked.add(words[3])
                    if not words or words[0].startswith(("@", "#")):
                        continue
                    try:
                        entry = paramiko.hostkeys.HostKeyEntry.from_line(line.strip())
                    except Exception:
                        continue
                    if entry is not None:
                        entries.append(entry)
            _files[path, changed] = entries, revoked
        return _files[path, changed]


def load(connect: dict[str, Any], paramiko: Any) -> None:
    """Load the first key file once for all hosts: checking an RSA key takes 0.1 s of a processor each time."""
    files = connect.get("key_filename") or []
    files = [files] if isinstance(files, str) else list(files)
    paths = [path for file in files if os.path.isfile(path := os.path.expanduser(file))]
    if not paths or connect.get("pkey") is not None or os.path.exists(f"{paths[0]}-cert.pub"):
        return
    name = paths[0], os.stat(paths[0]).st_mtime_ns
    with _loading:
        if name not in _keys:
            try:
                _keys[name] = paramiko.PKey.from_path(paths[0])
            except Exception:
                _keys[name] = None  # it is encrypted, or none: paramiko says so when it comes to it
        if _keys[name] is not None:
            connect["pkey"] = _keys[name]
            connect["key_filename"] = paths[1:]
