"""Run a campaign: every arm until its trials are enough, or its time is over."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Unpack

from faultcli.campaign.bench import Trial
from faultcli.campaign.gates import FaultFreeAccuracy
from faultcli.campaign.plan import Plan
from faultcli.campaign.records import CampaignResult, Failure, Record
from faultcli.campaign.result import result_of
from faultcli.campaign.shard import WHOLE, Shard
from faultcli.campaign.subject import Subject
from faultcli.campaign.trials import ArmTrials, Run, RunWith, opened
from faultcli.campaign.watch import Watch
from faultcli.errors import UsageError

Listener = Callable[[Record | Failure, Watch], None]  # what a trial gave, and all of its arm's so far


def run_campaign(
    plan: Plan,
    subject: Subject,
    *,
    shard: Shard = WHOLE,
    on_record: Listener = lambda result, watch: None,
    **means: Unpack[RunWith],
) -> CampaignResult:
    """Run the trials of a plan that the store does not have yet.

    Args:
        plan: what to run.
        subject: the model, its data and what is at risk; in the same state, bit for bit, when this returns or raises.
        shard: which trials; a part of a campaign never stops early.
        on_record: called with every trial once it is kept, those of the store too, and its arm so far.
        means: see `RunWith`; within its share of the time an arm gets as many trials as fit if every one takes as long
            as a run without faults.

    Raises:
        FormatError: a tensor cannot be stored in a format of the plan.
        FaultError: a law does not fit the memory.
        StoreError: the store holds another campaign.
        UsageError: a gate asks for what this kind of model does not have.
        WorkloadError: the model fails, or workers are lost again and again.
    """
    if shard.count > 1:
        if plan.inputs_per_trial == "auto":
            problem = "--inputs-per-trial auto: measures, and the parts of a campaign would not agree"
            raise UsageError(problem, "name what one run chose: --inputs-per-trial 16")
        plan = replace(plan, gates=(), until_half_width=None)
    with opened(plan, subject, **means) as run:
        for arm in run.arms():
            _run(run, arm, shard.trials(plan.trials), on_record)
    return replace(result_of(run.store, run.plan, run.identity), seconds=run.seconds)


def _run(run: Run, arm: ArmTrials, numbers: range, on_record: Listener) -> None:
    """Run the trials of an arm until they are enough, or the time is over."""
    original, law = run.original.outcome, run.plan.arms[arm.number].fault
    stored = arm.memory().stored
    clean = FaultFreeAccuracy.of(original, stored)
    watch = Watch(run.plan, arm.number, clean, run.plan.measure_in(original, stored))
    watch.known = sum(number in arm.known for number in numbers)
    trials = (Trial(arm.number, number, law) for number in _in_time(run, arm, numbers))
    with closing(arm.run(trials)) as found:
        for result in found:
            watch.kept += result.trial in arm.known
            enough = isinstance(result, Record) and watch.enough(result)
            on_record(result, watch)
            if enough:
                break


def _in_time(run: Run, arm: ArmTrials, numbers: range) -> Iterator[int]:
    """Yield those of the numbers that there is time for."""
    first = next((place for place, number in enumerate(numbers) if number not in arm.known), len(numbers))
    yield from numbers[:first]
    if first < len(numbers):
        seconds_per_trial = arm.bench().stored.seconds  # before the clock is read: setting up is no trial's time
        budget = Budget.of(run.share, seconds_per_trial, time.perf_counter())
        yield from budget.trials(numbers[first:], arm.known)


@dataclass(frozen=True)
class Budget:
    """Time for the trials of one arm.

    How many there may be is settled before the first one runs, from what a run without faults takes. A trial that
    changes nothing costs nothing; if the clock alone decided, the last trial would nearly always be a harmful one, and
    the mean of few trials too low. The clock still ends what takes longer than was thought.
    """

    most: float = math.inf  # trials that are not known yet
    until: float = math.inf  # a reading of `time.perf_counter`

    @classmethod
    def of(cls, seconds: float | None, seconds_per_trial: float, now: float) -> Budget:
        """Return the budget of so many seconds from now; None: no limit."""
        if seconds is None:
            return cls()
        return cls(max(1.0, seconds // max(seconds_per_trial, 1e-9)), now + seconds)

    def trials(self, trials: Iterable[int], known: Container[int]) -> Iterator[int]:
        """Yield those of the trials that there is time for, at least one; known ones take none."""
        fresh = 0
        for trial in trials:
            if trial not in known:
                if fresh and (fresh >= self.most or time.perf_counter() >= self.until):
                    return
                fresh += 1
            yield trial
