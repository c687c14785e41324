"""LVM2 volumes from their text metadata, without device-mapper: linear ones, of any number of segments and disks.

Source: lvm2's lib/format_text/layout.h and its format_text documents (the label, the metadata area, the text).
"""

from __future__ import annotations

import re
from struct import unpack_from
from typing import Any

from .blocks import Blocks, DiskError, Extent, joined

_SECTOR = 512
_AREA = b" LVM2 x[5A%r0N*>"
_LARGEST = 16 << 20  # of a metadata text
_DEPTH = 8
_MOST = 100_000  # values in a text
_TOKEN = re.compile(r'\s+|#[^\n]*|("(?:[^"\\]|\\.)*")|(-?\d+(?:\.\d+)?)|([A-Za-z_.+@/0-9-]+)|([{}=\[\],])')


class PhysicalVolume:
    """A volume that belongs to a group: its own `uuid`, and the group's newest `text` that it holds, or ""."""

    def __init__(self, name: str, blocks: Blocks, uuid: str, text: str) -> None:
        self.name = name
        self.blocks = blocks
        self.uuid = uuid
        self.text = text


class LogicalVolume:
    """`error` says why a volume can't be read; then it has no blocks."""

    def __init__(self, group: str, name: str, blocks: Blocks | None, error: str = "") -> None:
        self.group = group
        self.name = name
        self.blocks = blocks
        self.error = error


def physical_volume(name: str, blocks: Blocks) -> PhysicalVolume | None:
    """The label of a physical volume, or None. Raises DiskError for a damaged one."""
    for sector in range(4):
        label = blocks.read(sector * _SECTOR, _SECTOR)
        if label.startswith(b"LABELONE") and label[24:32] == b"LVM2 001":
            break
    else:
        return None
    at = unpack_from("<I", label, 20)[0]
    if not 32 <= at <= _SECTOR - 40:
        raise DiskError(f"{name}: the label of its LVM physical volume is damaged")
    identity = label[at : at + 32].decode("ascii", "replace")
    texts = [_text(name, blocks, offset) for offset, _ in _areas(label, at + 40)]
    return PhysicalVolume(name, blocks, identity, max(texts, key=_sequence, default=""))


def _areas(label: bytes, at: int) -> list[tuple[int, int]]:
    """(offset, size) of the metadata areas: the second of two lists that each end with zeros."""
    lists: list[list[tuple[int, int]]] = [[], []]
    which = 0
    while at + 16 <= len(label) and which < 2:
        offset, size = unpack_from("<QQ", label, at)
        at += 16
        if offset == 0 and size == 0:
            which += 1
        else:
            lists[which].append((offset, size))
    return lists[1]


def _text(name: str, blocks: Blocks, area: int) -> str:
    """The metadata text of an area, "" where it holds none. The area is a ring: the text may go on at its beginning."""
    head = blocks.read(area, _SECTOR)
    if len(head) < _SECTOR or head[4:20] != _AREA:
        raise DiskError(f"{name}: an LVM metadata area is damaged")
    area_size = unpack_from("<Q", head, 32)[0]
    offset, size = unpack_from("<QQ", head, 40)
    if not offset:
        return ""
    if size > _LARGEST or size > area_size or not _SECTOR <= offset < area_size:
        raise DiskError(f"{name}: an LVM metadata area says that its text has {size} bytes at {offset}")
    first = min(size, area_size - offset)
    data = blocks.read(area + offset, first) + blocks.read(area + _SECTOR, size - first)
    return data.rstrip(b"\0").decode("utf-8", "replace")


def _sequence(text: str) -> int:
    found = re.search(r"\bseqno\s*=\s*(\d{1,18})\b", text)
    return int(found[1]) if found else -1


def logical_volumes(found: list[PhysicalVolume]) -> list[LogicalVolume]:
    """The volumes of all groups that physical volumes belong to. Raises DiskError for metadata that can't be read."""
    texts: dict[str, str] = {}
    for volume in found:
        match = re.search(r"^([A-Za-z0-9_.+-]+)\s*\{", volume.text, re.MULTILINE)
        if match and _sequence(volume.text) > _sequence(texts.get(match[1], "")):
            texts[match[1]] = volume.text
    by_uuid = {volume.uuid: volume for volume in found}
    volumes = []
    for group, text in texts.items():
        volumes += _volumes_of(group, parse(text).get(group), by_uuid)
    return volumes


