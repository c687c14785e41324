"""Every error joey raises on purpose. The command line prints each once: message, hint, reference.

A message is lower case and names the object; a hint says what to do; a slug is stable and is what
docs/errors.md is ordered by.
"""

from __future__ import annotations

import errno as _errno
import os


class JoeyError(Exception):
    """An error with a message for people, a hint, a stable slug and an exit code."""

    slug = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str = "", slug: str = "", exit_code: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if slug:
            self.slug = slug
        if exit_code:
            self.exit_code = exit_code

    def __str__(self) -> str:
        return self.message


class UsageError(JoeyError):
    """The command line's words are off."""

    slug = "usage"
    exit_code = 2


class BundleError(JoeyError):
    """A bundle or its config.json is missing, malformed or asks for what no runtime may give."""

    slug = "bundle"

    def __init__(self, field: str, message: str, hint: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message, hint)
        self.field = field


class ReportError(JoeyError):
    """A kernel report can't be read."""

    slug = "report"


class PlanRefused(JoeyError):
    """The plan has refusals: something the bundle needs can't be had on this kernel under this policy."""

    slug = "refused"


class StateError(JoeyError):
    """A container does not exist, exists already, or is in the wrong state."""

    slug = "state"


class StepError(JoeyError):
    """A step of a start failed; names the step and what it met."""

    slug = "step"


class KernelError(JoeyError):
    """A system call failed. `call` is its name, `errno` the kernel's answer, `path` what it was about."""

    slug = "kernel"

    def __init__(self, call: str, errno: int, path: str = "", hint: str = "") -> None:
        about = f" {path}" if path else ""
        super().__init__(f"{call}{about}: {errno_name(errno)} ({os.strerror(errno)})", hint or _hint_for(call, errno))
        self.call = call
        self.errno = errno
        self.path = path


def errno_name(number: int) -> str:
    """The symbol of an errno ("ENOSYS"), or its number where the platform has no name for it."""
    return _errno.errorcode.get(number, str(number))


def _hint_for(call: str, errno: int) -> str:
    if errno == _errno.ENOSYS:
        return (
            f"{call} is unknown to this kernel ({os.uname().release}) or denied by a seccomp filter around joey; "
            "`joey probe` shows which"
        )
    if errno == _errno.EPERM and os.geteuid() != 0:
        return f"{call} needs privilege; run as root, or use a bundle with a user namespace"
    return ""
