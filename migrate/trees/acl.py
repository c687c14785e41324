"""Access control lists: the words that archives have, as the kernel has them. Source: acl(5), posix_acl_xattr.h."""

from __future__ import annotations

import re
from struct import pack

_VERSION = 2
_TAGS = {("user", ""): 1, ("user", "x"): 2, ("group", ""): 4, ("group", "x"): 8, ("mask", ""): 16, ("other", ""): 32}
_NOBODY = 0xFFFFFFFF


def from_text(text: bytes) -> bytes:
    """The value of system.posix_acl_access of "user::rw-,user:33:r--,...". A fourth field is the number of a name.

    Raises ValueError for what is no list, and for a name without a number.
    """
    entries = []
    for line in re.split(r"[\n,]", text.decode("utf-8", "replace")):
        words = line.partition("#")[0].strip()
        if not words:
            continue
        kind, name, rights, *number = words.split(":")
        kind = {"u": "user", "g": "group", "m": "mask", "o": "other"}.get(kind, kind)
        tag = _TAGS.get((kind, "x" if name else ""))
        if tag is None or not re.fullmatch("[r-][w-][x-]", rights):
            raise ValueError(f'"{words}" is no entry of an access control list')
        word = number[0] if number else name
        if name and not word.isdigit():
            raise ValueError(f'it names {kind} "{name}" without a number')
        bits = sum(bit for bit, letter in zip((4, 2, 1), rights, strict=True) if letter != "-")
        entries.append((tag, int(word) if name else _NOBODY, bits))
    return pack("<I", _VERSION) + b"".join(pack("<HHI", tag, bits, who) for tag, who, bits in sorted(entries))
