"""Whether KVM runs a kernel here, by having it run that kernel: a device that opens is no proof (nested guests).

The answer is kept until the host is booted again, for each kernel. The kernel may be an image's own, and hostile: the
trial is nobody's process, without network, and ends with joey and after its time.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import tempfile

from ....compat import libc
from ....compat.constants import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS
from ....compat.errors import KernelError
from ....compat.files import make_private_directories, read_text, write_atomically
from . import boot

_FOLDER = "/run/joey/vm"
_SECONDS = 15.0
_WORD = b"joey-kvm-works"
_INIT = f"""#!/busybox sh
/busybox mknod /dev/console c 5 1
echo {_WORD.decode()} >/dev/console
/busybox poweroff -f
"""
_NOBODY = 65534
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def works(qemu: str, image: bytes) -> bool:
    """Boot a kernel to its first process by KVM, which says a word and ends it."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    path = f"{_FOLDER}/kvm-{hashlib.sha256(image).hexdigest()[:16]}"
    try:
        return read_text(path).strip() == "works"
    except OSError:
        pass
    make_private_directories(_FOLDER)
    for name in os.listdir(_FOLDER):
        if name.startswith("trial-") and not os.path.exists(f"/proc/{name.split('-')[1]}"):
            shutil.rmtree(f"{_FOLDER}/{name}", ignore_errors=True)  # of a joey that was killed
    found = _tried(qemu, image)
    write_atomically(path, "works\n" if found else "does not\n")
    return found


def _tried(qemu: str, image: bytes) -> bool:
    with open(boot.busybox(), "rb") as file:
        shell = file.read()
    entries = [("dev", 0o40755, b""), ("busybox", 0o100755, shell), ("init", 0o100755, _INIT.encode())]
    with tempfile.TemporaryDirectory(prefix=f"trial-{os.getpid()}-", dir=_FOLDER) as folder:
        opened = []
        for name, data in (("kernel", image), ("initrd", boot.cpio(entries))):
            with open(f"{folder}/{name}", "wb") as target:
                target.write(data)
            opened.append(os.open(f"{folder}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        kernel, initrd = opened
        command = [qemu, "-machine", "pc", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults",
                   "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
                   "-kernel", f"/dev/fd/{kernel}", "-initrd", f"/dev/fd/{initrd}",
                   "-append", "console=ttyS0 panic=-1 quiet"]  # fmt: skip
        os.chmod(folder, 0o711)  # nobody opens its descriptors again, by their names
        for path in (f"{folder}/kernel", f"{folder}/initrd"):
            os.chmod(path, 0o644)
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=_SECONDS,
                check=False,
                pass_fds=opened,
                preexec_fn=_confine,
                cwd="/",
            )
        except (OSError, subprocess.SubprocessError):
            return False
        finally:
            for fd in opened:
                os.close(fd)
        return _WORD in done.stdout[: 1 << 16]


def _confine() -> None:
    """In the child: nobody, but for the group of /dev/kvm; no network; an end with joey, and after its time."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for flag in (CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUTS):
        try:
            libc.unshare(flag)
        except KernelError:
            continue  # this kernel has none of these
    resource.setrlimit(resource.RLIMIT_CPU, (int(_SECONDS) + 5, int(_SECONDS) + 5))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    group = os.stat("/dev/kvm").st_gid
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of ids takes it away
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
