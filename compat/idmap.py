"""User and group id maps of a new user namespace, written from outside it."""

from __future__ import annotations

import os

from . import files, libc
from .constants import CLONE_NEWUSER, SIGCHLD
from .errors import JoeyError, KernelError

Mapping = tuple[int, int, int]  # container id, host id, size


def write_maps(pid: int, uids: list[Mapping], gids: list[Mapping]) -> None:
    """Write /proc/PID/uid_map and gid_map; where the kernel refuses them to a plain user, by newuidmap and newgidmap.

    Source: user_namespaces(7); a plain user may map only itself, and must give up setgroups first (Linux 3.19).
    """
    if os.geteuid() == 0:
        _write(pid, "uid_map", uids)
        _write(pid, "gid_map", gids)
        return
    if _only_self(uids, os.geteuid()) and _only_self(gids, os.getegid()):
        files.write_text(f"/proc/{pid}/setgroups", "deny")
        _write(pid, "uid_map", uids)
        _write(pid, "gid_map", gids)
        return
    _by_helper("newuidmap", pid, uids)
    _by_helper("newgidmap", pid, gids)


def user_namespace(uids: list[Mapping], gids: list[Mapping]) -> int:
    """A descriptor of a user namespace with these maps and no process, as id-mapped mounts take it. Needs root."""
    read_end, write_end = os.pipe()
    pid = libc.clone(CLONE_NEWUSER | SIGCHLD)
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    try:
        write_maps(pid, uids, gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(write_end)
        os.waitpid(pid, 0)


def _only_self(mappings: list[Mapping], own: int) -> bool:
    return len(mappings) == 1 and mappings[0][1:] == (own, 1)


def _write(pid: int, name: str, mappings: list[Mapping]) -> None:
    path = f"/proc/{pid}/{name}"
    try:
        files.write_text(path, "".join(f"{inside} {outside} {size}\n" for inside, outside, size in mappings))
    except OSError as error:
        raise KernelError("write", error.errno or 0, path, "ranges must not overlap and must be yours to map") from None


def _by_helper(helper: str, pid: int, mappings: list[Mapping]) -> None:
    for directory in ("/usr/bin", "/bin", "/usr/local/bin"):
        path = f"{directory}/{helper}"
        if os.access(path, os.X_OK):
            break
    else:
        raise JoeyError(
            f"{helper} is not installed, and a plain user may map only its own id",
            "install the package uidmap (shadow-utils), or map just your own id",
            "no-newuidmap",
        )
    words = [path, str(pid)] + [str(number) for mapping in mappings for number in mapping]
    status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(path, words, dict(os.environ)), 0)[1])
    if status:
        raise JoeyError(f"{helper} failed with status {status}", "see /etc/subuid and /etc/subgid for your ranges")
