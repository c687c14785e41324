"""What is known of a fleet, on this machine: a report a host, what images were judged, and a journal of what was done.

DIR/reports/HOST.json   the kernel report of a host, as `joey probe --save` writes it
DIR/checks/NAME.json    the verdicts on an image, by host
DIR/journal             a line of JSON for each thing that was done to a host: when, who, what, before, after
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

from ...compat.errors import JoeyError
from ...compat.files import read_text, write_atomically
from ...probes import report as reports

if TYPE_CHECKING:
    from ...probes.report import KernelReport


def default_folder() -> str:
    """$JOEY_FLEET, or joey/fleet in the user's data folder. Source: XDG Base Directory Specification."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.environ.get("JOEY_FLEET") or f"{data}/joey/fleet"


class Store:
    """One folder. Reading what is not there gives nothing."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def keep(self, host: str, report: KernelReport) -> None:
        os.makedirs(f"{self.folder}/reports", exist_ok=True)
        report.save(f"{self.folder}/reports/{host}.json")

    def report(self, host: str) -> KernelReport | None:
        """Raises ReportError for a damaged one."""
        path = f"{self.folder}/reports/{host}.json"
        return reports.load(path) if os.path.exists(path) else None

    def seen(self, host: str) -> float:
        """When the host was looked at, in seconds since the epoch; 0 for never."""
        try:
            return os.stat(f"{self.folder}/reports/{host}.json").st_mtime
        except FileNotFoundError:
            return 0.0

    def hosts(self) -> list[str]:
        """The hosts that have a report."""
        try:
            names = os.listdir(f"{self.folder}/reports")
        except FileNotFoundError:
            return []
        return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))

    def keep_check(self, image: str, verdicts: dict[str, str]) -> None:
        """Remember what was said of an image: host -> "runs", "runs with losses" or "does not run"."""
        os.makedirs(f"{self.folder}/checks", exist_ok=True)
        verdicts = {**self.checks().get(image, {}), **verdicts}
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", image).lstrip(".")[-200:] or "image"
        write_atomically(f"{self.folder}/checks/{name}.json", json.dumps({"image": image, "hosts": verdicts}), 0o644)

    def checks(self) -> dict[str, dict[str, str]]:
        """image -> host -> verdict."""
        found = {}
        try:
            names = sorted(os.listdir(f"{self.folder}/checks"))
        except FileNotFoundError:
            return {}
        for name in names:
            try:
                value = json.loads(read_text(f"{self.folder}/checks/{name}"))
                found[str(value["image"])] = {str(host): str(word) for host, word in value["hosts"].items()}
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                continue  # of a run that was killed, or of another version
        return found

    def note(self, host: str, what: str, before: str, after: str) -> None:
        """Put a line into the journal; it is on disk when this returns."""
        os.makedirs(self.folder, exist_ok=True)
        line = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "who": _who(), "host": host,
                "what": what, "before": before, "after": after}  # fmt: skip
        fd = os.open(f"{self.folder}/journal", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            size = os.fstat(fd).st_size
            torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"  # by a run that was killed
            os.write(fd, (b"\n" if torn else b"") + json.dumps(line).encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)

    def check(self) -> None:
        """Raise OSError where nothing could be noted: before a host is changed."""
        os.makedirs(self.folder, exist_ok=True)
        os.close(os.open(f"{self.folder}/journal", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))

    def journal(self, host: str = "") -> list[dict[str, Any]]:
        """What was done, the oldest first; of one host, or of all."""
        found = []
        try:
            with open(f"{self.folder}/journal", encoding="utf-8", errors="replace") as file:
                for line in file:
                    try:
                        value = json.loads(line)
                    except ValueError:
                        continue  # a line that a killed run did not finish
                    if isinstance(value, dict) and (not host or value.get("host") == host):
                        found.append(value)
        except FileNotFoundError:
            return []
        except IsADirectoryError:
            raise JoeyError(f"{self.folder}/journal is a folder", "choose another --store", "fleet") from None
        return found


def _who() -> str:
    try:
        return f"{getpass.getuser()}@{os.uname().nodename}"
    except (KeyError, OSError):
        return f"{os.getuid()}@{os.uname().nodename}"
