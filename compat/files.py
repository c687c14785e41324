"""Small files: read whole, write atomically, read the kernel's tables. Without the text layer or pathlib."""

from __future__ import annotations

import os

from .errors import JoeyError

LIMIT = 16 << 20
_PROGRAMS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def read_text(path: str, limit: int = LIMIT, dir_fd: int | None = None) -> str:
    """The file's text, UTF-8 with stray bytes kept as surrogates. Raises OSError; JoeyError past `limit` bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return read_fd(fd, limit, path).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)


def read_fd(fd: int, limit: int = LIMIT, name: str = "") -> bytes:
    """All bytes of `fd` up to end of file. Raises JoeyError when there are more than `limit`."""
    chunks = []
    size = 0
    while chunk := os.read(fd, 1 << 16):
        size += len(chunk)
        if size > limit:
            raise JoeyError(f"{name}: larger than {limit} bytes", slug="too-large")
        chunks.append(chunk)
    return b"".join(chunks)


def read_line(path: str) -> str:
    """The first line of a kernel file, stripped; empty where it can't be read."""
    try:
        return read_text(path).split("\n", 1)[0].strip()
    except OSError:
        return ""


def write_text(path: str, text: str) -> None:
    """Write a kernel or cgroup file in one write(2). Raises OSError with the path."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def write_atomically(path: str, text: str | bytes, mode: int = 0o600) -> None:
    """Replace `path` by a file with `text`: written beside it, then renamed. A killed writer leaves the old file."""
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        write_all(fd, text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    except BaseException:
        os.close(fd)
        os.unlink(temporary)
        raise
    os.close(fd)
    os.rename(temporary, path)


def drop_abandoned(path: str) -> None:
    """Remove what writers of `path` left that were killed. The caller knows that nobody writes it now."""
    folder, name = os.path.split(path)
    for entry in os.listdir(folder or "."):
        if is_abandoned(entry, name):
            os.unlink(os.path.join(folder, entry))


def is_abandoned(entry: str, name: str) -> bool:
    """Whether a name in a folder is what a killed writer of the file `name` left beside it."""
    return entry.startswith(f"{name}.") and entry.endswith(".tmp") and entry[len(name) + 1 : -4].isdigit()


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte: one write(2) may take fewer than it is given. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def find_program(name: str) -> str:
    """Where a program of the host is, along $PATH and the usual folders; "" where it is not.

    No empty or relative entry of $PATH counts: joey may have been called in a container's folder.
    """
    given = (folder for folder in os.environ.get("PATH", "").split(":") if folder.startswith("/"))
    for folder in (*given, *_PROGRAMS):
        path = f"{folder}/{name}"
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return ""


def make_private_directories(path: str) -> None:
    """`mkdir -p` whose every new directory is for the owner alone, whatever the umask. Raises OSError."""
    if os.path.isdir(path):
        return
    make_private_directories(os.path.dirname(path))
    before = os.umask(0o077)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return  # another joey was quicker
    finally:
        os.umask(before)


class Mount:
    """One line of /proc/PID/mountinfo or, on the oldest kernels, /proc/PID/mounts. Source: proc(5)."""

    __slots__ = ("fstype", "options", "root", "source", "target")

    def __init__(self, target: str, fstype: str, source: str, options: tuple[str, ...], root: str) -> None:
        self.target = target
        self.fstype = fstype
        self.source = source
        self.options = options
        self.root = root


def mount_holding(path: str) -> Mount | None:
    """The mount that a path, free of links, is in: of those one over another the last."""
    best = None
    for mount in mounts():
        inside = path == mount.target or path.startswith(mount.target.rstrip("/") + "/")
        if inside and (best is None or len(mount.target) >= len(best.target)):
            best = mount
    return best


def mounts(text: str | None = None) -> list[Mount]:
    """The caller's mounts in order, super-block options included. `text` is mountinfo's, for tests."""
    if text is None:
        text = read_text("/proc/self/mountinfo")
    found = []
    for line in text.splitlines():
        left, separator, right = line.partition(" - ")
        fields = left.split(" ")
        if not separator or len(fields) < 6:
            continue
        fstype, _, rest = right.partition(" ")
        source, _, options = rest.partition(" ")
        flags = (*fields[5].split(","), *options.split(","))
        found.append(Mount(unescape(fields[4]), fstype, unescape(source), flags, unescape(fields[3])))
    return found


def unescape(field: str) -> str:
    r"""Undo the octal escapes (\040 and so on) of the kernel's mount tables."""
    if "\\" not in field:
        return field
    parts = field.split("\\")
    return parts[0] + "".join(
        chr(int(part[:3], 8)) + part[3:] if part[:3].isdigit() else "\\" + part for part in parts[1:]
    )
