"""How images are named on a command line: TRANSPORT:PLACE[:NAME], as skopeo does."""

from __future__ import annotations

from typing import NamedTuple

from ...compat.errors import UsageError
from . import connection

TRANSPORTS = {
    "oci": "oci:DIR[:NAME], an OCI image layout",
    "docker-archive": "docker-archive:FILE[:NAME:TAG], as `docker save` writes",
    "bundle": "bundle:DIR, an OCI bundle to run",
    "docker": "docker://HOST/NAME[:TAG], in a registry",
}


class Reference(NamedTuple):
    """`name` is "" where none was given."""

    transport: str
    place: str
    name: str

    def __str__(self) -> str:
        return f"{self.transport}:{self.place}" + (f":{self.name}" if self.name else "")


def parse(word: str, allowed: tuple[str, ...], default: str = "") -> Reference:
    """A reference of one of the transports. `default` is taken where none is named. Raises UsageError."""
    transport, colon, rest = word.partition(":")
    if not colon or transport not in TRANSPORTS:
        if not default:
            raise UsageError(f"{word}: no transport", "; ".join(TRANSPORTS[name] for name in allowed))
        transport, rest = default, word
    if transport not in allowed:
        raise UsageError(f"{word}: {transport} does not serve here", "; ".join(TRANSPORTS[name] for name in allowed))
    if transport == "docker":
        connection.parse(rest)
    if transport in ("bundle", "docker"):
        place, name = rest, ""
    else:
        place, _, name = rest.partition(":")
    if not place:
        raise UsageError(f"{word}: nothing is named", TRANSPORTS[transport])
    return Reference(transport, place, name)
