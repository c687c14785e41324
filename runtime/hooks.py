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


def run_hooks(kind: str, hooks: list[dict[str, Any]], state: dict[str, Any], cwd: str | None = None) -> None:
    """Run the hooks one after the other. Raises StepError naming the hook, its status and the end of its stderr."""
    text = jsonio.dumps(state).encode()
    for place, hook in enumerate(hooks):
        name = f"hooks.{kind}[{place}] {hook['path']}"
        environment = dict(entry.partition("=")[::2] for entry in hook.get("env") or [])
        try:
            process = subprocess.Popen(
                hook.get("args") or [hook["path"]],
                executable=hook["path"],
                env=environment,
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
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
