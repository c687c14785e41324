"""Who joey is to a registry: what docker's and podman's files of credentials, and their helpers, say.

Nothing of it is printed or put on a command line. Source: docker-login(1), containers-auth.json(5).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from typing import Any, NamedTuple

from ...compat.errors import JoeyError
from ...compat.files import find_program

_DOCKER_HUB = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_LARGEST = 1 << 20


class Credentials(NamedTuple):
    """`token` is an identity token to be exchanged, for which `user` and `password` are empty."""

    user: str
    password: str
    token: str = ""


def credentials_of(registry: str, repository: str) -> Credentials | None:
    """The credentials for a registry, those of a longer path first; None for nobody. Raises JoeyError."""
    for path in _files():
        config = _load(path)
        found = _in(config, registry, repository)
        if found is not None:
            return found
    return None


def _files() -> list[str]:
    home = os.path.expanduser("~")
    docker = os.environ.get("DOCKER_CONFIG") or f"{home}/.docker"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    named = os.environ.get("REGISTRY_AUTH_FILE")
    places = [f"{docker}/config.json", f"{runtime}/containers/auth.json", f"/run/containers/{os.geteuid()}/auth.json"]
    return [named] if named else [*places, f"{home}/.config/containers/auth.json"]


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read(_LARGEST))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise JoeyError(
            f"{path} can't be read: {type(error).__name__}", "docker login writes it", "credentials"
        ) from None
    return value if isinstance(value, dict) else {}


def _in(config: dict[str, Any], registry: str, repository: str) -> Credentials | None:
    hosts = list(_DOCKER_HUB) if registry in _DOCKER_HUB else [registry, f"https://{registry}", f"http://{registry}"]
    parts = repository.split("/")
    keys = [f"{registry}/{'/'.join(parts[:count])}" for count in range(len(parts), 0, -1)] + hosts
    helpers = config.get("credHelpers")
    for host in hosts:
        helper = helpers.get(host) if isinstance(helpers, dict) else None
        if helper:
            return _ask(str(helper), host)
    auths = config.get("auths")
    for key in keys:
        entry = auths.get(key) or auths.get(key + "/") if isinstance(auths, dict) else None
        if isinstance(entry, dict):
            if entry.get("identitytoken"):
                return Credentials("", "", str(entry["identitytoken"]))
            if entry.get("auth"):
                return _decoded(str(entry["auth"]), key)
    if config.get("credsStore"):
        for host in hosts:
            if found := _ask(str(config["credsStore"]), host):
                return found
    return None


def _decoded(word: str, key: str) -> Credentials:
    try:
        user, colon, password = base64.b64decode(word, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        colon = user = password = ""
    if not colon:
        raise JoeyError(f"the credentials for {key} can't be decoded", "log in again: docker login", "credentials")
    return Credentials(user, password.rstrip("\0"))


def _ask(helper: str, host: str) -> Credentials | None:
    """What a credential helper says. Source: docker-credential-helpers' protocol."""
    tool = find_program(f"docker-credential-{helper}") if "/" not in helper else ""
    if not tool:
        raise JoeyError(f"there is no docker-credential-{helper} here", "docker's config.json names it", "credentials")
    done = subprocess.run([tool, "get"], input=host, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        return None
    try:
        value = json.loads(done.stdout)
        user, secret = str(value["Username"]), str(value["Secret"])
    except (ValueError, LookupError, TypeError):
        raise JoeyError(f"docker-credential-{helper} answered nothing that makes sense", slug="credentials") from None
    return Credentials("", "", secret) if user == "<token>" else Credentials(user, secret)
