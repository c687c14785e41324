"""Layers in one mount, which writes into a directory of its own: overlay (Linux 3.18), or fuse-overlayfs.

Source: Linux Documentation/filesystems/overlayfs.rst, fuse-overlayfs(1).
"""

from __future__ import annotations

import os
import subprocess

from .. import files, libc
from ..constants import CLONE_NEWNS, MS_PRIVATE, MS_REC, SIGCHLD
from ..errors import JoeyError, KernelError

_PAGE = 4096


def mount_overlay(layers: list[str], upper: str, work: str, target: str) -> None:
    """Mount layers, lowest first, on `target`. Raises KernelError."""
    data = _data(layers, upper, work)
    if len(data) < _PAGE:
        libc.mount("overlay", target, "overlay", 0, data)
        return
    fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in layers]
    try:
        libc.mount("overlay", target, "overlay", 0, _data([f"/proc/self/fd/{fd}" for fd in fds], upper, work))
    finally:
        for fd in fds:
            os.close(fd)


def _data(layers: list[str], upper: str, work: str) -> str:
    lower = ":".join(_escaped(path).replace(":", "\\:") for path in reversed(layers))
    return f"lowerdir={lower},upperdir={_escaped(upper)},workdir={_escaped(work)}"


def _escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,")


def overlay_unfit(layers: list[str], scratch: str) -> str:
    """Why the kernel's overlay does not take these layers with an upper directory in `scratch`; "" where it does.

    Mounted in a child, in a mount namespace of its own.
    """
    for name in ("upper", "work", "merged"):
        os.mkdir(f"{scratch}/{name}", 0o700)
    read_end, write_end = os.pipe()
    pid = libc.clone(CLONE_NEWNS | SIGCHLD)
    if pid == 0:
        try:
            libc.mount("", "/", "", MS_REC | MS_PRIVATE)
            mount_overlay(layers, f"{scratch}/upper", f"{scratch}/work", f"{scratch}/merged")
            os.close(os.open(f"{scratch}/merged/joey-try", os.O_CREAT | os.O_WRONLY, 0o600))
            if not os.path.exists(f"{scratch}/upper/joey-try"):
                os.write(write_end, b"what is written does not arrive in its upper directory")
        except (KernelError, OSError) as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        return os.read(read_end, _PAGE).decode()
    finally:
        os.close(read_end)
        os.waitpid(pid, 0)


def fuse_program() -> str:
    """Where fuse-overlayfs is; "" where it is not."""
    return files.find_program("fuse-overlayfs")


def mount_fuse_overlayfs(layers: list[str], upper: str, work: str, target: str) -> None:
    """The same by a process of fuse-overlayfs, which stays until the mount is gone. Raises JoeyError."""
    command = [fuse_program() or "fuse-overlayfs", "-o", _data(layers, upper, work), target]
    try:
        # its own session and no streams of ours: it stays behind
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60,
            start_new_session=True, cwd="/", check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JoeyError(f"fuse-overlayfs: {error}", slug="layers") from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        raise JoeyError(f"fuse-overlayfs: {said or f'exit status {done.returncode}'}", slug="layers")
