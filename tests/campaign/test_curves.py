"""Curves as campaigns: the same numbers whoever runs the trials, in how many goes, and the same as direct campaigns."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from faultcli.campaign.curves import QUANTITIES, CurveResult, curves_of, run_curves
from faultcli.campaign.executors.pool import Pool
from faultcli.campaign.executors.processes import Processes
from faultcli.campaign.plan import Plan, Question, cross
from faultcli.campaign.result import result_of
from faultcli.campaign.runner import run_campaign
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.checkpoint import Checkpoint
from faultcli.errors import UsageError
from faultcli.faults.laws import AnyFlips, BitFlip
from faultcli.faults.memories import parse_range
from faultcli.faults.selection import select
from faultcli.protect.chain import parse_chain
from faultcli.report.curve import curve_document, curve_lines, curve_tables
from faultcli.workload.building import WorkloadSpec, build_workload
from faultcli.workload.classifier import Workload
from faultcli.workload.demo import demo_checkpoint_path

RATES = "1e-6:1e-2"


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[Workload, dict[str, Tensor], str]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the worker processes
    checkpoint = Checkpoint.open(demo_checkpoint_path())
    workload = build_workload(checkpoint.state(), checkpoint.metadata, WorkloadSpec(limit=60))
    yield workload, {n: checkpoint.read(n) for n in select(checkpoint.tensors.values())}, checkpoint.sha256()
    torch.set_num_threads(threads)


def plan(trials: int = 96, *, hold: float | None = None, formats: str = "q2.5", **more: Any) -> Plan:
    return Plan(cross(formats.split(","), [AnyFlips()]), trials, question=Question(parse_range(RATES), hold), **more)


def run(demo: tuple[Workload, dict[str, Tensor], str], asked: Plan, **how: Any) -> CurveResult:
    workload, tensors, sha256 = demo
    return run_curves(asked, Subject(workload, tensors, sha256), **how)


def said(result: CurveResult) -> list[object]:
    """Everything that a curve says at some rates, to the last bit."""
    return [result.plan_hash, result.inputs, result.original] + [
        (arm.arm, arm.memory, arm.max_ber, arm.curve.trials, [arm.curve.estimate(ber, name) for name in QUANTITIES])
        for arm in result.arms
        for ber in (1e-6, 2e-4, 1e-2)
    ]


def test_whoever_runs_the_trials(demo: Any) -> None:
    asked = plan(64, formats="q2.5,fp16")
    with closing(Pool(Processes(2))) as pool:
        assert said(run(demo, asked, executor=pool)) == said(run(demo, asked))


def test_in_how_many_goes_a_curve_is_measured(demo: Any, tmp_path: Path) -> None:
    asked = plan(64, formats="q2.5,fp16")
    undisturbed = run(demo, asked)
    path = tmp_path / "run.sqlite"
    for after in (0, 40, 70):
        seen = 0

        def interrupt(*_: object, after: int = after) -> None:
            nonlocal seen
            seen += 1
            if seen > after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(demo, asked, store=Store.open(path), on_record=interrupt)
    unfinished = curves_of(Store.read(path))
    assert 0 < sum(arm.curve.trials for arm in unfinished.arms) < 128
    assert said(run(demo, asked, store=Store.open(path))) == said(undisturbed)
    assert said(curves_of(Store.read(path))) == said(undisturbed)


def test_a_store_serves_longer_curves_and_other_questions(demo: Any) -> None:
    store = Store.open(None)
    run(demo, plan(96), store=store)
    before = store.trials
    longer = run(demo, plan(128), store=store)
    assert store.trials == before + 32
    assert said(longer) == said(run(demo, plan(128)))
    found = run(demo, plan(96, hold=0.8), store=store)
    assert said(found) == said(run(demo, plan(96, hold=0.8)))


def test_a_curve_agrees_with_direct_campaigns(demo: Any) -> None:
    workload, tensors, sha256 = demo
    (arm,) = run(demo, plan(256)).arms
    bers = [1e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    laws = [BitFlip(ber) for ber in bers]
    direct = run_campaign(Plan(cross(["q2.5"], laws), 40, seed=1), Subject(workload, tensors, sha256))
    scores = []
    for ber, other in zip(bers, direct.arms, strict=True):
        for quantity, mean in (("accuracy", other.accuracy()), ("sdc", None)):
            rates = [r.outcome.top1 if mean else (r.outcome.sdc or 0) / r.outcome.n for r in other.records]
            known = sum(rates) / len(rates)
            spread = math.sqrt(sum((rate - known) ** 2 for rate in rates) / (len(rates) - 1))
            point = arm.curve.estimate(ber, quantity)
            assert point is not None
            error = math.hypot(spread / math.sqrt(len(rates)), (point.half_width or 0) / 1.96)
            scores.append((point.mean - known) / error)
    assert max(map(abs, scores)) < 3.3
    assert math.sqrt(sum(score**2 for score in scores) / len(scores)) < 1.6


def test_it_stops_when_it_is_narrow_enough(demo: Any) -> None:
    (arm,) = run(demo, plan(2000, until_half_width=0.1)).arms
    assert arm.curve.half_width() <= 0.1
    assert arm.curve.trials < 600
    (some,) = run(demo, plan(2000, until_half_width=0.1, hold=0.8)).arms
    assert some.max_ber is not None
    assert some.max_ber.low < some.max_ber.ber_per_bit < some.max_ber.high
    rates = (some.max_ber.low, some.max_ber.high)
    assert some.curve.half_width(rates=rates) <= 0.1
    assert some.curve.trials < arm.curve.trials


def test_no_round_starts_after_the_budget(demo: Any) -> None:
    (arm,) = run(demo, plan(), budget_seconds=1e-9).arms
    assert arm.curve.trials == 32
    assert curve_lines(run(demo, plan(), budget_seconds=1e-9))[0].endswith("± 100.0 points or better at every rate")


def test_the_document_and_the_table(demo: Any) -> None:
    result = run(demo, replace(plan(96), question=Question(parse_range("sram:years=1e3:1e6"))))
    content = curve_document(result)
    assert content["schema"] == "faultcli.curve/1"
    (arm,) = content["arms"]
    points = arm["points"]
    assert len(points) == 31
    assert [points[0]["years"], points[-1]["years"]] == pytest.approx([1e3, 1e6])
    assert points[0]["ber"] == pytest.approx(1e3 * 1.00322e-8, rel=1e-3)
    assert all(one["ber"] < other["ber"] for one, other in pairwise(points))
    for point in points:
        for quantity in ("accuracy", "sdc", "due"):
            at = point[quantity]
            assert 0 <= at["band_low"] <= at["low"] <= at["mean"] <= at["high"] <= at["band_high"] <= 1
    assert arm["max_ber"] is None
    assert content["memories"][0]["memory"] == "sram:years=1e3:1e6"
    (table,) = curve_tables(result)
    assert [str(column.header) for column in table.columns][:3] == ["BER", "years", "flips"]
    assert table.row_count == 11


def test_arms_that_no_curve_can_be_drawn_for(demo: Any) -> None:
    for arms, message in (
        (cross(["q2.5"], [BitFlip(1e-4)]), "chooses its own numbers of flips"),
        (cross(["q2.5"], [AnyFlips()], [parse_chain("posterior")]), "depends on the bit-error rate"),
        (cross(["q2.5"], [AnyFlips()], [parse_chain("scale=auto")]), "depends on the bit-error rate"),
    ):
        with pytest.raises(UsageError, match=message):
            run(demo, replace(plan(), arms=arms))


def test_curves_and_direct_campaigns_share_a_store(demo: Any) -> None:
    workload, tensors, sha256 = demo
    store = Store.open(None)
    run_campaign(Plan(cross(["q2.5"], [BitFlip(1e-4)]), 2), Subject(workload, tensors, sha256), store=store)
    with pytest.raises(UsageError, match="holds no curves"):
        curves_of(store)
    curves = run(demo, plan(32), store=store)
    assert said(curves_of(store))[1:] == said(curves)[1:]  # but for the hash, which is that of both
    (direct,) = result_of(store).arms
    assert [record.trial for record in direct.records] == [0, 1]
