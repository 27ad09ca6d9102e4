"""What campaigns and curves share: a plan is opened on a subject, and its arms give their trials. What the store has is
not run again; what is run is kept before it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import tee
from typing import TypedDict, Unpack

from faultcli.campaign.activations import calibrating
from faultcli.campaign.bench import Bench, FaultFree, Trial, fault_free
from faultcli.campaign.executors.base import Executor, Serial
from faultcli.campaign.gates import gate_values
from faultcli.campaign.pilot import Draws, Pilot, evenly, pilot
from faultcli.campaign.plan import Identity, Plan
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import Failure, Record
from faultcli.campaign.store import ArmMemory, Store
from faultcli.campaign.subject import Subject
from faultcli.campaign.subsets import check_subsets
from faultcli.errors import WorkloadError
from faultcli.workload.metrics import Outcome


class ArmTrials:
    """The trials of one arm: from the store, or else from the executor, if there is one.

    Args:
        store: where trials are kept.
        key: identity of the arm.
        number: its position in the plan.
        bench: gives the test bench of its memory, and sets it up only if it is asked for.
        executor: runs trials.

    Attributes:
        known: what the store had before anything was run.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        number: int,
        bench: Callable[[], Bench] | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.number = number
        self.known = store.records(key, number)
        self._store, self._key = store, key
        self._bench, self._executor = bench, executor

    def bench(self) -> Bench:
        """Return the test bench of the arm's memory."""
        assert self._bench is not None
        return self._bench()

    def memory(self) -> ArmMemory:
        """Return what the memory of the arm is like; kept before the first trial is."""
        known = self._store.memory(self._key)
        if known is None:
            bench = self.bench()
            known = ArmMemory(bench.bits, bench.overhead_bits_per_weight(self.number), bench.stored.outcome)
            self._store.keep_memory(self._key, known)
        return known

    def run(self, trials: Iterable[Trial]) -> Generator[Record | Failure, None, None]:
        """Yield what became of every trial, in order; `trials` is consumed a little ahead. Without an executor, it ends
        where the store does."""
        asked, ahead = tee(trials)
        fresh: Iterator[Record | Failure] | None = None
        try:
            for trial in asked:
                if trial.number in self.known:
                    yield self.known[trial.number]
                    continue
                if self._executor is None:
                    return
                if fresh is None:
                    fresh = self._executor.run(self.bench(), (one for one in ahead if one.number not in self.known))
                result = next(fresh)
                self._store.add(self._key, result)
                yield result
        finally:
            if isinstance(fresh, Generator):
                fresh.close()


@dataclass
class Run:
    """A plan that is being run on a subject."""

    plan: Plan
    subject: Subject
    identity: Identity
    original: FaultFree  # the checkpoint as it is, without the memory
    store: Store
    executor: Executor
    budget_seconds: float | None
    _start: float
    _waiting: int  # arms that are not through, the one at hand included

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.perf_counter() - self._start

    @property
    def share(self) -> float | None:
        """What is left of the time, shared out evenly among the arms to come, the one at hand included; None: no limit.

        What an arm does with it is its own: a campaign settles the number of trials before the first of them
        (`runner.Budget`); a curve, whose rounds have a fixed size, looks at the clock between two of them.
        """
        return None if self.budget_seconds is None else (self.budget_seconds - self.seconds) / self._waiting

    def arms(self) -> Iterator[ArmTrials]:
        """Yield the arms, memory by memory: there is one test bench at a time, and none if no trial has to be run."""
        for memory in dict.fromkeys(arm.memory for arm in self.plan.arms):
            arms = {number: arm for number, arm in enumerate(self.plan.arms) if arm.memory == memory}
            size = self.plan.inputs_per_trial
            assert size != "auto"
            about = self.subject, arms, self.original
            bench = cache(partial(Bench.set_up, *about, seed=self.plan.seed, inputs_per_trial=size))
            for number in arms:
                yield ArmTrials(self.store, self.identity.arms[number], number, bench, self.executor)
                self._waiting -= 1