def _volumes_of(group: str, tree: Any, by_uuid: dict[str, PhysicalVolume]) -> list[LogicalVolume]:
    try:
        extent = int(tree["extent_size"]) * _SECTOR
        devices = {}
        for name, values in tree["physical_volumes"].items():
            devices[name] = (by_uuid.get(str(values["id"]).replace("-", "")), int(values["pe_start"]) * _SECTOR, values)
        volumes = tree.get("logical_volumes", {})
        if not 0 < extent <= 1 << 40:
            raise ValueError(f"extents of {extent} bytes")
        return [
            _volume(group, name, values, extent, devices)
            for name, values in volumes.items()
            if "VISIBLE" in values.get("status", [])
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DiskError(f"the metadata of LVM group {group} makes no sense: {error!r}") from None


def _volume(group: str, name: str, values: Any, extent: int, devices: dict[str, Any]) -> LogicalVolume:
    parts: list[tuple[int, int, list[Extent]]] = []
    for key, segment in values.items():
        if not (key.startswith("segment") and isinstance(segment, dict)):
            continue
        kind, count = segment["type"], segment.get("stripe_count", 0)
        if kind != "striped" or count != 1:
            word = f"{count} stripes" if kind == "striped" else f'type "{kind}"'
            return LogicalVolume(group, name, None, f"it has a segment of {word}; joey reads linear volumes")
        device, first = segment["stripes"]
        physical, start, about = devices[device]
        if physical is None:
            where = f"{device} (last seen as {about.get('device', '?')})"
            return LogicalVolume(group, name, None, f"physical volume {where} is on none of the disks given")
        offset, size = start + int(first) * extent, int(segment["extent_count"]) * extent
        if offset < 0 or size <= 0 or offset + size > physical.blocks.size:
            return LogicalVolume(group, name, None, f"a segment lies beyond the end of {device}")
        extents = physical.blocks.part(offset, size).extents
        parts.append((int(segment["start_extent"]), int(segment["extent_count"]), extents))
    parts.sort(key=lambda item: item[0])
    place = 0
    for start, count, _ in parts:
        if start != place:
            return LogicalVolume(
                group, name, None, f"its segments leave a gap, or lie over each other, at extent {place}"
            )
        place += count
    return LogicalVolume(group, name, Blocks(joined([part for _, _, extents in parts for part in extents])))


def parse(text: str) -> dict[str, Any]:
    """LVM's configuration text: nested sections, numbers, strings, arrays. Raises DiskError with the line."""
    return _Parser(text).section(0, top=True)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.count = 0

    def _fail(self, what: str) -> DiskError:
        return DiskError(f"LVM metadata, line {self.text.count(chr(10), 0, self.at) + 1}: {what}")

    def _next(self) -> tuple[str, Any]:
        """(kind, value) of the next token: "string", "number", "name", a sign, or "end"."""
        while self.at < len(self.text):
            match = _TOKEN.match(self.text, self.at)
            if not match:
                raise self._fail(f"unexpected {self.text[self.at]!r}")
            self.at = match.end()
            string, number, name, sign = match.groups()
            if string is not None:
                return "string", re.sub(r"\\(.)", r"\1", string[1:-1])
            if number is not None and not (
                self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] in "_-")
            ):
                return "number", float(number) if "." in number else int(number[:20])
            if number is not None:  # a name that begins with a digit
                self.at = match.start()
                match = re.compile(r"[A-Za-z_.+@/0-9-]+").match(self.text, self.at)
                assert match
                self.at = match.end()
                return "name", match[0]
            if name is not None:
                return "name", name
            if sign is not None:
                return sign, sign
        return "end", ""

    def section(self, depth: int, top: bool = False) -> dict[str, Any]:
        if depth > _DEPTH:
            raise self._fail("sections are nested too deeply")
        found: dict[str, Any] = {}
        while True:
            kind, name = self._next()
            if kind == ("end" if top else "}"):
                return found
            if kind not in ("name", "string"):
                raise self._fail(f"a name was expected, not {name or kind!r}")
            self.count += 1
            if self.count > _MOST:
                raise self._fail(f"more than {_MOST} values")
            kind, sign = self._next()
            if kind == "{":
                found[name] = self.section(depth + 1)
            elif kind == "=":
                found[name] = self._value()
            else:
                raise self._fail(f"after {name!r} comes = or {{, not {sign or kind!r}")

    def _value(self) -> Any:
        kind, value = self._next()
        if kind in ("string", "number"):
            return value
        if kind != "[":
            raise self._fail(f"a value was expected, not {value or kind!r}")
        found: list[Any] = []
        while True:
            kind, value = self._next()
            if kind == "]":
                return found
            if kind in ("string", "number"):
                found.append(value)
                self.count += 1
                if self.count > _MOST:
                    raise self._fail(f"more than {_MOST} values")
            elif kind != ",":
                raise self._fail(f"in an array: {value or kind!r}")
