"""Accounts, groups, sudo, cron and at. No password or key is read into an inventory, only that there is one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..trees.entry import Tree, shown, text
from .model import Account, Job

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_LOGIN = ("nologin", "false", "sync", "shutdown", "halt", "")
_MOST = 5000
_ID = re.compile(r"[0-9]{1,10}")


def accounts(tree: Tree) -> list[Account]:
    """The accounts that somebody could log in to, and root."""
    passwords = {}
    for line in text(tree, b"etc/shadow").splitlines():
        name, _, rest = line.partition(":")
        word = rest.partition(":")[0]
        passwords[name] = bool(word) and not word.startswith(("!", "*"))
    found = []
    for line in text(tree, b"etc/passwd").splitlines()[:_MOST]:
        fields = line.split(":")
        if len(fields) < 7 or not (_ID.fullmatch(fields[2]) and _ID.fullmatch(fields[3])):
            continue
        shell = fields[6].strip()
        if shell.rpartition("/")[2] in _NO_LOGIN and fields[2] != "0":
            continue
        home = fields[5].strip("/").encode("utf-8", "surrogateescape")
        keys = text(tree, home + b"/.ssh/authorized_keys") if home else ""
        count = sum(1 for key in keys.splitlines() if key.strip() and not key.startswith("#"))
        found.append(
            Account(fields[0], int(fields[2]), int(fields[3]), fields[5], shell, passwords.get(fields[0], False), count)
        )
    return found


def groups(tree: Tree) -> int:
    return sum(1 for line in text(tree, b"etc/group").splitlines() if line.count(":") >= 3)


def sudo(tree: Tree) -> list[str]:
    """The lines that give somebody rights."""
    files = [b"etc/sudoers", *(b"etc/sudoers.d/" + name for name in tree.names(b"etc/sudoers.d"))]
    found = []
    for path in files:
        for line in text(tree, path).splitlines():
            word = line.strip()
            if word and not word.startswith(("#", "Defaults", "@")):
                found.append(word)
    return found[:_MOST]


def jobs(tree: Tree) -> list[Job]:
    """The lines of every crontab, scripts of cron.daily and its like, and jobs of at."""
    found: list[Job] = []
    for path in (b"etc/crontab", *(b"etc/cron.d/" + name for name in tree.names(b"etc/cron.d"))):
        found += _crontab(text(tree, path), shown(path), "")
    for folder in (b"var/spool/cron/crontabs", b"var/spool/cron"):
        for name in tree.names(folder):
            entry = tree.status(folder + b"/" + name)
            if entry is not None and entry.kind == "file":
                path = folder + b"/" + name
                found += _crontab(text(tree, path), shown(path), name.decode("utf-8", "replace"))
    for period in ("hourly", "daily", "weekly", "monthly"):
        place = f"etc/cron.{period}".encode()
        for name in tree.names(place):
            if not name.startswith(b"."):
                script = shown(place + b"/" + name)
                found.append(Job(script, "root", f"@{period}", script))
    for spool in (b"var/spool/at", b"var/spool/cron/atjobs"):
        found += [Job(shown(spool + b"/" + n), "", "at", "") for n in tree.names(spool) if re.match(rb"[a-z=]0", n)]
    return found[:_MOST]


def _crontab(data: str, where: str, user: str) -> Iterator[Job]:
    """The jobs of a crontab; a system's has a field for the user. Source: crontab(5)."""
    for line in data.splitlines():
        word = line.strip()
        if not word or word.startswith("#") or re.match(r"\w+\s*=", word):
            continue
        count = 1 if word.startswith("@") else 5
        fields = word.split(None, count + (0 if user else 1))
        if len(fields) <= count + (0 if user else 1):
            continue
        yield Job(where, user or fields[count], " ".join(fields[:count]), fields[-1])
