"""The exec stub's machine code is what its sources assemble to, and its file is one nobody can change."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from joey.compat import execstub

SOURCES = Path(__file__).parent.parent.parent / "tools" / "exec_stub"
TOOLS = {"x86_64": "", "aarch64": "aarch64-linux-gnu-"}


@pytest.mark.parametrize("machine", sorted(TOOLS))
def test_the_code_is_assembled_from_its_source(machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = TOOLS[machine] if os.uname().machine != machine else ""
    if not shutil.which(f"{prefix}as"):
        pytest.skip(f"{prefix}as is not installed (tools/test installs it on Debian)")
    made, code = tmp_path / "stub.o", tmp_path / "stub"
    subprocess.run([f"{prefix}as", str(SOURCES / f"{machine}.S"), "-o", str(made)], check=True)
    subprocess.run([f"{prefix}objcopy", "-O", "binary", "-j", ".text", str(made), str(code)], check=True)
    monkeypatch.setattr("joey.compat.libc.MACHINE", machine)
    assert execstub.code() == code.read_bytes()


def test_a_sealed_stub_can_not_be_written_to() -> None:
    fd = execstub.in_memory(execstub.image(5), 40)
    try:
        assert fd >= 40
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        with pytest.raises(OSError, match="not permitted|busy"):
            os.ftruncate(fd, 1)
        assert os.fstat(fd).st_mode & 0o777 == 0o111
    finally:
        os.close(fd)


def test_an_unlinked_stub_leaves_no_file_and_skips_folders_that_do_not_execute(tmp_path: Path) -> None:
    fd = execstub.in_unlinked_file(execstub.image(5), 40, ("/proc", "/nowhere", str(tmp_path)))
    try:
        assert os.fstat(fd).st_nlink == 0
        assert list(tmp_path.iterdir()) == []
    finally:
        os.close(fd)
