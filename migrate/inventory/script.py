"""The first line of a script. Source: execve(2), "Interpreter scripts"; env(1), -S."""

from __future__ import annotations

MAGIC = b"#!"


def interpreter(head: bytes) -> tuple[str, str]:
    """The path that a script's first line names, and the command that env(1) is to look for; "" for none."""
    words = head.removeprefix(MAGIC).split(b"\n", 1)[0].decode("utf-8", "replace").split()
    if not words or not words[0].startswith("/"):
        return "", ""
    if words[0].rpartition("/")[2] != "env" or len(words) == 1:
        return words[0], ""
    return words[0], words[2 if words[1] == "-S" and len(words) > 2 else 1]
