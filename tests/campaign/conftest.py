"""What the tests of the campaign engine compare with."""

import pytest
from small_campaign import run_demo

from faultcli.report.trials import trials_jsonl


@pytest.fixture(scope="session")
def undisturbed() -> bytes:
    """The exported trials of the small campaign, run serially and without a store."""
    return trials_jsonl(run_demo())
