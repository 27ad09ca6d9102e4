"""Campaigns on the embedded demo: repeatable, paired, without a trace in the model; outcomes counted as defined."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.records import CampaignResult, Record
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.subject import Subject
from faultcli.campaign.without_faults import evaluate_stored
from faultcli.checkpoint import Checkpoint
from faultcli.cli import run
from faultcli.errors import FormatError, UsageError
from faultcli.faults.laws import parse_law
from faultcli.faults.selection import select
from faultcli.injection import Draw, inject
from faultcli.memory import MemoryImage
from faultcli.report.document import campaign_document
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.classifier import Workload
from faultcli.workload.demo import demo_checkpoint_path
from faultcli.workload.late.starting import Run

LIMIT = 60


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(demo_checkpoint_path())


@pytest.fixture
def workload(checkpoint: Checkpoint) -> Workload:
    return build_workload(checkpoint.state(), checkpoint.metadata, WorkloadSpec(limit=LIMIT))


@pytest.fixture
def tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {name: checkpoint.read(name) for name in select(checkpoint.tensors.values())}


def campaign(
    workload: Workload,
    tensors: dict[str, Tensor],
    formats: str,
    *laws: str,
    trials: int = 4,
    seed: int = 0,
    on_record: Callable[[Record], None] = lambda record: None,
) -> CampaignResult:
    plan = Plan(cross(formats.split(","), [parse_law(law) for law in laws]), trials, seed)
    subject = Subject(workload, tensors, "demo")
    return run_campaign(plan, subject, on_record=lambda record, watch: on_record(record))


def bits_of(workload: Workload) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in workload.parameters.items()}


def test_the_same_command_twice_gives_the_same_json(capfd: pytest.CaptureFixture[str]) -> None:
    command = ["campaign", "--ber", "1e-5,1e-3", "--fault", "flips:3", "--format", "native,q2.5,int8"]
    documents = []
    for _ in range(2):
        assert run([*command, "--trials", "3", "--limit", "40", "--json", "-", "-q"]) == 0
        documents.append(json.loads(capfd.readouterr().out))
    assert documents[0].pop("timing")["seconds"] > 0
    documents[1].pop("timing")
    assert json.dumps(documents[0]) == json.dumps(documents[1])
    assert run([*command, "--trials", "3", "--limit", "40", "--json", "-", "-q", "--seed", "1"]) == 0
    other = json.loads(capfd.readouterr().out)
    assert other["plan_hash"] != documents[0]["plan_hash"]
    assert other["arms"] != documents[0]["arms"]


def test_the_model_is_bit_identical_after_a_campaign(workload: Workload, tensors: dict[str, Tensor]) -> None:
    before = bits_of(workload)
    campaign(workload, tensors, "native,q2.5,fp4-e2m1", "bitflip:1e-3", "gaussian:0.1", "zero:0.3", trials=2)
    assert bits_of(workload) == before


def test_the_model_is_bit_identical_after_an_interrupt(workload: Workload, tensors: dict[str, Tensor]) -> None:
    before = bits_of(workload)

    def interrupt(record: Record) -> None:
        if record.trial == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign(workload, tensors, "q2.5", "bitflip:1e-2", on_record=interrupt)
    assert bits_of(workload) == before
    tensors["fc2.weight"][0, 0] = torch.nan  # fails while the second format is written
    with pytest.raises(FormatError, match=r"fc2\.weight"):
        campaign(workload, tensors, "native,q2.5", "bitflip:1e-2")


def test_the_model_is_bit_identical_after_a_failing_forward(
    workload: Workload, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bits_of(workload)
    answers, calls = workload.answers, []

    def fail(run: Run | None = None) -> Tensor:
        calls.append(1)
        if len(calls) > 2:  # in the first trial, with the faults applied
            raise RuntimeError("the device is gone")
        return answers(run)

    monkeypatch.setattr(workload, "answers", fail)
    with pytest.raises(RuntimeError, match="the device is gone"):
        campaign(workload, tensors, "q2.5", "bitflip:1e-2")
    assert bits_of(workload) == before


def test_records_come_as_trials_finish_in_order(workload: Workload, tensors: dict[str, Tensor]) -> None:
    seen: list[tuple[int, int]] = []
    result = campaign(
        workload, tensors, "native,q2.5", "flips:1", "flips:2", on_record=lambda r: seen.append((r.arm, r.trial))
    )
    assert sorted(seen) == [(arm, trial) for arm in range(4) for trial in range(4)]
    assert [arm.arm.label for arm in result.arms] == [
        "native flips:1",
        "native flips:2",
        "q2.5 flips:1",
        "q2.5 flips:2",
    ]
    for arm in result.arms:
        assert [record.trial for record in arm.records] == [0, 1, 2, 3]


def test_every_trial_flips_what_its_law_says(workload: Workload, tensors: dict[str, Tensor]) -> None:
    result = campaign(workload, tensors, "native,q2.5", "flips:5")
    for arm in result.arms:
        assert [record.flips for record in arm.records] == [5, 5, 5, 5]
        assert all(1 <= record.values_changed <= 5 for record in arm.records)
        assert arm.flips_mean == 5
    assert [arm.bits for arm in result.arms] == [1_221_120, 305_280]


def test_arms_with_one_layout_are_paired(workload: Workload, tensors: dict[str, Tensor]) -> None:
    """fp32 and native are one layout here, int8 and q2.5 another: the same bits flip in trial after trial."""
    law = parse_law("bitflip:1e-3")
    for one, two in (("fp32", "native"), ("int8", "q2.5")):
        for trial in range(3):
            a, b = (MemoryImage(tensors, name).draw(law, seed=9, trial=trial) for name in (one, two))
            assert a.faults.keys() == b.faults.keys()
            for name in a.faults:
                assert a.faults[name].words.tolist() == b.faults[name].words.tolist()
                assert a.faults[name].masks.tolist() == b.faults[name].masks.tolist()
    result = campaign(workload, tensors, "fp32,native", "bitflip:1e-4")
    fp32, native = result.arms
    assert [r.flips for r in fp32.records] == [r.flips for r in native.records]
    assert [r.outcome for r in fp32.records] == [r.outcome for r in native.records]


def test_a_campaign_without_the_other_arms_is_the_same(workload: Workload, tensors: dict[str, Tensor]) -> None:
    together = campaign(workload, tensors, "fp16,q2.5", "bitflip:1e-4", "zero:0.1")
    alone = campaign(workload, tensors, "q2.5", "zero:0.1")
    assert [r.outcome for r in together.arms[3].records] == [r.outcome for r in alone.arms[0].records]


def test_a_trial_is_what_inject_writes(
    workload: Workload, tensors: dict[str, Tensor], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    for format in ("native", "q2.5"):
        result = campaign(workload, tensors, format, "bitflip:5e-4", trials=2, seed=4)
        for record in result.arms[0].records:
            law = parse_law("bitflip:5e-4")
            where = tmp_path / f"{format}-{record.trial}"
            done = inject(checkpoint, Draw(law, list(tensors), format, seed=4, trial=record.trial), where)
            assert done.faults.flips == record.flips
            assert done.values_changed == record.values_changed
            written = build_workload(Checkpoint.open(where).state(), checkpoint.metadata, WorkloadSpec(limit=LIMIT))
            assert written.outcome().correct1 == record.outcome.correct1


def test_a_trial_without_faults_is_the_golden_run_and_costs_no_forward_pass(
    workload: Workload, tensors: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_forward_passes(workload, monkeypatch)
    result = campaign(workload, tensors, "native", "bitflip:0", "flips:0", trials=5)
    assert len(calls) == 1  # the original; what is stored natively is the same
    for arm in result.arms:
        for record in arm.records:
            assert (record.flips, record.values_changed) == (0, 0)
            assert record.outcome == arm.stored == result.original
            assert record.outcome.masked == record.outcome.n == LIMIT
    calls.clear()
    result = campaign(workload, tensors, "q2.5", "flips:0", "flips:1", trials=3)
    assert len(calls) == 2 + 3  # the original, as stored, and three trials with a flip


def count_forward_passes(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    answers = workload.answers

    def counted(run: Run | None = None) -> Tensor:
        calls.append(1)
        return answers(run)

    monkeypatch.setattr(workload, "answers", counted)
    monkeypatch.setattr(workload, "late_bytes", 0)
    return calls


def test_three_accuracies_are_kept_apart(workload: Workload, tensors: dict[str, Tensor]) -> None:
    """Three bits alone cost accuracy here: that is no fault loss, and trials are compared with what is stored."""
    image = MemoryImage(tensors, "int3")
    original, stored = evaluate_stored(image, workload, tensors)
    result = campaign(workload, tensors, "int3", "flips:0", "bitflip:0.2")
    quiet, noisy = result.arms
    assert result.original.top1 == original.top1 == 1.0
    assert quiet.stored.correct1 == stored.correct1 < original.correct1
    assert all(record.outcome.top1 == stored.top1 for record in quiet.records)
    assert all(record.outcome.masked == LIMIT for record in quiet.records)
    assert quiet.stored.masked == LIMIT  # compared with itself
    assert stored.masked < LIMIT  # compared with the original
    assert max(record.outcome.top1 for record in noisy.records) < stored.top1
    document = campaign_document(result, 0.95)
    assert [arm["original_accuracy"] for arm in document["arms"]] == [1.0, 1.0]
    assert document["arms"][0]["stored_accuracy"] == stored.top1 == document["arms"][0]["accuracy"]["mean"]
    assert document["arms"][1]["accuracy"]["mean"] < stored.top1


def test_a_non_finite_answer_is_due_and_wrong(workload: Workload, tensors: dict[str, Tensor]) -> None:
    """All exponent bits stuck at 1 is NaN everywhere; argmax over NaN is class 0 and would score by luck."""
    result = campaign(workload, tensors, "native", "stuck-at-1:1,bits=exponent", trials=2)
    for record in result.arms[0].records:
        assert (record.outcome.due, record.outcome.correct1) == (LIMIT, 0)
        assert (record.outcome.masked, record.outcome.sdc) == (0, 0)
        assert record.outcome.loss is None
    arm = campaign_document(result, 0.95)["arms"][0]
    assert (arm["due"], arm["sdc"], arm["masked"], arm["loss"]) == (1, 0, 0, None)
    assert arm["accuracy"]["mean"] == arm["accuracy"]["worst"] == 0


def test_outcomes_add_up(workload: Workload, tensors: dict[str, Tensor]) -> None:
    result = campaign(workload, tensors, "fp16,bf16", "bitflip:3e-4")
    for arm in result.arms:
        for record in arm.records:
            outcome = record.outcome
            assert outcome.masked + outcome.sdc + outcome.due == outcome.n == LIMIT
            assert outcome.correct1 <= outcome.masked + outcome.sdc


def test_json_is_that_of_the_contract(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["campaign", "--ber", "1e-4", "--format", "q2.5,fp16", "--trials", "2", "--limit", "30", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == "faultcli.campaign/1"
    assert document.keys() >= {"schema", "plan_hash", "inputs", "bits", "arms", "gates", "verdict"}
    assert document["inputs"] == 30
    assert len(document["plan_hash"]) == 64
    assert (document["gates"], document["verdict"]) == ([], None)
    for arm in document["arms"]:
        assert arm.keys() >= {
            *("format", "protect", "fault", "corrector", "recalibrate", "trials", "original_accuracy"),
            *("stored_accuracy", "accuracy", "gain_over_none", "masked", "sdc", "due", "flips_mean"),
            "overhead_bits_per_weight",
        }
        assert (arm["protect"], arm["corrector"], arm["recalibrate"], arm["gain_over_none"]) == (
            "none",
            None,
            None,
            None,
        )
        assert (arm["fault"], arm["trials"], arm["overhead_bits_per_weight"]) == ("bitflip:0.0001", 2, 0)
        assert arm["accuracy"].keys() == {"mean", "low", "high", "worst"}
        for rate in ("original_accuracy", "stored_accuracy", "masked", "sdc", "due"):
            assert 0 <= arm[rate] <= 1
        assert 0 <= arm["accuracy"]["low"] <= arm["accuracy"]["mean"] <= arm["accuracy"]["high"] <= 1


def test_one_trial_has_no_interval(workload: Workload, tensors: dict[str, Tensor]) -> None:
    accuracy = campaign_document(campaign(workload, tensors, "native", "flips:1", trials=1), 0.95)["arms"][0][
        "accuracy"
    ]
    assert (accuracy["low"], accuracy["high"]) == (None, None)
    assert accuracy["mean"] == accuracy["worst"]


def test_plan_hash_covers_what_changes_a_result(checkpoint: Checkpoint) -> None:
    arms = cross(["q2.5"], [parse_law("bitflip:1e-4")])
    here = {"checkpoint": "a", "workload": '"w"'}
    base = Plan(arms, 3).identity(**here)
    assert Plan(cross(["q2.5"], [parse_law("bitflip:0.0001")]), 3).identity(**here) == base
    assert Plan(arms, 4).identity(**here) == base  # more trials are more of the same
    others = [
        Plan(arms, 3, seed=1).identity(**here),
        Plan(arms, 3, target="all").identity(**here),
        Plan(arms, 3, include=("a",)).identity(**here),
        Plan(arms, 3, exclude=("a",)).identity(**here),
        Plan(cross(["q2.6"], [parse_law("bitflip:1e-4")]), 3).identity(**here),
        Plan(cross(["q2.5"], [parse_law("bitflip:2e-4")]), 3).identity(**here),
        Plan(arms, 3).identity(checkpoint="b", workload='"w"'),
        Plan(arms, 3).identity(checkpoint="a", workload='"v"'),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_plans_that_make_no_sense() -> None:
    arms = cross(["q2.5"], [parse_law("bitflip:1e-4")])
    for make, words in {
        lambda: Plan(arms, 0): "--trials 0",
        lambda: Plan(arms, 1, seed=-1): "--seed -1",
        lambda: Plan((*arms, *arms), 1): "is asked for twice",
        lambda: cross(["q2.5"], []): "no fault to inject",
        lambda: cross(["q25"], [parse_law("flips:1")]): "unknown number format 'q25'",
    }.items():
        with pytest.raises(UsageError, match=words):
            make()
