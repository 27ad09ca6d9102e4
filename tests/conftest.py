"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of real data and weights: $FAULTCLI_DATA, or shared/data beside the repository."""
    path = Path(os.environ.get("FAULTCLI_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"needs real data: {path} is not there (set FAULTCLI_DATA)")
    return path
