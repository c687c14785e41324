"""Hooks: programs run at points of a container's life, with its state on their standard input.

Source: runtime-spec config.md "POSIX-platform Hooks": a hook's environment is exactly `env`; it fails the operation
by a non-zero status or by outliving its timeout. A failing poststop hook is a warning; any other ends the container.
"""

from __future__ import annotations

import os
import subprocess

from ..compat import jsonio
from ..compat.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run_hooks(
    kind: str,
    hooks: list[dict[str, Any]],
    state: dict[str, Any],
    cwd: str | None = None,
    stub: tuple[int, int] | None = None,
) -> None:
    """Run the hooks one after the other. Raises StepError naming the hook, its status and the end of its stderr.

    `stub`: an exec stub that executes them (compat/execstub.py), and the descriptor it reports on.
    """
    text = jsonio.dumps(state).encode()
    for place, hook in enumerate(hooks):
        name = f"hooks.{kind}[{place}] {hook['path']}"
        try:
            process = _start(hook, cwd, stub)
        except OSError as error:
            raise StepError(f"{name}: {error.strerror}", slug="hook") from None
        try:
            _, stderr = process.communicate(text, timeout=hook.get("timeout"))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            raise StepError(f"{name}: still running after its timeout of {hook['timeout']} s", slug="hook") from None
        if process.returncode:
            said = stderr[-2000:].decode("utf-8", "replace").strip()
            status = f"exit status {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
            raise StepError(f"{name}: {status}" + (f": {said}" if said else ""), slug="hook")


def _start(hook: dict[str, Any], cwd: str | None, stub: tuple[int, int] | None) -> subprocess.Popen[bytes]:
    """Start a hook. Raises OSError where it can't be executed."""
    argv = hook.get("args") or [hook["path"]]
    options: dict[str, Any] = {
        "env": dict(entry.partition("=")[::2] for entry in hook.get("env") or []),
        "cwd": cwd,
        "stdin": subprocess.PIPE,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "start_new_session": True,
    }
    if stub is None or not os.path.exists(f"/proc/self/fd/{stub[0]}"):
        return subprocess.Popen(argv, executable=hook["path"], **options)
    fd, report_fd = stub
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            [hook["path"], *argv],
            executable=f"/proc/self/fd/{fd}",
            pass_fds=(fd, report_fd),
            preexec_fn=lambda: os.dup2(write_end, report_fd),  # noqa: PLW1509  (this process has one thread)
            **options,
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    report = os.read(read_end, 8)
    os.close(read_end)
    if report:
        process.communicate()
        number = int.from_bytes(report[4:6], "little")
        raise OSError(number, os.strerror(number))
    return process
