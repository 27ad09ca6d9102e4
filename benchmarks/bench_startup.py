"""How long `faultcli --help` takes to answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Row, seconds


def run() -> Iterator[Row]:
    program = Path(sys.executable).with_name("faultcli")
    taken = seconds(lambda: subprocess.run([program, "--help"], check=True, capture_output=True), repeats=7)
    yield Row("faultcli --help", taken, 0.3, "s")
