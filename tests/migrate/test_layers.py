"""Layers: what joey writes other tools read the same, what others write joey reads, and hostile ones are refused."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joey.migrate.image import compress, tarheader
from joey.migrate.image.digest import ImageError
from joey.migrate.image.layerreader import LayerReader
from joey.migrate.image.layerwriter import LayerChanged, LayerWriter
from joey.migrate.trees.entry import Entry
from joey.migrate.trees.folder import FolderTree

from .guests import listing, run


def layer_of(tree: Path, path: Path, kind: str = "none") -> Any:
    source = FolderTree(str(tree))
    with path.open("wb") as file:
        writer = LayerWriter(file.fileno(), kind, compress.DEFAULT_LEVELS[kind])
        for entry in source.entries():
            if entry.kind != "socket":
                writer.add(entry)
        return writer.close()


@pytest.mark.root
@pytest.mark.parametrize("kind", ["none", "gzip", "zstd"])
def test_gnu_tar_unpacks_the_same(kind: str, tree: Path, tmp_path: Path) -> None:
    layer_of(tree, tmp_path / "layer.tar", kind)
    (tmp_path / "out").mkdir()
    run(
        "tar",
        "-C",
        tmp_path / "out",
        "--xattrs",
        "--xattrs-include=*",
        "--numeric-owner",
        "-xpf",
        tmp_path / "layer.tar",
    )
    assert listing(tmp_path / "out", ("var/lib/sock",)) == listing(tree, ("var/lib/sock",))


@pytest.mark.root
def test_python_reads_the_same_as_joey(tree: Path, tmp_path: Path) -> None:
    written = layer_of(tree, tmp_path / "layer.tar")
    ours = list(LayerReader((tmp_path / "layer.tar").open("rb"), "it"))
    with tarfile.open(tmp_path / "layer.tar") as archive:
        theirs = archive.getmembers()
    assert len(ours) == len(theirs) == written.entries
    for mine, other in zip(ours, theirs, strict=True):
        assert os.fsdecode(mine.path) == other.name.removeprefix("./").removeprefix(".")
        assert (mine.uid, mine.gid, mine.mode & 0o7777) == (other.uid, other.gid, other.mode)
        assert os.fsdecode(mine.target or mine.first) == other.linkname


@pytest.mark.root
def test_joey_reads_what_gnu_tar_writes(tree: Path, tmp_path: Path) -> None:
    for form in ("gnu", "posix"):
        words = ["--xattrs", "--xattrs-include=*"] if form == "posix" else []
        run("tar", "-C", tree, f"--format={form}", "--sort=name", *words, "-cf", tmp_path / "other.tar", ".")
        expected = {entry.path: entry for entry in FolderTree(str(tree)).entries()}
        for entry in LayerReader((tmp_path / "other.tar").open("rb"), "it"):
            other = expected[entry.path]
            assert (entry.mode, entry.uid, entry.gid, entry.target, entry.device, entry.size) == (
                other.mode, other.uid, other.gid, other.target, other.device, 0 if other.first else other.size,
            )  # fmt: skip
            assert (entry.mtime == other.mtime) or form == "gnu"


paths = st.binary(min_size=1, max_size=240).filter(
    lambda b: b"\0" not in b and b".." not in b and b"//" not in b and b.strip(b"/.") == b and b"/./" not in b
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    path=paths,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 1),
    gid=st.integers(0, 2**32 - 1),
    mtime=st.integers(-(2**63) + 1, 2**63 - 1),
    target=st.binary(min_size=1, max_size=300).filter(lambda b: b"\0" not in b),
    xattrs=st.dictionaries(st.sampled_from([b"user.a", b"security.capability", b"user.\xff"]), st.binary(max_size=500)),
    kind=st.sampled_from([0o100000, 0o040000, 0o120000, 0o020000, 0o010000]),
)
def test_any_entry_comes_back_as_it_was(path: bytes, mode: int, uid: int, gid: int, mtime: int, target: bytes, xattrs: dict[bytes, bytes], kind: int) -> None:  # fmt: skip
    entry = Entry(path, kind | mode, uid, gid, mtime, xattrs=tuple(sorted(xattrs.items())))
    if kind == 0o120000:
        entry.target = target
    if kind == 0o020000:
        entry.device = os.makedev(4095, 1048575)
    data = tarheader.header(entry) + tarheader.END
    (found,) = LayerReader(io.BytesIO(data), "it")
    for name in ("path", "mode", "uid", "gid", "mtime", "target", "device", "xattrs"):
        assert getattr(found, name) == getattr(entry, name), name
    if all(0 <= number < 2**31 for number in (uid, gid)):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            (other,) = archive.getmembers()
        assert os.fsencode(other.name) == path


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    for entry in FolderTree(str(tmp_path)).entries():
        if entry.kind == "file":
            entry.size = 2000
            with (tmp_path / "out").open("wb") as file:
                writer = LayerWriter(file.fileno(), "gzip", 1)
                with pytest.raises(LayerChanged, match="it changed while it was read"):
                    writer.add(entry)
                writer.abort()


def test_a_full_disk_is_told_by_the_writing_thread(tmp_path: Path) -> None:
    """/dev/full answers every write with ENOSPC."""
    (tmp_path / "file").write_bytes(os.urandom(8 << 20))
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = LayerWriter(fd, "none", 0)
    with pytest.raises(OSError, match="No space left"):
        for entry in FolderTree(str(tmp_path)).entries():
            writer.add(entry)
            writer.close()
    writer.abort()
    os.close(fd)


def archive(*members: tuple[str, str, str | bytes]) -> bytes:
    """A tar of (name, kind, content or link)."""
    kinds = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE, "char": tarfile.CHRTYPE}  # fmt: skip
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, kind, more in members:
            info = tarfile.TarInfo(name)
            info.type = kinds[kind]
            info.mode = 0o755 if kind == "dir" else 0o644
            data = more if isinstance(more, bytes) else more.encode() if kind == "file" else b""
            info.size = len(data)
            if kind in ("link", "hard"):
                info.linkname = str(more)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read_all(data: bytes, **limits: int) -> list[Entry]:
    return list(LayerReader(io.BytesIO(data), "it", **limits))


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "a/../../etc", "/../x", "a/..", "x" * 256, "/".join(["a" * 200] * 30)]
)
def test_names_that_lead_out_or_are_too_long(name: str) -> None:
    with pytest.raises(ImageError, match="leads out of the root|a name of"):
        read_all(archive((name, "file", "x")))


def test_truncated_damaged_and_endless_archives() -> None:
    good = archive(("a", "file", "x" * 5000), ("b", "file", "y"))
    for size in (100, 600, 3000, 5700):
        with pytest.raises(ImageError, match="it ends amid"):
            read_all(good[:size])
    damaged = bytearray(good)
    damaged[5] ^= 1
    with pytest.raises(ImageError, match="check sum"):
        read_all(bytes(damaged))
    with pytest.raises(ImageError, match="more than 1 entries"):
        read_all(good, most_entries=1)
    with pytest.raises(ImageError, match="more than 2000 bytes"):
        read_all(good, most=2000)


def test_pax_headers_that_make_no_sense() -> None:
    def with_record(record: bytes) -> bytes:
        entry = Entry(b"x", 0o100644, 0, 0, 0)
        head = bytearray(tarheader.header(entry))
        head[124:136] = b"%011o\0" % len(record)
        head[156:157] = b"x"
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head) + record + tarheader.padding(len(record)) + tarheader.header(entry) + tarheader.END

    for record in (
        b"99 path=x\n",
        b"path=x\n",
        b"9 path x\n",
        b"0 =\n",
        b"12 size=-10\n",
        b"13 mtime=abc\n",
        b"17 uid=99999999999\n",
        b"-5 a=b\n",
    ):
        with pytest.raises(ImageError):
            read_all(with_record(record))


@settings(max_examples=400, deadline=None)
@given(data=st.binary(max_size=2000), at=st.integers(0, 3000))
def test_no_bytes_crash_the_reader(data: bytes, at: int) -> None:
    good = bytearray(archive(("a/b", "file", "x" * 700), ("ü" * 90, "dir", ""), ("l", "link", "t" * 150)))
    good[at : at + len(data)] = data
    try:
        read_all(bytes(good))
    except ImageError:
        pass


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz", "bzip2"])
def test_a_damaged_compressed_stream_is_told(kind: str, tmp_path: Path) -> None:
    tool = {"gzip": "gzip", "zstd": "zstd", "xz": "xz", "bzip2": "bzip2"}[kind]
    packed = subprocess.run(
        [tool, "-c"], input=archive(("a", "file", os.urandom(200_000))), capture_output=True, check=True
    ).stdout
    assert compress.kind_of(packed[:6]) == kind
    assert len(list(LayerReader(compress.reader(io.BytesIO(packed), kind), "it"))) == 1
    for broken in (packed[: len(packed) // 2], packed[:1000] + bytes(1000) + packed[2000:]):
        with pytest.raises(ImageError, match="damaged|ends amid|check sum|kind|number"):
            list(LayerReader(compress.reader(io.BytesIO(broken), kind), "it"))
