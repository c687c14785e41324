"""Device rules on cgroup v1: what to write to devices.allow and devices.deny, for a new group and for one in use.

A group in use is never denied everything on the way: its processes would fail to open /dev/null meanwhile. Source: the
kernel's cgroup-v1 document "Device Whitelist Controller", security/device_cgroup.c.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ALL = "a"

# (kind "b" or "c", major, minor; "*" is any) -> letters of "rwm"; None is everything
Devices = dict[tuple[str, str, str], str]


def writes(rules: list[dict[str, Any]]) -> list[tuple[bool, str]]:
    """(allow, text) for each write that gives a new group these OCI rules, in order, after denying all."""
    out = [(False, ALL)]
    for rule in rules:
        kind = rule.get("type") or "a"
        major, minor = (_star(rule.get(key)) for key in ("major", "minor"))
        access = rule.get("access") or "rwm"
        if kind == "a" and (major, minor) == ("*", "*") and set(access) == set("rwm"):
            out.append((rule["allow"], ALL))
            continue
        out += [
            (rule["allow"], f"{letter} {major}:{minor} {access}") for letter in {"a": "bc", "u": "c"}.get(kind, kind)
        ]
    return out


def changes(present: str, rules: list[dict[str, Any]]) -> list[tuple[bool, str]]:
    """(allow, text) for each write that takes a group from `present` (its devices.list) to the rules."""
    wanted, had = _result(writes(rules)), _listed(present)
    if wanted is None or had is None:
        return [] if wanted == had else writes(rules)
    out = []
    for sign, one, other in ((True, wanted, had), (False, had, wanted)):  # what is new first
        for (kind, major, minor), access in one.items():
            letters = "".join(letter for letter in access if letter not in other.get((kind, major, minor), ""))
            if letters:
                out.append((sign, f"{kind} {major}:{minor} {letters}"))
    return out


def _result(steps: list[tuple[bool, str]]) -> Devices | None:
    """What the kernel makes of writes. It keeps one entry for each exact device, and takes denials from that alone."""
    devices: Devices | None = {}
    for allow, text in steps:
        if text == ALL:
            devices = None if allow else {}
            continue
        if devices is None:
            if not allow:
                return {}  # exceptions from "everything": not told apart here; `changes` writes all anew
            continue
        kind, number, access = text.split(" ")
        major, _, minor = number.partition(":")
        key = (kind, major, minor)
        letters = set(devices.get(key, ""))
        letters = letters | set(access) if allow else letters - set(access)
        devices[key] = "".join(letter for letter in "rwm" if letter in letters)
        if not devices[key]:
            del devices[key]
    return devices


def _listed(text: str) -> Devices | None:
    devices: Devices = {}
    for line in text.splitlines():
        kind, number, access = line.split(" ")
        if kind == "a":
            return None
        major, _, minor = number.partition(":")
        devices[kind, major, minor] = access
    return devices


def _star(number: int | None) -> str:
    return "*" if number is None or number < 0 else str(number)
