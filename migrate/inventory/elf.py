"""What an ELF file says of itself, read by pyelftools: interpreter, libraries, the versions of them that it wants.

Source: elf(5), ld.so(8). A damaged file says nothing.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..trees.entry import first_bytes

if TYPE_CHECKING:
    from elftools.elf.dynamic import DynamicSegment

    from ..trees.entry import Entry

MAGIC = b"\x7fELF"
_LARGEST = 256 << 20
_ARCHITECTURES = {"x64": "amd64", "x86": "386", "AArch64": "arm64"}


@dataclass
class Elf:
    """`architecture` is as the image-spec says it, "" for one that it has no word for here; `machine` is e_machine;
    `versions` are names such as GLIBC_2.34; `folders` those of DT_RPATH and DT_RUNPATH."""

    architecture: str = ""
    machine: str = ""
    interpreter: str = ""
    program: bool = False
    libraries: list[str] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)


def parse(entry: Entry) -> Elf | None:
    """What a file says, or None for one that is damaged or larger than 256 MiB. Raises OSError, TreeError."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection
    from elftools.elf.segments import InterpSegment

    if entry.size > _LARGEST:
        return None
    data = first_bytes(entry, entry.size)
    found = Elf()
    try:
        elf = ELFFile(io.BytesIO(data))
        found.machine = f"{elf['e_machine']} {elf.elfclass}"
        found.architecture = _ARCHITECTURES.get(elf.get_machine_arch(), "")
        dynamic = False
        for segment in elf.iter_segments():
            if isinstance(segment, InterpSegment):
                found.interpreter = segment.get_interp_name()
            if isinstance(segment, DynamicSegment):  # a file may be without sections
                dynamic = True
                _dynamic(segment, found)
        alone = elf["e_type"] in ("ET_EXEC", "ET_DYN") and not dynamic and bool(elf["e_entry"])
        found.program = bool(found.interpreter) or alone
        for section in elf.iter_sections():
            if isinstance(section, GNUVerNeedSection):
                found.versions += [version.name for _, versions in section.iter_versions() for version in versions]
    except (ELFError, ValueError, KeyError, AttributeError, TypeError, OverflowError, MemoryError, IndexError):
        return None
    return found


def _dynamic(segment: DynamicSegment, found: Elf) -> None:
    for tag in segment.iter_tags():
        if tag.entry.d_tag == "DT_NEEDED":
            found.libraries.append(tag.needed)  # type: ignore[attr-defined]
        elif tag.entry.d_tag == "DT_RPATH":
            found.folders += tag.rpath.split(":")  # type: ignore[attr-defined]
        elif tag.entry.d_tag == "DT_RUNPATH":
            found.folders += tag.runpath.split(":")  # type: ignore[attr-defined]
