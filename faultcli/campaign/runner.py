"""Run a campaign: memory by memory, arm by arm; what the store has is not run again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee

from faultcli.campaign.bench import Bench, FaultFree, Trial, fault_free
from faultcli.campaign.executors.base import Executor, Serial
from faultcli.campaign.gates import FaultFreeAccuracy, gate_values
from faultcli.campaign.plan import Plan
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import CampaignResult, Failure, Record
from faultcli.campaign.result import result_of
from faultcli.campaign.shard import WHOLE, Shard
from faultcli.campaign.store import Memory, Store
from faultcli.campaign.subject import Subject
from faultcli.campaign.watch import Watch
from faultcli.faults.law import FaultLaw

Listener = Callable[[Record | Failure, Watch], None]  # what a trial gave, and all of its arm's so far


def run_campaign(
    plan: Plan,
    subject: Subject,
    *,
    executor: Executor | None = None,
    store: Store | None = None,
    shard: Shard = WHOLE,
    budget_seconds: float | None = None,
    provenance: Provenance | None = None,
    on_record: Listener = lambda result, watch: None,
) -> CampaignResult:
    """Run the trials of a plan that the store does not have yet.

    Args:
        plan: what to run.
        subject: the model, its data and what is at risk; in the same state, bit for bit, when this returns or raises.
        executor: who runs the trials; None: this process. It is left open.
        store: where trials are kept; None: nowhere.
        shard: which trials; a part of a campaign never stops early.
        budget_seconds: no trial starts later than this; what is left is shared out evenly among the arms to come, and
            an arm gets as many trials as fit if every one takes as long as a run without faults.
        provenance: for reports.
        on_record: called with every trial once it is kept, those of the store too, and its arm so far.

    Raises:
        FormatError: a tensor cannot be stored in a format of the plan.
        FaultError: a law does not fit the memory.
        StoreError: the store holds another campaign.
        UsageError: a gate asks for what this kind of model does not have.
        WorkloadError: the model fails, or workers are lost again and again.
    """
    start = time.perf_counter()
    store = store or Store.open(None)
    executor = executor or Serial()
    if shard.count > 1:
        plan = replace(plan, gates=(), until_half_width=None)
    identity, workload = subject.identity(plan), subject.workload
    original = fault_free(workload)
    for gate in plan.gates:
        gate.check_measured(gate_values(original.outcome), workload.architecture.name)
    plan.check_measure(original.outcome)
    store.join(identity, plan, inputs=len(workload), original=original.outcome, provenance=provenance)
    waiting = len(plan.arms)
    try:
        for memory in dict.fromkeys(arm.memory for arm in plan.arms):
            arms = {number: arm for number, arm in enumerate(plan.arms) if arm.memory == memory}
            bench: Bench | None = None
            for number, arm in arms.items():
                key = identity.arms[number]
                known = store.records(key, number)
                about = store.memory(key)
                if about is None or not _complete(plan, number, about, known, shard, original):
                    if bench is None:
                        bench = Bench.set_up(subject, arms, original, seed=plan.seed)
                    about = Memory(bench.image.bits, bench.overhead_bits_per_weight(number), bench.stored.outcome)
                    store.keep_memory(key, about)
                clock = time.perf_counter()
                budget = Budget()
                if budget_seconds is not None:
                    each = (original if bench is None else bench.stored).seconds
                    budget = Budget.of((budget_seconds - (clock - start)) / waiting, each, clock)
                waiting -= 1
                watch = _watch(plan, number, original, about)
                watch.known = sum(trial in known for trial in shard.trials(plan.trials))
                run = partial(_run, executor, bench, number, arm.fault)
                with closing(_in_order(budget.trials(shard.trials(plan.trials), known), known, run)) as found:
                    for result in found:
                        if isinstance(result, Failure) or result.trial not in known:
                            store.add(key, result)
                        else:
                            watch.kept += 1
                        enough = isinstance(result, Record) and watch.enough(result)
                        on_record(result, watch)
                        if enough:
                            break
    finally:
        workload.load(subject.tensors)
    return replace(result_of(store, plan, identity), seconds=time.perf_counter() - start)


def _watch(plan: Plan, number: int, original: FaultFree, about: Memory) -> Watch:
    clean = FaultFreeAccuracy.of(original.outcome, about.stored)
    return Watch(plan, number, clean, plan.measure(original.outcome))


def _complete(
    plan: Plan, number: int, about: Memory, known: Mapping[int, Record], shard: Shard, original: FaultFree
) -> bool:
    """Return whether an arm needs no trial beyond those that are known."""
    watch = _watch(plan, number, original, about)
    for trial in shard.trials(plan.trials):
        if trial not in known:
            return False
        if watch.enough(known[trial]):
            return True
    return True


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
    def of(cls, seconds: float, seconds_per_trial: float, now: float) -> Budget:
        """Return the budget of so many seconds from now."""
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


def _run(
    executor: Executor, bench: Bench | None, arm: int, law: FaultLaw, trials: Iterable[int]
) -> Iterator[Record | Failure]:
    assert bench is not None
    return executor.run(bench, (Trial(arm, trial, law) for trial in trials))


def _in_order(
    trials: Iterator[int],
    known: Mapping[int, Record],
    run: Callable[[Iterator[int]], Iterator[Record | Failure]],
) -> Generator[Record | Failure, None, None]:
    """Yield what became of every trial, from what is known or else from running it; run none that is known."""
    asked, ahead = tee(trials)
    fresh: Iterator[Record | Failure] | None = None
    try:
        for trial in asked:
            if trial in known:
                yield known[trial]
                continue
            if fresh is None:
                fresh = run(one for one in ahead if one not in known)
            yield next(fresh)
    finally:
        if isinstance(fresh, Generator):
            fresh.close()
