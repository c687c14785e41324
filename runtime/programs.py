"""What the programs in a root file system were made for: its C library, and the program a bundle starts.

Where the kernel lacks what a C library takes for granted, the library is rewritten (compat/shim/) before the plan is
made, so that the plan knows whether it can be. Only looked at on such kernels. All of it may be hostile.
"""

from __future__ import annotations

import os
import re
import stat
from _blake2 import blake2b

from .. import __version__
from ..compat import files
from ..compat.errors import JoeyError, KernelError
from ..compat.rootpath import Root
from ..compat.shim import emulations, glibc
from ..compat.shim.elffile import EM_X86_64, ElfFile, NotElf, read_open
from ..compat.shim.glibc import Library
from ..probes.cache import directory
from ..probes.plan import Need
from ..probes.report import Finding, KernelReport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .bundle import Bundle

_LARGEST_LIBRARY = 64 << 20
_LARGEST_PROGRAM = 256 << 20
KEPT = 64  # rewritten files; the oldest go first


class Programs:
    """`glibc` is its version, None where there is none; `libraries` its files; `program` the one the bundle starts."""

    __slots__ = ("glibc", "libraries", "program", "program_path")

    def __init__(
        self, version: tuple[int, int] | None, libraries: list[Library], program: ElfFile | None, program_path: str
    ) -> None:
        self.glibc = version
        self.libraries = libraries
        self.program = program
        self.program_path = program_path

    @property
    def checks_kernel(self) -> bool:
        """Whether the program is static and refuses kernels that are too old for it."""
        return self.program is not None and not self.program.is_dynamic and glibc.REFUSAL in self.program.data


def lacking(report: KernelReport) -> list[emulations.Emulation]:
    """What a kernel lacks of what the shim emulates. A finding that an old report does not have counts as there."""
    return emulations.missing(lambda finding: not report.lacks(finding))


def with_programs(report: KernelReport, bundle: Bundle) -> tuple[KernelReport, list[Need]]:
    """The report with what the root file system adds to it, and what its programs need of the kernel.

    Sets `bundle.rewritten`: path in the root -> file to put there.
    """
    missing = lacking(report)
    if not any(item.vital for item in missing) or report.machine.get("machine") != "x86_64":
        return report, []
    found = look(bundle.rootfs, bundle.process["args"], bundle.process.get("env") or [], bundle.process["cwd"])
    needs = []
    extended = report
    if found.glibc and found.glibc >= glibc.FIRST_UNFIT:
        needs.append(Need("glibc", "root.path"))
        finding, bundle.rewritten = rewritten(found.libraries, found.glibc, missing, report)
        extended = report.with_findings(finding)
    if found.checks_kernel:
        needs.append(Need("static-program", "process.args"))
    return extended, needs


def rewritten(
    libraries: list[Library], version: tuple[int, int], missing: list[emulations.Emulation], report: KernelReport
) -> tuple[Finding, dict[str, str]]:
    """Rewrite the C library, or fetch it from the cache; whether that is possible, and path -> file to put there."""
    call = f"rewriting glibc {version[0]}.{version[1]}"
    bits = emulations.mask(missing)
    code = emulations.code_for(bits, report.machine.get("release", ""))
    out, counts = {}, []
    try:
        for library in libraries:
            file, count = _kept_or_made(library, bits, code)
            counts.append(f"{count} in {library.path.rpartition('/')[2]}")
            if file:
                out[library.path] = file
    except (JoeyError, OSError) as error:
        return Finding("image.glibc", "absent", call, str(error)), {}
    return Finding("image.glibc", "works", call, "call sites: " + ", ".join(counts)), out


def _kept_or_made(library: Library, bits: int, code: bytes) -> tuple[str, int]:
    """The rewritten file in this user's cache ("" where nothing had to change), and how many sites it changed."""
    made_by = f"{__version__} {_rewriters()} {bits} ".encode() + code
    key = blake2b(library.data, digest_size=20, key=blake2b(made_by, digest_size=32).digest())
    folder = f"{directory()}/shim"
    file = f"{folder}/{key.hexdigest()}"
    counted = re.compile(re.escape(key.hexdigest()) + r"\.(\d+)$")
    try:
        for name in os.listdir(folder):
            if (match := counted.match(name)) and _is_ours(f"{folder}/{name}"):
                os.utime(f"{folder}/{name}")  # the oldest in use go first
                return f"{folder}/{name}" if int(match[1]) else "", int(match[1])
    except OSError:
        pass
    from ..compat.shim.rewrite import rewrite

    made = rewrite(ElfFile(library.data, library.path), bits, code)
    count = len(made.sites) + made.version_check if made else 0
    files.make_private_directories(folder)
    files.write_atomically(f"{file}.{count}", made.data if made else b"", 0o755)
    _drop_oldest(folder)
    return (f"{file}.{count}" if made else ""), count


