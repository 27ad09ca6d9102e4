"""Two-stage sampling: trials on a part of the inputs say the same of all of them, and how sure that is."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_campaign import PLAN, demo_workload, run_demo

from faultcli.campaign.bench import Bench, Trial, fault_free
from faultcli.campaign.executors.pool import Pool
from faultcli.campaign.executors.processes import Processes
from faultcli.campaign.gates import FaultFreeAccuracy, Gate, GateCheck, Verdict
from faultcli.campaign.pilot import INPUTS, MAPS, Pilot, components, pilot
from faultcli.campaign.plan import MOST_TRIALS, Plan, cross
from faultcli.campaign.records import ArmResult
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.shard import Shard
from faultcli.campaign.statistics import mean_interval
from faultcli.campaign.store import Store, StoreError
from faultcli.campaign.subject import Subject
from faultcli.campaign.subsets import Subsets, rows_of
from faultcli.errors import UsageError, WorkloadError
from faultcli.faults.laws import parse_law
from faultcli.report.trials import trials_jsonl
from faultcli.workload.metrics import GoldenRun, Sample, estimate_bounds, measure

SIZE = 7
PART = replace(PLAN, arms=PLAN.arms[:2], inputs_per_trial=SIZE)


pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_input_is_drawn_alike() -> None:
    drawn = [rows_of(0, trial, 20, 6) for trial in range(2000)]
    assert all(torch.equal(rows, rows.unique()) for rows in drawn)
    assert torch.equal(rows_of(0, 5, 20, 6), drawn[5])
    counts = torch.cat(drawn).bincount(minlength=20)
    assert (counts - 600).abs().max() < 4 * (2000 * 0.3 * 0.7) ** 0.5
    assert not torch.equal(rows_of(1, 5, 20, 6), drawn[5])


def test_means_are_right_and_intervals_hold_the_truth() -> None:
    """Made-up maps that ruin 0 to 100 % of 50 inputs, some of which are wrong without faults, and come right by chance.

    Inputs that were drawn once for all trials would miss the truth of the others: their intervals are of those alone.
    """
    inputs, size, trials, campaigns = 50, 6, 30, 300
    rng = np.random.default_rng(2)
    clean = rng.random(inputs) < 0.8
    hurt = rng.beta(0.6, 1.4, (300, 1)) > rng.beta(2, 2, (1, inputs))  # maps and inputs each have their own share
    faulty = np.where(hurt, rng.random((300, inputs)) < 0.1, clean)
    truth = faulty.mean()
    bounds = estimate_bounds(int(clean.sum()), inputs, size)
    means, hits, fixed = [], 0, 0
    for campaign in range(campaigns):
        maps = rng.integers(0, 300, trials)
        values = [_estimate(clean, faulty[m], rows_of(campaign, t, inputs, size)) for t, m in enumerate(maps)]
        found = mean_interval(values, bounds=bounds)
        rows = rows_of(campaign, 0, inputs, size)
        once = mean_interval([float(faulty[m][rows].mean()) for m in maps])
        assert found is not None
        assert once is not None
        means.append(found.mean)
        hits += found.low <= truth <= found.high
        fixed += once.low <= truth <= once.high
    assert abs(np.mean(means) - truth) < 3.5 * np.std(means) / campaigns**0.5
    assert 0.91 < hits / campaigns < 0.985  # the standard error is 0.013
    assert fixed / campaigns < 0.8


def _estimate(clean: np.ndarray, faulty: np.ndarray, rows: torch.Tensor) -> float:
    sample = Sample(len(clean), int(clean.sum()), int(clean[rows].sum()))
    return sample.estimate(int(faulty[rows].sum()), len(rows))


def test_an_estimate_is_the_accuracy_where_all_inputs_are_drawn_and_never_leaves_its_bounds() -> None:
    assert Sample(30, 24, 24).estimate(18, 30) == pytest.approx(18 / 30)
    assert estimate_bounds(24, 30, 30) == (0.0, 1.0)
    low, high = estimate_bounds(24, 30, 7)
    for here in range(1, 8):  # 6 of 30 are wrong, so at least one of 7 is right
        for right in range(8):
            if right - here <= 6:
                assert low <= Sample(30, 24, here).estimate(right, 7) <= high


def test_variances_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    chances = rng.beta(1, 3, 4000)
    parts = rng.binomial(16, chances) / 16
    between, within = components(list(parts), 16, 10**9)
    assert between == pytest.approx(np.var(chances), rel=0.1)
    assert within == pytest.approx(float((chances * (1 - chances)).mean()), rel=0.1)
    between, within = components([0.0] * 24, 16, 1000)  # nothing was seen: both may be there
    assert within > 0
    assert between > 0


def test_the_best_size_is_the_classical_one() -> None:
    found = Pilot(between=0.01, within=0.2, map_seconds=0.05, input_seconds=0.001, inputs=4096)
    assert found.best() == 32  # √(50 · 0.2 / 0.01) = 31.6
    assert replace(found, map_seconds=0.0).best() == 8
    assert replace(found, between=0.0).best() is None  # maps are alike: one of them on all inputs
    assert replace(found, map_seconds=1e4).best() is None
    assert replace(found, map_seconds=0.1).best(unit=12) == 48


def test_a_pilot_is_what_its_trials_say() -> None:
    """Held to the same trials, run one by one; the model is as it was afterwards."""
    subject = Subject.open(limit=64)
    before = subject.workload.logits()
    original = fault_free(subject.workload)
    found = pilot(PLAN, subject, original)
    assert found is not None
    parts = []
    for number, arm in enumerate(PLAN.arms):
        bench = Bench.set_up(subject, {number: arm}, original, seed=PLAN.seed, inputs_per_trial=INPUTS)
        records = [bench.run(Trial(number, MOST_TRIALS + trial, arm.fault)) for trial in range(MAPS)]
        parts.append(components([1 - (one.outcome.masked or 0) / INPUTS for one in records], INPUTS, 64))
    subject.workload.load(subject.tensors)
    assert parts[0] != parts[1]
    assert (found.between, found.within) == tuple(map(pytest.approx, np.sum(parts, axis=0)))
    assert found.inputs == 64
    assert found.input_seconds > 0
    assert torch.equal(subject.workload.logits(), before)


def test_a_trial_is_what_all_inputs_say_of_its_part(tmp_path: Path) -> None:
    """Held to a run of the whole model under the same faults, of which the rows are taken."""
    plan = replace(PLAN, arms=PLAN.arms[:1], trials=6)
    subject = Subject.open(limit=30)
    clean = subject.workload.logits()
    stored_image = subject.memory("q2.5")
    result = run_campaign(replace(plan, inputs_per_trial=SIZE), subject)
    subject.workload.load(dict(stored_image.values()))
    stored = subject.workload.logits()
    (arm,) = result.arms
    for record in arm.records:
        rows = rows_of(0, record.trial, 30, SIZE)
        patch = stored_image.patch(stored_image.draw(plan.arms[0].fault, seed=0, trial=record.trial))
        with patch.applied(subject.workload.parameters):
            logits = subject.workload.logits()
        labels = subject.workload.labels
        wanted = measure(logits[rows], labels[rows], GoldenRun(stored[rows]))
        found = replace(record.outcome, sample=None, loss=None)
        assert found == replace(wanted, loss=None)
        right = int((stored.argmax(1) == labels).sum()), int((stored.argmax(1) == labels)[rows].sum())
        assert record.outcome.sample == Sample(30, *right)
    assert {record.outcome.n for record in arm.records} == {SIZE}
    assert arm.worst is None
    subject.workload.load(subject.tensors)
    assert torch.equal(subject.workload.logits(), clean)


def test_records_are_the_same_whoever_runs_them_and_after_a_resume(tmp_path: Path) -> None:
    whole = trials_jsonl(run_demo(plan=PART))
    with closing(Pool(Processes(2))) as workers:
        assert trials_jsonl(run_demo(executor=workers, plan=PART)) == whole
    path = tmp_path / "s.db"
    with closing(Store.open(path)) as store:
        run_demo(store, plan=replace(PART, trials=3))
    with closing(Store.open(path)) as store:
        assert store.plan().inputs_per_trial == SIZE
        assert trials_jsonl(run_demo(store, plan=PART)) == whole
        # which number it was, the store knows, and not a new measurement
        again = run_demo(store, plan=replace(PART, inputs_per_trial="auto"))
        assert again.plan.inputs_per_trial == SIZE
        assert trials_jsonl(again) == whole
    row = json.loads(whole.splitlines()[0])
    assert row["inputs"] == SIZE
    assert row["input_positions"] == rows_of(0, 0, 30, SIZE).tolist()
    with closing(Store.open(path)) as store, pytest.raises(StoreError, match="inputs_per_trial is 7 there and 8 here"):
        run_demo(store, plan=replace(PART, inputs_per_trial=8))


def test_arms_share_inputs_and_gains_are_paired() -> None:
    result = run_demo(plan=PART)
    plain, hardened = result.arms
    gain = result.gain_over_none(hardened)
    assert gain is not None
    pairs = zip(plain.records, hardened.records, strict=True)
    assert gain.mean == pytest.approx(np.mean([b.outcome.top1 - a.outcome.top1 for a, b in pairs]))


@pytest.mark.parametrize("change", ["missing", "too many", "of another size"])
def test_a_store_is_not_believed(change: str, tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with closing(Store.open(path)) as store:
        run_demo(store, plan=replace(PART, trials=1))
    with closing(sqlite3.connect(path)) as file, file:
        (cell,) = file.execute("SELECT outcome FROM trials LIMIT 1").fetchone()
        outcome = json.loads(cell)
        if change == "missing":
            outcome["sample"] = None
        elif change == "too many":
            outcome["sample"]["right_here"] = 8
        else:
            outcome |= {"n": 6, "masked": 6, "sdc": 0, "due": 0}
        file.execute("UPDATE trials SET outcome = ?", (json.dumps(outcome),))
    with pytest.raises(StoreError, match="is damaged"):
        Store.open(path)


def test_gates_know_that_estimates_leave_0_to_1() -> None:
    clean = FaultFreeAccuracy(0.8, 0.8)
    bounds = estimate_bounds(24, 30, 7)
    gate = GateCheck(Gate("min-accuracy", 0.1), clean=clean, alpha=0.05, bounds=bounds)
    for _ in range(40):
        gate.add(-0.1)
    assert gate.verdict is Verdict.FAIL
    assert GateCheck(Gate("max-drop", 0.9), clean=clean, alpha=0.05, bounds=bounds).verdict is Verdict.PASS
    assert GateCheck(Gate("min-accuracy", 1.0), clean=clean, alpha=0.05, bounds=bounds).add(0.99) is not Verdict.FAIL
    result = run_demo(plan=replace(PART, gates=(Gate("max-drop", 0.9),), until_half_width=0.5))
    assert result.verdict is not None


def test_a_mean_keeps_to_0_to_1() -> None:
    result = run_demo(plan=PART)
    arm: ArmResult = replace(result.arms[0], records=result.arms[0].records[:1] * 3)
    record = arm.records[0]
    assert record.outcome.sample is not None
    low = replace(record, outcome=replace(record.outcome, correct1=0, sample=replace(record.outcome.sample, right=3)))
    arm = replace(arm, records=(low,) * 3, measure=replace(arm.measure, bounds=(-1.0, 2.0)))
    found = arm.headline()
    assert found is not None
    assert (found.mean, found.low) == (0.0, 0.0)


def test_what_needs_all_inputs_is_refused() -> None:
    with pytest.raises(UsageError, match="there are 30 inputs"):
        run_demo(plan=replace(PART, inputs_per_trial=30))
    with pytest.raises(UsageError, match="at least 1 input"):
        replace(PART, inputs_per_trial=0)
    with pytest.raises(UsageError, match="the parts of a campaign would not agree"):
        run_demo(plan=replace(PART, inputs_per_trial="auto"), shard=Shard(0, 2))
    with pytest.raises(UsageError, match="--target"):
        replace(PART, arms=cross(["fp16"], [parse_law("bitflip:1e-3")]), target="activations")
    scored = Subject.of(torch.nn.Linear(2, 2), score=lambda model: 1.0)
    with pytest.raises(UsageError, match="judged by all data together"):
        run_campaign(Plan(cross(["native"], [parse_law("flips:1")]), 2, inputs_per_trial=5), scored)


def test_answers_that_depend_on_the_company_are_refused() -> None:
    class Crowd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.layer(x - x.mean(0))
            return answer

    torch.manual_seed(0)
    subject = Subject.of(Crowd(), (torch.randn(60, 3), torch.arange(60) % 4))
    with pytest.raises(WorkloadError, match="depends on which others"):
        run_campaign(Plan(cross(["native"], [parse_law("flips:1")]), 2, inputs_per_trial=5), subject)


def test_batches_of_a_part_are_all_of_one_size() -> None:
    workload = demo_workload(30)
    workload.batch_size = 4
    seen = []
    with torch.no_grad():
        handle = workload.model.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
        subsets = Subsets.of(workload, 0, SIZE)  # two batches of 4, and 30 in eight of them
        handle.remove()
    assert set(seen) == {4}
    assert subsets.logits.shape == (30, 10)
    assert subsets.outcome.n == 30
