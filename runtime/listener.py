"""Handing a seccomp listener to the agent that a bundle names (linux.seccomp.listenerPath).

Source: runtime-spec config-linux.md "The Container Process State": one message on a unix stream socket, JSON with the
descriptors' names, the descriptors beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ..compat import jsonio, terminal
from ..compat.errors import StepError
from .bundle import Bundle
from .state import OCI_VERSION, State


def forwarder(bundle: Bundle, state: State, pid: Callable[[], int], status: str) -> Callable[[int], None] | None:
    """A function that sends a listener's descriptor to the agent; None where the bundle names no agent."""
    section = bundle.linux.get("seccomp") or {}
    path = section.get("listenerPath")
    if not path:
        return None

    def forward(fd: int) -> None:
        message = {
            "ociVersion": OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": pid(),
            "metadata": section.get("listenerMetadata", ""),
            "state": state.oci(status),
        }
        socket = terminal.connect_unix(path)
        try:
            terminal.send_fd(socket, fd, jsonio.dumps(message).encode())
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise StepError(f"linux.seccomp.listenerPath: can't send to {path}: {reason}") from None
        finally:
            socket.close()

    return forward
