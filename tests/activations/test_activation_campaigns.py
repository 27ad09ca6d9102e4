"""Campaigns on outputs of layers: the same records from every executor and batch size, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch

from faultcli.campaign.executors.base import Executor
from faultcli.campaign.executors.pool import Pool
from faultcli.campaign.executors.processes import Processes
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.preview import preview
from faultcli.campaign.records import CampaignResult
from faultcli.campaign.result import result_of
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.errors import FaultcliError
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import Selection
from faultcli.protect.chain import parse_chain
from faultcli.recover.batchnorm import parse_recalibration
from faultcli.report.trials import trials_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")


def plan_of(
    target: str = "activations", formats: Sequence[str] = ("native", "int8"), trials: int = 3, ber: float = 1e-4
) -> Plan:
    return Plan(cross(list(formats), [parse_law(f"bitflip:{ber}")]), trials, target=target)


def campaign(
    plan: Plan, *, batch: int | None = None, store: Store | None = None, executor: Executor | None = None
) -> CampaignResult:
    subject = Subject.open(data="digits", target=plan.target, limit=30, batch_size=batch)
    state = {name: tensor.clone() for name, tensor in subject.workload.model.state_dict().items()}
    result = run_campaign(plan, subject, store=store, executor=executor)
    assert all(torch.equal(state[name], tensor) for name, tensor in subject.workload.model.state_dict().items())
    return result


@pytest.fixture(scope="module")
def serial() -> CampaignResult:
    return campaign(plan_of())


def test_workers_give_the_same_records(serial: CampaignResult) -> None:
    with closing(Pool(Processes(2))) as executor:
        assert trials_jsonl(campaign(plan_of(), executor=executor)) == trials_jsonl(serial)


def test_a_store_continues_and_reads_back(serial: CampaignResult, tmp_path: Path) -> None:
    for trials in (1, 3):
        with closing(Store.open(tmp_path / "run.sqlite")) as store:
            campaign(plan_of(trials=trials), store=store)
    with closing(Store.read(tmp_path / "run.sqlite")) as store:
        kept = result_of(store)
    assert trials_jsonl(kept) == trials_jsonl(serial)
    assert kept.plan.target == "activations"
    with closing(Store.open(tmp_path / "run.sqlite")) as store, pytest.raises(FaultcliError, match="another campaign"):
        campaign(plan_of("activations:conv*"), store=store)


def test_batches_change_no_flip(serial: CampaignResult) -> None:
    for arm, other in zip(serial.arms, campaign(plan_of(), batch=7).arms, strict=True):
        assert [(r.flips, r.values_changed) for r in arm.records] == [
            (r.flips, r.values_changed) for r in other.records
        ]
        assert [r.outcome.masked for r in arm.records] == [r.outcome.masked for r in other.records]


def test_bits_and_flips_are_those_of_all_inferences(serial: CampaignResult) -> None:
    values = 30 * (16 * 64 + 32 * 64 + 64 + 10)
    assert [arm.bits for arm in serial.arms] == [32 * values, 8 * values]
    found = preview(plan_of(), Subject.open(data="digits", target="activations", limit=30))
    assert [arm.bits for arm in found.arms] == [32 * values, 8 * values]
    assert [arm.flips for arm in found.arms] == [pytest.approx((1e-4 * arm.bits,)) for arm in found.arms]
    for arm in serial.arms:  # five standard deviations
        expected = 3e-4 * arm.bits
        assert abs(sum(record.flips for record in arm.records) - expected) < 5 * expected**0.5


def test_weights_and_outputs_meet_the_faults_that_each_meets_alone(serial: CampaignResult) -> None:
    weights, both = campaign(plan_of("weights")), campaign(plan_of("weights,activations"))
    for arm, stored, outputs in zip(both.arms, weights.arms, serial.arms, strict=True):
        assert [r.flips for r in arm.records] == [
            one.flips + other.flips for one, other in zip(stored.records, outputs.records, strict=True)
        ]
        assert arm.bits == stored.bits + outputs.bits


def test_storing_is_apart_from_faults() -> None:
    result = campaign(plan_of(formats=["q2.5"], trials=2, ber=0.0))
    (arm,) = result.arms
    assert arm.stored.loss != result.original.loss
    assert all(record.outcome.masked == arm.stored.n and record.flips == 0 for record in arm.records)
    assert [record.outcome.loss for record in arm.records] == [arm.stored.loss] * 2


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"formats": ["int8-channel"]}, "--format int8-channel: --target activations takes formats with one scale"),
        ({"laws": ["flips:3"]}, "outputs of layers take bit flips at a rate, and no flips:3"),
        (
            {"chain": "secded=64"},
            "--protect secded=64: protects tensors in a memory, and --target activations has none",
        ),
        ({"recalibrate": "bn"}, "bn:1000: looks at inputs of its own"),
        ({"target": "activations:"}, "--target activations:: names no layers"),
        ({"include": ("conv*",)}, "--include conv\\*: names tensors"),
    ],
)
def test_what_makes_no_sense_is_refused(plan: dict[str, object], message: str) -> None:
    with pytest.raises(FaultcliError, match=message):
        Plan(
            cross(
                plan.get("formats", ["native"]),  # type: ignore[arg-type]
                [parse_law(text) for text in plan.get("laws", ["bitflip:1e-5"])],  # type: ignore[attr-defined]
                [parse_chain(str(plan.get("chain", "none")))],
                [parse_recalibration(str(plan["recalibrate"])) if "recalibrate" in plan else None],
            ),
            3,
            target=str(plan.get("target", "activations")),
            include=plan.get("include", ()),  # type: ignore[arg-type]
        )


def test_who_works_on_tensors_says_so() -> None:
    with pytest.raises(FaultcliError, match="--target activations: this command works on tensors"):
        Selection("activations").names([])
    with pytest.raises(FaultcliError, match="unknown target 'all,none,activations'"):
        Selection("all,none,activations").names([])
