"""One campaign, every bit-error rate: accuracy, SDC and DUE as curves, from trials at chosen numbers of flips.

A curve grows in rounds: `FlipCurve` says how many flips the next trials should have, any executor runs them, and all of
them go back before the next round. The size of a round is fixed, so the same trials are asked for whoever runs them. A
trial is known by its number of flips and by how often that number came before, and by nothing else: a store serves a
longer curve, another range of rates or another question about the same arms.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from faultcli.campaign.bench import Bench, FaultFree, Trial, fault_free
from faultcli.campaign.cells import MOST_REPEATS
from faultcli.campaign.executors.base import Executor, Serial
from faultcli.campaign.plan import Arm, Identity, Plan, Question
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import Failure, Record
from faultcli.campaign.result import no_trials
from faultcli.campaign.store import Memory, Store
from faultcli.campaign.strata import FlipCurve, MaxBer
from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.faults.laws import AnyFlips, Flips
from faultcli.workload.metrics import Outcome

CURVE_SCHEMA = "faultcli.curve/1"
QUANTITIES = ("accuracy", "sdc", "due")
ROUND = 32  # trials between two looks


@dataclass(frozen=True)
class ArmCurve:
    """The curve of one arm. `curve` has all of its trials; `max_ber` is None without a question for it."""

    arm: Arm
    memory: Memory
    curve: FlipCurve
    failures: tuple[Failure, ...]
    max_ber: MaxBer | None


@dataclass(frozen=True)
class CurveResult:
    """What came out for all arms."""

    plan: Plan
    plan_hash: str
    inputs: int
    original: Outcome  # the checkpoint as it is, without the memory
    arms: tuple[ArmCurve, ...]
    seconds: float
    provenance: Provenance | None = None

    @property
    def question(self) -> Question:
        """What was asked."""
        return _question(self.plan)


# what a trial gave, the curve before its round was taken in, and whether a store had the trial already
Look = Callable[[Record | Failure, FlipCurve, bool], None]


def run_curves(
    plan: Plan,
    subject: Subject,
    *,
    executor: Executor | None = None,
    store: Store | None = None,
    budget_seconds: float | None = None,
    provenance: Provenance | None = None,
    on_record: Look = lambda result, curve, kept: None,
) -> CurveResult:
    """Grow the curve of every arm until it is as narrow as the plan asks, or has as many trials as it allows.

    Args:
        plan: has a question, and arms that follow the law `flips:any`; `trials` is per arm, without the fault-free one.
        subject: the model, its data and what is at risk; in the same state, bit for bit, when this returns or raises.
        executor: who runs the trials; None: this process. It is left open.
        store: where trials are kept; None: nowhere.
        budget_seconds: no round starts later than this; what is left is shared out evenly among the arms to come.
        provenance: for reports.
        on_record: called with every trial once it is kept, those of the store too.

    Raises:
        UsageError: a protection needs a bit-error rate and names none; a memory of fewer bits than the curve needs.
        FormatError: a tensor cannot be stored in a format of the plan.
        StoreError: the store holds another campaign.
        WorkloadError: the model fails, or workers are lost again and again.
    """
    check_arms(plan)
    start = time.perf_counter()
    store = store or Store.open(None)
    executor = executor or Serial()
    identity, workload = subject.identity(plan), subject.workload
    original = fault_free(workload)
    plan.check_measure(original.outcome)
    store.join(identity, plan, inputs=len(workload), original=original.outcome, provenance=provenance)
    found: dict[int, ArmCurve] = {}
    try:
        for memory in dict.fromkeys(arm.memory for arm in plan.arms):
            arms = {number: arm for number, arm in enumerate(plan.arms) if arm.memory == memory}
            benches = _BenchOnDemand(subject, arms, original, plan.seed)
            for number in arms:
                left = None if budget_seconds is None else budget_seconds - (time.perf_counter() - start)
                seconds = None if left is None else left / (len(plan.arms) - len(found))
                trials = _ArmTrials(store, identity.arms[number], number, benches, executor)
                found[number] = _grow(plan, number, trials, seconds, on_record)
    finally:
        workload.load(subject.tensors)
    return CurveResult(
        plan,
        identity.sha256,
        len(workload),
        original.outcome,
        tuple(found[number] for number in range(len(plan.arms))),
        time.perf_counter() - start,
        provenance,
    )


def curves_of(store: Store) -> CurveResult:
    """Return the curves that the trials of a store make: those of its campaign, as far as it came.

    Raises:
        UsageError: the store holds no curves.
        StoreError: the store is damaged, or no curve has been begun.
    """
    plan, identity = store.plan(), Identity(store.base, tuple(store.arms))
    if plan.question is None:
        raise UsageError("the store holds no curves", "they are what campaign --curve --store FILE keeps")
    arms = []
    for number, key in enumerate(identity.arms):
        trials = _ArmTrials(store, key, number)
        if not isinstance(plan.arms[number].fault, AnyFlips):
            continue  # of another campaign in the same store
        if store.memory(key) is not None and trials.knows(0):
            arms.append(_grow(plan, number, trials, None, lambda result, curve, kept: None))
    if not arms:
        raise no_trials(store)
    seconds = sum(record.seconds for key in identity.arms for record in store.records(key, 0).values())
    return CurveResult(plan, identity.sha256, store.inputs, store.original, tuple(arms), seconds, store.provenance)


def check_arms(plan: Plan) -> None:
    """Refuse arms that no curve can be drawn for.

    Raises:
        UsageError: a law that names its own faults, or a protection that would need another memory for every rate.
    """
    if plan.gates:
        raise UsageError("a curve has no gates", "ask for the highest rate: --find-max-ber --min-accuracy A")
    for arm in plan.arms:
        if not isinstance(arm.fault, AnyFlips):
            raise UsageError(
                f"{arm.fault.spec}: a curve chooses its own numbers of flips", "leave --ber and --fault out"
            )
        if arm.protect.needs_ber:
            raise UsageError(
                f"{arm.protect.text}: depends on the bit-error rate, and a curve has all of them",
                "name the rate it is designed for: posterior=P; scale=max or a number instead of scale=auto",
            )


def _question(plan: Plan) -> Question:
    assert plan.question is not None
    return plan.question


def _aim(question: Question, curve: FlipCurve) -> tuple[float, float] | None:
    """Return the rates that the answer hangs on; None: all of them."""
    found = None if question.hold is None else curve.find_max_ber(question.hold)
    return None if found is None else (found.low or curve.range[0], found.high or curve.range[1])


def _grow(plan: Plan, number: int, trials: _ArmTrials, seconds: float | None, on_record: Look) -> ArmCurve:
    start, question = time.perf_counter(), _question(plan)
    (healthy,) = trials.run([0])
    assert isinstance(healthy, Record)  # without a fault-free run there is nothing to compare with
    memory = trials.memory()
    curve = FlipCurve(
        memory.bits,
        question.axis.low,
        question.axis.high,
        fault_free=_values(healthy),
        seed=plan.seed,
        confidence=plan.confidence,
    )
    failures: list[Failure] = []
    asked = 0
    while asked < plan.trials:
        aim = _aim(question, curve)
        if plan.until_half_width is not None and curve.half_width(rates=aim) <= plan.until_half_width:
            break
        if asked and seconds is not None and time.perf_counter() - start >= seconds:
            break
        flips = curve.next_flips(min(ROUND, plan.trials - asked), rates=aim)
        asked += len(flips)
        with closing(trials.run(flips)) as results:
            done = []
            for result in results:
                on_record(result, curve, trials.had(result))
                done.append(result)
        for result in done:
            if isinstance(result, Failure):
                failures.append(result)
            else:
                curve.add(result.flips, _values(result))
        if len(done) < len(flips):  # the store has no more, and nobody is there to run them
            break
    highest = None if question.hold is None else curve.find_max_ber(question.hold)
    return ArmCurve(plan.arms[number], memory, curve, tuple(failures), highest)


def _values(record: Record) -> dict[str, float]:
    outcome = record.outcome
    return {
        "accuracy": outcome.top1,
        "sdc": (outcome.sdc or 0) / outcome.n,
        "due": (outcome.due or 0) / outcome.n,
    }


@dataclass
class _BenchOnDemand:
    """The test bench of one memory, set up when a trial has to be run."""

    subject: Subject
    arms: Mapping[int, Arm]
    original: FaultFree
    seed: int
    _bench: Bench | None = None

    def get(self) -> Bench:
        if self._bench is None:
            self._bench = Bench.set_up(self.subject, self.arms, self.original, seed=self.seed)
        return self._bench


class _ArmTrials:
    """The trials of one arm, from the store or else from the executor, if there is one."""

    def __init__(
        self,
        store: Store,
        key: str,
        number: int,
        benches: _BenchOnDemand | None = None,
        executor: Executor | None = None,
    ) -> None:
        self._store, self._key, self._number = store, key, number
        self._benches, self._executor = benches, executor
        self._known = store.records(key, number)
        self._asked: Counter[int] = Counter()

    def knows(self, flips: int) -> bool:
        """Whether the store has a trial with so many flips."""
        return flips * MOST_REPEATS in self._known

    def had(self, result: Record | Failure) -> bool:
        """Whether the store had this trial before anything was run."""
        return result.trial in self._known

    def memory(self) -> Memory:
        """Return what the memory of the arm is like."""
        known = self._store.memory(self._key)
        if known is None:
            assert self._benches is not None
            bench = self._benches.get()
            known = Memory(bench.image.bits, bench.overhead_bits_per_weight(self._number), bench.stored.outcome)
            self._store.keep_memory(self._key, known)
        return known

    def run(self, flips: list[int]) -> Generator[Record | Failure, None, None]:
        """Yield a trial for every number of flips, in order; those that were run now are kept before they are told.
        Without an executor, it ends where the store does."""
        self.memory()
        trials = [self._next(count) for count in flips]
        missing = [trial for trial in trials if trial.number not in self._known]
        fresh: Iterator[Record | Failure] = iter(())
        if missing and self._executor is not None and self._benches is not None:
            fresh = self._executor.run(self._benches.get(), missing)
        try:
            for trial in trials:
                if trial.number in self._known:
                    yield self._known[trial.number]
                    continue
                result = next(fresh, None)
                if result is None:
                    return
                self._store.add(self._key, result)
                yield result
        finally:
            if isinstance(fresh, Generator):
                fresh.close()

    def _next(self, flips: int) -> Trial:
        repeat = self._asked[flips]
        self._asked[flips] += 1
        return Trial(self._number, flips * MOST_REPEATS + repeat, Flips(flips))
