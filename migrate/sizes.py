"""Sizes as people write and read them."""

from __future__ import annotations

import re

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(word: str) -> int | None:
    """A size as people write it, "8G" or "512 KiB", in bytes; None for what is none."""
    match = re.fullmatch(r"(\d{1,12})\s*([kmgt]?)(i?b)?", word.strip().lower())
    return int(match[1]) * _SIZES[match[2]] if match else None


def shown_size(size: int) -> str:
    """A size for people: "3.4 MiB"."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{size} bytes" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
