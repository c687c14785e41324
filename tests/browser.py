"""A real browser for pages that joey writes: Chromium without a window, by its DevTools protocol over a pipe.

Source: chromedevtools.github.io/devtools-protocol (Target, Page, Runtime, Log, Network, Emulation).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

PROGRAM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), "")
_SECONDS = 60


class Browser:
    """To be used as a context. `complaints`: errors of scripts and of the page's own policy; `fetched`: every address."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.fetched: list[str] = []
        self._number = 0
        self._held = b""
        self._session = ""
        self._loads = 0

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="joey-browser-", ignore_cleanup_errors=True)
        pipes = [*os.pipe(), *os.pipe()]
        theirs_in, self._to, self._from, theirs_out = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in pipes)
        for fd in pipes:
            os.close(fd)
        words = [PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}"]  # fmt: skip
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # the descriptors that it takes
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words], pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._folder.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What a method answers. Raises AssertionError for an error."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _SECONDS
        while (answer := self._next(end)).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._from], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser ended"
            self._held += data
        text, _, self._held = self._held.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        params = message.get("params", {})
        if message.get("method") == "Page.loadEventFired":
            self._loads += 1
        elif message.get("method") == "Network.requestWillBeSent":
            self.fetched.append(params["request"]["url"])
        elif message.get("method") == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        return message

    def open(self, path: Path, width: int = 1200, height: int = 900) -> None:
        """A page of this machine, in a window of so many pixels; a narrow one is a phone's."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.complaints.clear()
        self.fetched.clear()
        loads, end = self._loads, time.monotonic() + _SECONDS
        self.call("Page.navigate", url=path.resolve().as_uri())
        while self._loads == loads:
            self._next(end)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is. Raises AssertionError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def type(self, selector: str, text: str) -> None:
        """Type into a field, key by key, in the place of what is there."""
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def media(self, kind: str) -> None:
        """See the page as "print" or "screen"."""
        self.call("Emulation.setEmulatedMedia", media=kind)

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", landscape=True, printBackground=True)["data"])
