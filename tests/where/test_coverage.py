"""Runs of `where` whose flips are looked up, held to runs that run them: `benchmarks.coverage`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coverage import LookedUp, every_flip, held, holds, report
from faultcli.campaign.plan import Plan, cross
from faultcli.campaign.records import Record
from faultcli.campaign.statistics import Interval
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.faults.one_bit import AnyBit
from faultcli.where.running import Aim, run_where

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = Plan(cross(["q1.2"], [AnyBit()]), 2000, include=("conv1.weight",))  # 144 weights of 4 bits
EVERY = Aim(None, 1e-6, 2000)
SOME = Aim(None, 0.1, 2000)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.open(limit=10, include=PLAN.include)


@pytest.fixture(scope="module")
def records(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Record]:
    path: Path = tmp_path_factory.mktemp("truth") / "every.db"
    with closing(Store.open(path)) as store:
        run_where(PLAN, subject, replace(EVERY, trials=100), store=store)
    with closing(Store.read(path)) as store, pytest.raises(UsageError, match=r"has 100 of 576 flips"):
        every_flip(store)
    with closing(Store.open(path)) as store:
        found = run_where(PLAN, subject, EVERY, store=store)
        assert found.reached
    with closing(Store.read(path)) as store:
        plan, records = every_flip(store)
    assert plan.selection == PLAN.selection
    assert sorted(records) == list(range(576))
    return records


def test_looking_up_is_running(subject: Subject, records: dict[int, Record]) -> None:
    plan = replace(PLAN, seed=3)
    run, looked_up = (
        run_where(plan, subject, replace(SOME, trials=200), **how) for how in ({}, {"executor": LookedUp(records)})
    )
    assert np.array_equal(run.allocation.counts, looked_up.allocation.counts)
    assert run.allocation.estimate() == looked_up.allocation.estimate()
    assert run.means == looked_up.means


def test_intervals_of_every_run_are_held_to_all_flips(subject: Subject, records: dict[int, Record]) -> None:
    found = held(subject, PLAN, records, SOME, range(1, 7))
    changed = [((one.outcome.sdc or 0) + one.outcome.due) / 10 for _, one in sorted(records.items())]
    by_bit = np.array(changed).reshape(144, 4).mean(axis=0)
    assert found.mean == pytest.approx(np.mean(changed))
    assert {bit: value for (_, _, bit), (value, _) in found.strata.items()} == pytest.approx(dict(enumerate(by_bit)))
    assert all(6 * 4 <= flips < 576 for flips in found.flips)
    assert found.whole >= 4
    assert sum(times for _, times in found.strata.values()) >= 0.9 * 6 * 4
    for (_, _, bit), counted in found.strata.items():  # one layer: of a bit position there is one stratum
        assert found.bits[bit] == pytest.approx(counted)
    assert f"all bits: {100 * found.mean:.3f} %; 6 runs" in next(report(found))


def test_an_interval_holds_its_ends() -> None:
    assert holds(Interval(0.1, 0.1, 0.3), 0.3)
    assert not holds(Interval(0.1, 0.1, 0.3), 0.30001)
