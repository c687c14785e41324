"""The runtime's tests once more, as if on older kernels and with single system calls taken away (tools/asif).

What such a kernel lacks shows in tests/data/as_if.json: the tests that fail there, each with what it needs. They are
run, and have to fail; all others have to pass. New ones are told by `tools/as-if-drift`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1200)]

HERE = Path(__file__).parent
KERNELS: dict[str, Any] = json.loads((HERE.parent / "data" / "as_if.json").read_text())


@pytest.mark.parametrize("kernel", KERNELS["fail"], ids=lambda words: words.replace(" --", "-").replace(" ", "-"))
def test_the_suite(kernel: str) -> None:
    words = KERNELS["tests"]["ages" if kernel[0].isdigit() else "single"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-m",
        "not slow",
        *(str(HERE / name) for name in words),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, env={**environment, "JOEY_TEST_AS_IF": kernel}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:]
