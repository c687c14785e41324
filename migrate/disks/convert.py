"""A disk image of any format as a sparse raw file, by qemu-img; a raw one is taken as it is. The image is only read.

Every file and format is named to qemu-img outright, so it follows nothing that is written in an image.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ...compat.files import find_program
from . import stream
from .blocks import DiskError
from .formats import DiskImage, Part, descriptor, inspect, inspect_part

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST = 64 << 40  # bytes of a disk
_CHAIN = 16
_SECTOR = 512
# a line of qemu-img map: data that lies in a file as it is
_MAPPED = re.compile(
    rb'"start": (\d+), "length": (\d+), "depth": (\d+),.*"zero": (?:false|true), "data": true, "offset": (\d+)'
)
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}


def raw(path: str, folder: str, take_backing: bool, done: Callable[[float], None] = lambda share: None) -> str:
    """The path of a raw disk with an image's content: the image itself, or a new file in `folder`.

    `done` is told the share that is converted. Raises DiskError.
    """
    image = inspect(path, take_backing)
    return path if image.format == "raw" else _converted(image, folder, take_backing, done)


def raw_part(path: str, offset: int, size: int, folder: str, done: Callable[[float], None]) -> str:
    """The same of an image that lies in a larger file. Raises DiskError."""
    return _converted(inspect_part(path, offset, size), folder, False, done)


def _converted(image: DiskImage, folder: str, take_backing: bool, done: Callable[[float], None]) -> str:
    path = image.path
    chain = _chain(image, take_backing)
    options = _options(chain)
    stamps = [
        (status.st_size, status.st_mtime_ns, status.st_ino) for link in chain for status in map(os.stat, link.files)
    ]
    target = os.path.join(folder, "disk-" + hashlib.sha256(f"{options}{stamps}".encode()).hexdigest()[:12] + ".raw")
    if os.path.isfile(target):
        return target  # an interrupted run came that far
    for name in os.listdir(folder):
        if name.endswith(
            (".raw.part", ".raw.part.vmdk")
        ):  # of a killed run, whose qemu-img may still write to it: it gets another name
            os.unlink(os.path.join(folder, name))
    part = f"{target[:-4]}-{os.getpid()}.raw.part"
    found = stream.open_stream(path, image.offset, image.size) if image.format == "vmdk" and len(chain) == 1 else None
    if found is not None:
        stream.convert(found, part, done)
    else:
        _by_qemu(image, chain, folder, part, done)
    os.rename(part, target)
    return target


def _by_qemu(image: DiskImage, chain: list[DiskImage], folder: str, part: str, done: Callable[[float], None]) -> None:
    tool = find_program("qemu-img")
    if not tool:
        raise DiskError(f"{image.path} is a {image.title} disk, and there is no qemu-img here", "install qemu-utils")
    if image.parts:
        own = f"{part}.vmdk"
        with open(own, "x", encoding="utf-8") as file:
            file.write(descriptor(image))
        chain = [image._replace(path=own)]
    options = _options(chain)
    size = _size(tool, chain[0])
    _check_whole(tool, chain, image.parts, options)
    _check_room(tool, image, options, folder)
    _convert([tool, "convert", "-p", "-O", "raw", "-S", "4k", "json:" + options, part], image, size, part, done)
    if image.parts:
        os.unlink(own)


def _chain(image: DiskImage, take_backing: bool) -> list[DiskImage]:
    """An image and what it is a difference to, one after the other. Raises DiskError."""
    chain = [image]
    while chain[-1].backing:
        if len(chain) >= _CHAIN or any(chain[-1].backing == os.path.realpath(known.path) for known in chain):
            raise DiskError(f"{image.path}: its chain of backing files goes round, or has more than {_CHAIN}")
        chain.append(inspect(chain[-1].backing, take_backing))
    return chain


def _options(chain: list[DiskImage]) -> str:
    """qemu's description of images, each the difference to the next, with every name in it ours."""
    value: dict[str, Any] | None = None
    for link in reversed(chain):
        file: dict[str, Any] = {"driver": "file", "filename": os.path.abspath(link.path), "locking": "off"}
        if link.size:
            file = {"driver": "raw", "offset": link.offset, "size": link.size // 512 * 512, "file": file}
        below: dict[str, Any] = {"backing": value} if link.format in ("qcow2", "vmdk") else {}
        if link.format == "vpc":
            below = {"force_size_calc": "current_size"}  # not by cylinders, which Virtual PC rounds down
        value = {"driver": link.format, "file": file, **below}
    return json.dumps(value)


def _limited(words: list[str], size: int) -> list[str]:
    """A command with what qemu-img may use, whatever an image makes it do: 4 GiB of memory, files of the disk's size.

    Source: ulimit of POSIX sh, whose unit for files is 512 bytes.
    """
    limits = f"ulimit -c 0 && ulimit -v {4 << 20} && ulimit -f {(size + 0xFFFF) >> 9}"
    return ["/bin/sh", "-c", limits + ' && exec "$@"', "sh", *words]


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return _finished(words)
    except subprocess.TimeoutExpired:
        raise DiskError("qemu-img does not come to an end with that image") from None


def _finished(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _limited(words, 1 << 20),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=600,
        env=_ENVIRONMENT,
    )


def _size(tool: str, image: DiskImage) -> int:
    """The size of the disk in bytes."""
    done = _run([tool, "info", "--output=json", "json:" + _options([image])])  # it opens no backing file
    if done.returncode and "check -r all" in done.stderr:
        raise DiskError(
            f"{image.path}: this {image.title} image has a log to be replayed first",
            "cp it, and qemu-img check -r all COPY",
        )
    if done.returncode:
        raise DiskError(f"{image.path} is a damaged {image.title} image: {_words(done.stderr)}")
    size = json.loads(done.stdout).get("virtual-size")
    if not isinstance(size, int) or not 0 < size <= LARGEST:
        raise DiskError(f"{image.path} says that its disk has {size} bytes")
    return size


def _check_whole(tool: str, chain: list[DiskImage], parts: tuple[Part, ...], options: str) -> None:
    """Raises DiskError where data would lie beyond the end of a file: qemu reads zeros there."""
    files = [(link.path, os.path.getsize(link.path)) for link in chain]
    ends: list[tuple[int, str, int]] = []  # of the parts of an image: where it ends on the disk, its file and its size
    for part in parts:
        ends.append(((ends[-1][0] if ends else 0) + part.sectors * _SECTOR, part.path, os.path.getsize(part.path)))
    command = _limited([tool, "map", "--output=json", "json:" + options], 1 << 20)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_ENVIRONMENT
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                found = _MAPPED.search(line)
                if found is None:
                    continue
                start, length, depth, offset = map(int, found.groups())
                path, size = files[min(depth, len(files) - 1)]
                if ends and depth == 0:
                    path, size = next(((name, size) for end, name, size in ends if start < end), ends[-1][1:])
                if offset + length > size:
                    raise DiskError(
                        f"{path} is cut off: it has {size} bytes, and data of the disk up to {offset + length}",
                        "copy it anew",
                    )
        except BaseException:
            process.kill()
            raise


def _check_room(tool: str, image: DiskImage, options: str, folder: str) -> None:
    done = _run([tool, "measure", "--output=json", "-O", "raw", "json:" + options])
    if done.returncode:
        return  # a driver without that: the conversion itself will tell
    needed = json.loads(done.stdout).get("required", 0)
    status = os.statvfs(folder)
    room = status.f_bavail * status.f_frsize
    if needed > room:
        raise DiskError(
            f"{image.path}: its raw content needs {needed >> 20} MiB, and {folder} has room for {room >> 20}",
            "--work DIR names another folder",
        )


def _convert(words: list[str], image: DiskImage, size: int, target: str, done: Callable[[float], None]) -> None:
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            _limited(words, size),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_ENVIRONMENT,
        )
        assert process.stdout
        try:
            text = b""
            while data := os.read(process.stdout.fileno(), 4096):  # "    (12.34/100%)\r", again and again
                text = (text + data)[-64:]
                share = text.rpartition(b"(")[2].partition(b"/")[0]
                with suppress(ValueError):
                    done(float(share) / 100)
            status = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            if os.path.lexists(target):
                os.unlink(target)
            raise
        finally:
            process.stdout.close()
        complaints.seek(0)
        errors = complaints.read(1 << 16).decode("utf-8", "replace")
    if status:
        if os.path.lexists(target):
            os.unlink(target)
        full = "No space left" in errors
        word = "no space left" if full else f"a damaged {image.title} image"
        hint = "--work DIR names another folder" if full else ""
        raise DiskError(f"{image.path}: {word}: {_words(errors)}", hint)


def _words(text: str) -> str:
    """qemu-img's complaint in one line, without the description of the image in it."""
    line = text.strip().splitlines()[-1] if text.strip() else "qemu-img says nothing"
    before, quote, rest = line.removeprefix("qemu-img: ").partition("'json:")
    return before + "it" + rest.partition("}'")[2] if quote else before
