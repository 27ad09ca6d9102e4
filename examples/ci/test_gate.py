"""A reliability gate as a pytest test, with the Python API: pytest examples/ci/test_gate.py --junitxml=junit.xml

A failed gate fails the test; one that the trials do not decide is skipped with what is known. MODEL and DATA name your
own checkpoint and data; without them it is the embedded demo.
"""

import os

import pytest

import faultcli as fc

MOST_LOST = 0.05  # of top-1 accuracy, a fraction


@pytest.fixture(scope="module")
def result() -> fc.Result:
    subject = fc.Subject.open(os.environ.get("MODEL"), os.environ.get("DATA"), limit=200)
    gates = {"max-drop": MOST_LOST}
    found = fc.run_campaign(subject, "bitflip:1e-6", formats=["q2.5", "fp16"], trials=300, gates=gates)
    if "SUMMARY" in os.environ:
        fc.write_report(found, os.environ["SUMMARY"])  # a name in .md, for the page of a pull request
    return found


@pytest.mark.parametrize("number", [0, 1], ids=["q2.5", "fp16"])
def test_survives_bit_flips(number: int, result: fc.Result) -> None:
    arm = result.arms[number]
    (gate,) = arm.gates
    if gate.verdict == "inconclusive":
        pytest.skip(f"{gate.trials} trials do not decide: {arm.accuracy()}")
    assert gate.verdict == "pass", f"{arm.arm.label}: {arm.accuracy()}, stored {arm.stored.top1:.3f}"
