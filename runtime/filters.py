"""Seccomp programs, compiled once for a profile and kept by its digest in this user's cache."""

from __future__ import annotations

import json
import os
import stat
from _blake2 import blake2b  # without hashlib, which loads OpenSSL

from .. import __version__
from ..compat import files
from ..compat.errors import JoeyError
from ..compat.libc import MACHINE
from ..probes import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEPT = 64  # programs; the oldest go first
LONGEST = 4096 * 8  # bytes: BPF_MAXINSNS of struct sock_filter, <linux/bpf_common.h>
_DIGEST = 32  # bytes
_COMPILER = ("profile.py", "assembler.py", "words.py", "../syscalls.py", "../constants.py")


def compiled(section: dict[str, Any]) -> bytes:
    """The BPF program (array of struct sock_filter) of a checked `linux.seccomp` section.

    A cache that can't be read or written, or that is somebody else's, only costs the time of compiling.
    """
    file = f"{cache.directory()}/seccomp/{_key(section)}"
    program = _kept(file)
    if program is None:
        from ..compat.seccomp.profile import compile_profile

        program = compile_profile(section)
        _keep(file, program)
    return program


def _key(section: dict[str, Any]) -> str:
    """A digest of the profile and of what compiles it."""
    folder = os.path.join(os.path.dirname(files.__file__), "seccomp")
    sources = []
    for name in _COMPILER:
        try:
            status = os.stat(os.path.join(folder, name))
        except OSError:
            continue  # not installed as files: the version tells
        sources.append((status.st_mtime_ns, status.st_size))
    text = json.dumps([__version__, MACHINE, sources, section], sort_keys=True)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).hexdigest()


def _kept(file: str) -> bytes | None:
    """The program in a file that only this user could write, None where there is none or it is damaged."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return None
        data = files.read_fd(fd, _DIGEST + LONGEST, file)
    except (OSError, JoeyError):
        return None
    finally:
        os.close(fd)
    digest, program = data[:_DIGEST], data[_DIGEST:]
    if not program or len(program) % 8 or blake2b(program, digest_size=_DIGEST).digest() != digest:
        return None
    return program


def _keep(file: str, program: bytes) -> None:
    folder = os.path.dirname(file)
    try:
        files.make_private_directories(folder)
        if os.stat(folder).st_uid != os.geteuid():
            return
        files.write_atomically(file, blake2b(program, digest_size=_DIGEST).digest() + program)
        entries = [f"{folder}/{name}" for name in os.listdir(folder)]
        if len(entries) > KEPT:
            entries.sort(key=lambda path: os.lstat(path).st_mtime_ns)
            for path in entries[: len(entries) - KEPT]:
                os.unlink(path)
    except OSError:
        pass  # no cache here, or another joey cleans up too
