"""Whether KVM runs a kernel here, by having it run that kernel: a device that opens is no proof (nested guests).

The answer is kept until the host is booted again, for each kernel.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile

from ....compat.files import make_private_directories, read_text, write_atomically
from . import boot

_FOLDER = "/run/joey/vm"
_SECONDS = 15.0
_INIT = "#!/busybox sh\n/busybox poweroff -f\n"


def works(qemu: str, image: bytes) -> bool:
    """Boot a kernel to its first process by KVM, which ends it at once."""
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
    found = _tried(qemu, image)
    write_atomically(path, "works\n" if found else "does not\n")
    return found


def _tried(qemu: str, image: bytes) -> bool:
    with open(boot.busybox(), "rb") as file:
        shell = file.read()
    entries = [("dev", 0o40755, b""), ("busybox", 0o100755, shell), ("init", 0o100755, _INIT.encode())]
    with tempfile.TemporaryDirectory(prefix="joey-kvm-") as folder:
        for name, data in (("kernel", image), ("initrd", boot.cpio(entries))):
            with open(f"{folder}/{name}", "wb") as target:
                target.write(data)
        command = [qemu, "-machine", "pc", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults",
                   "-no-user-config", "-display", "none", "-no-reboot", "-kernel", f"{folder}/kernel",
                   "-initrd", f"{folder}/initrd", "-append", "panic=-1 quiet"]  # fmt: skip
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0
