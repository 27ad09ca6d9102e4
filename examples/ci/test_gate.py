"""A reliability gate as a pytest test, with the Python API: pytest examples/ci/test_gate.py --junitxml=junit.xml

A failed gate fails the test; one that the trials do not decide is skipped with what is known. MODEL and DATA name your
own checkpoint and data; without them it is the embedded demo.
"""

import os
from pathlib import Path

import pytest

from faultcli.campaign.gates import Gate, Verdict
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.records import CampaignResult
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.report.markdown import campaign_markdown
from faultcli.workload.demo import demo_checkpoint_path
from faultcli.workload.evaluate import build_workload

MOST_LOST = 0.05  # of top-1 accuracy, a fraction


@pytest.fixture(scope="module")
def result() -> CampaignResult:
    checkpoint = Checkpoint.open(os.environ.get("MODEL", demo_checkpoint_path()))
    workload = build_workload(checkpoint.state(), checkpoint.metadata, data=os.environ.get("DATA"), limit=200)
    tensors = {name: checkpoint.read(name) for name in select(checkpoint.tensors.values())}
    arms = cross(["q2.5", "fp16"], [parse_law("bitflip:1e-6")])
    plan = Plan(arms, trials=300, gates=(Gate("max-drop", MOST_LOST),))
    found = run_campaign(plan, Subject(workload, tensors, checkpoint.sha256()))
    Path(os.environ.get("SUMMARY", os.devnull)).write_text(campaign_markdown(found), encoding="utf-8")
    return found


@pytest.mark.parametrize("number", [0, 1], ids=["q2.5", "fp16"])
def test_survives_bit_flips(number: int, result: CampaignResult) -> None:
    arm = result.arms[number]
    (gate,) = arm.gates
    if gate.verdict is Verdict.INCONCLUSIVE:
        pytest.skip(f"{gate.trials} trials do not decide: {arm.accuracy()}")
    assert gate.verdict is Verdict.PASS, f"{arm.arm.label}: {arm.accuracy()}, stored {arm.stored.top1:.3f}"
