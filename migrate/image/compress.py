"""Compressors and decompressors of layers, by media type. The same bytes for the same input, level and library."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol, cast

from ...compat.errors import JoeyError

if TYPE_CHECKING:
    from lzma import LZMADecompressor
    from typing import IO, Any

LAYER = "application/vnd.oci.image.layer.v1.tar"
MEDIA_TYPES = {"gzip": f"{LAYER}+gzip", "zstd": f"{LAYER}+zstd", "none": LAYER}
# what a level is where none is named: chosen for speed, docs/notes/0008
DEFAULT_LEVELS = {"gzip": 1, "zstd": 1, "none": 0}
_XZ_MEMORY = 128 << 20  # what `xz -9` takes is 65 MiB
_LEVELS = {"gzip": (0, 3), "zstd": (1, 19), "none": (0, 0)}


class Stream(Protocol):
    """What a tar is read from: bytes in order, once."""

    def readinto(self, buffer: memoryview, /) -> int: ...


class Compressor(Protocol):
    def compress(self, data: memoryview, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    def compress(self, data: memoryview, /) -> bytes:
        return bytes(data)

    def flush(self) -> bytes:
        return b""


def check(kind: str, level: int) -> None:
    """Raises JoeyError for a compression or a level that is none."""
    if kind not in MEDIA_TYPES:
        raise JoeyError(f'there is no compression "{kind}"', "one of: " + ", ".join(MEDIA_TYPES), "usage", 2)
    low, high = _LEVELS[kind]
    if not low <= level <= high:
        raise JoeyError(f"{kind} has no level {level}", f"levels: {low} to {high}", "usage", 2)


def compressor(kind: str, level: int) -> Compressor:
    """A new stream. gzip is by ISA-L, at levels 0 to 3; its header holds no time and no name."""
    try:
        return _compressor(kind, level)
    except ImportError as error:
        hint = "migrate from a machine with `pip install joey`"
        raise JoeyError(f"{error.name} is not in this Python", hint) from None


def _compressor(kind: str, level: int) -> Compressor:
    if kind == "gzip":
        from isal import isal_zlib

        stream: Compressor = isal_zlib.compressobj(level, isal_zlib.DEFLATED, 31)
        return stream
    if kind == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=level, write_checksum=True).compressobj()
    return _Plain()


def kind_of(head: bytes) -> str:
    """The compression of a stream by its first bytes: "gzip", "zstd", "bzip2", "xz", or "none"."""
    for magic, kind in ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz")):
        if head.startswith(magic):
            return kind
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return "zstd"  # a skippable frame first
    return "none"


class _Xz:
    """A stream of xz, of any number of parts, with the memory that a dictionary may take bounded."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._part = self._new()
        self._rest = b""

    def _new(self) -> LZMADecompressor:
        import lzma

        return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    def readinto(self, buffer: memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int) -> bytes:
        while True:
            if self._part.eof:
                self._rest = self._part.unused_data.lstrip(b"\0") or self._file.read(1 << 16).lstrip(b"\0")
                if not self._rest:
                    return b""
                self._part = self._new()
            if self._part.needs_input and not self._rest:
                self._rest = self._file.read(1 << 16)
                if not self._rest:
                    raise EOFError("it ends amid a stream")
            data = self._part.decompress(self._rest, size)
            self._rest = b""
            if data:
                return data


def reader(file: IO[bytes], kind: str) -> Stream:
    """A stream of what is in a compressed one; several members or frames are one stream. Not seekable.

    Raises JoeyError where the library is missing. Reading raises OSError, EOFError, zlib.error and the like for bad
    content: `ERRORS`.
    """
    if kind == "gzip":
        try:
            from isal import igzip

            return igzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[no-untyped-call]
        except ImportError:  # on a host with nothing but the kit
            import gzip

            return gzip.GzipFile(fileobj=file, mode="rb")
    if kind == "zstd":
        try:
            import zstandard
        except ImportError:
            raise JoeyError(
                "zstd is not in this Python", "pip install zstandard, or take an image with gzip layers"
            ) from None
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
            file, read_across_frames=True, closefd=False
        )
    if kind == "bzip2":
        try:
            import bz2
        except ImportError:
            raise JoeyError("bzip2 is not in this Python", "unpack it with bzip2 first") from None
        return bz2.BZ2File(file)
    if kind == "xz":
        try:
            return _Xz(file)
        except ImportError:
            raise JoeyError("xz is not in this Python", "unpack it with xz first") from None
    return cast("Stream", file)


def errors() -> tuple[type[Exception], ...]:
    """What reading a broken stream raises, besides OSError."""
    found: list[Any] = [EOFError, zlib.error]
    try:
        from isal import isal_zlib

        found.append(isal_zlib.IsalError)
    except ImportError:
        pass
    try:
        import zstandard

        found.append(zstandard.ZstdError)
    except ImportError:
        pass
    try:
        from lzma import LZMAError

        found.append(LZMAError)
    except ImportError:  # the host kit's Python has none
        pass
    return tuple(found)