def _rewriters() -> list[tuple[int, int]]:
    """Which state of the rewriting code this is: what another made is not taken from the cache."""
    out = []
    for name in ("rewrite.py", "x86.py", "elffile.py", "emulations.py"):
        try:
            status = os.stat(f"{os.path.dirname(emulations.__file__)}/{name}")
        except OSError:
            continue  # not installed as files: the version tells
        out.append((status.st_mtime_ns, status.st_size))
    return out


def _is_ours(path: str) -> bool:
    status = os.lstat(path)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _drop_oldest(folder: str) -> None:
    entries = []
    for name in os.listdir(folder):
        try:
            entries.append((os.lstat(f"{folder}/{name}").st_mtime_ns, f"{folder}/{name}"))
        except FileNotFoundError:
            continue  # another joey cleans up too
    for _, path in sorted(entries)[: max(0, len(entries) - KEPT)]:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue


def look(rootfs: str, args: list[str], env: list[str], cwd: str = "/") -> Programs:
    """Look at a root file system. What can't be read counts as not there: the start itself will tell."""
    root = Root(rootfs, native=False)
    try:
        root.attach()
    except OSError:
        return Programs(None, [], None, "")
    try:
        program_path, program = _program(root, args, env, cwd)
        loader = program.interpreter if program and program.interpreter else glibc.LOADER
        version, libraries = glibc.find(lambda path: _library(root, path), loader)
        return Programs(version, libraries, program, program_path)
    finally:
        root.close()


def _library(root: Root, path: str) -> Library | None:
    try:
        real, data = _read(root, path, _LARGEST_LIBRARY)
        elf = ElfFile(data, real)
    except (OSError, JoeyError):
        return None
    return Library(real, data) if elf.bits == 64 and elf.machine == EM_X86_64 else None


def _read(root: Root, path: str, largest: int) -> tuple[str, bytes]:
    """A regular file of the root by any of its names: where it really is, and its content."""
    fd = root.open(path)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > largest:
            raise NotElf(f"{path}: not a regular file of at most {largest >> 20} MiB")
        base = os.readlink(f"/proc/self/fd/{root.fd}").rstrip("/")
        real = os.readlink(f"/proc/self/fd/{fd}").removeprefix(base)
        reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(fd)
    try:
        return real, read_open(reading, path)
    finally:
        os.close(reading)


def _program(root: Root, args: list[str], env: list[str], cwd: str) -> tuple[str, ElfFile | None]:
    """The ELF file that a command line executes in the end: scripts lead to their interpreters."""
    if not args:
        return "", None
    word = args[0]
    for _ in range(5):
        found = _find(root, word, env, cwd)
        if found is None:
            return word, None
        path, data = found
        if data[:2] != b"#!":
            try:
                return path, ElfFile(data, path)
            except NotElf:
                return path, None
        words = data[2:256].split(b"\n")[0].split()
        if not words:
            return path, None
        word = os.fsdecode(words[0])
        if word.rpartition("/")[2] == "env" and len(words) > 1:
            word = os.fsdecode(words[1])
    return word, None


def _find(root: Root, word: str, env: list[str], cwd: str) -> tuple[str, bytes] | None:
    """A program by its path, or by its name along $PATH."""
    if "/" in word:
        folders = [""]
        word = word if word.startswith("/") else f"{cwd}/{word}"
    else:
        search = next((entry[5:] for entry in env if entry.startswith("PATH=")), "/usr/sbin:/usr/bin:/sbin:/bin")
        folders = [f"{folder}/" for folder in search.split(":") if folder]
    for folder in folders:
        try:
            return _read(root, folder + word, _LARGEST_PROGRAM)
        except (OSError, KernelError, NotElf):
            continue
    return None
