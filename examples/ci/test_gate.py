"""A reliability gate as a pytest test, with the Python API: pytest test_gate.py --junitxml=junit.xml

MODEL, DATA and ARCH name your own checkpoint, its data and, where the checkpoint does not say it, its architecture;
without them it is the embedded demo. A gate that fails is a failed test. One that the trials do not decide is an error
of the test, as in the JUnit file of `faultcli report`, and not skipped: skipped tests count as fine, an open gate does
not.
"""

import os
from typing import Any

import pytest

import faultcli as fc

MOST_LOST = 0.05  # of top-1 accuracy, a fraction
TRIALS = 300  # at most; they stop when the gate is decided


@pytest.fixture(scope="module")
def result() -> fc.Result:
    model, data, arch = (os.environ.get(name) or None for name in ("MODEL", "DATA", "ARCH"))
    subject = fc.Subject.open(model, data, arch=arch, limit=200)
    gates = {"max-drop": MOST_LOST}
    found = fc.run_campaign(subject, "bitflip:1e-6", formats=["q2.5", "fp16"], trials=TRIALS, gates=gates)
    if "SUMMARY" in os.environ:
        fc.write_report(found, os.environ["SUMMARY"])  # a name in .md, for the page of a pull request
    return found


@pytest.fixture(params=[0, 1], ids=["q2.5", "fp16"])
def decided(request: pytest.FixtureRequest, result: fc.Result) -> Any:
    arm = result.arms[request.param]
    if arm.gates[0].verdict == "inconclusive":
        pytest.fail(f"{arm.gates[0].trials} trials do not decide: {arm.accuracy()}; allow more, or a looser threshold")
    return arm


def test_survives_bit_flips(decided: Any) -> None:
    said = f"{decided.arm.label}: {decided.accuracy()}, stored {decided.stored.top1:.3f}"
    assert decided.gates[0].verdict == "pass", said