class RunWith(TypedDict, total=False):
    """What a plan is run with, beyond its subject.

    `executor`: who runs the trials; this process if nobody is named. It is left open. `store`: where trials are kept;
    nowhere if none is named. `budget_seconds`: no trial, and no round of a curve, starts later than this; what is left
    is shared out evenly among the arms to come. `provenance`: for reports. `on_original`: called with the run without
    faults of the checkpoint as it is, before any trial. `on_inputs`: called with how many inputs a trial runs, where
    the plan leaves that open (None: all), and with the pilot that said so, if there was one.
    """

    executor: Executor
    store: Store
    budget_seconds: float | None
    provenance: Provenance | None
    on_original: Callable[[Outcome], None]
    on_inputs: Callable[[int | None, Pilot | None], None]


def check_plan(plan: Plan, subject: Subject) -> None:
    """Refuse what a subject is not made for, before the model runs or a store is made.

    Raises:
        UsageError: protections name tensors that are not there, or trials cannot run a part of the inputs.
    """
    for arm in plan.arms if subject.hardened is None else ():
        arm.protect.check_names(subject.tensors)  # now, and not when the turn of its arm comes
    if plan.inputs_per_trial is not None:
        unit = subject.workload.architecture.batch or 1
        check_subsets(subject.workload, unit if plan.inputs_per_trial == "auto" else plan.inputs_per_trial)


@contextmanager
def opened(plan: Plan, subject: Subject, *, draws: Draws = evenly, **means: Unpack[RunWith]) -> Iterator[Run]:
    """Open a plan on a subject for the length of a `with` block; afterwards the model is as before, bit for bit.

    Args:
        plan: what to run.
        subject: what it is run on.
        draws: the trials of a pilot, where the plan leaves open how many inputs a trial runs.
        means: see `RunWith`.

    Raises:
        StoreError: the store holds another campaign.
        UsageError: a gate asks for what this kind of model does not have.
        WorkloadError: the model fails, or a gate asks for less than what its answers vary by themselves.
    """
    start = time.perf_counter()
    executor, store = means.get("executor") or Serial(), means.get("store") or Store.open(None)
    check_plan(plan, subject)
    subject = calibrating(subject, plan)
    workload = subject.workload
    original = fault_free(workload, listen=True)
    if (look := means.get("on_original")) is not None:
        look(original.outcome)
    for gate in plan.gates:
        gate.check_measured(gate_values(original.outcome), workload.architecture.name)
        if workload.noise and gate.name == "max-sdc" and gate.threshold < workload.noise:
            raise WorkloadError(
                f"{workload.architecture.name}: {workload.noise:.2%} of its answers change from run to run without any"
                f" fault, so {gate.text} cannot be told from that",
                "let the model answer alike every time (model.eval(), no noise of its own), or leave the gate out",
            )
    plan.check_measure(original.outcome)
    if plan.inputs_per_trial == "auto":
        size, found = _inputs_per_trial(plan, subject, original, store, draws)
        plan = replace(plan, inputs_per_trial=size)
        if (told := means.get("on_inputs")) is not None:
            told(size, found)
    identity = subject.identity(plan)
    store.join(identity, plan, inputs=len(workload), original=original.outcome, provenance=means.get("provenance"))
    try:
        budget = means.get("budget_seconds")
        yield Run(plan, subject, identity, original, store, executor, budget, start, len(plan.arms))
    finally:
        workload.load(subject.tensors)


def _inputs_per_trial(
    plan: Plan, subject: Subject, original: FaultFree, store: Store, draws: Draws
) -> tuple[int | None, Pilot | None]:
    """Return how many inputs a trial runs: as many as in the store, if it has a campaign; else what a pilot says."""
    if store.begun:
        return store.inputs_per_trial, None
    found = pilot(plan, subject, original, draws)
    return (None, None) if found is None else (found.best(subject.workload.architecture.batch or 1), found)
