"""One campaign, every bit-error rate: accuracy, SDC and DUE as curves, from trials at chosen numbers of flips.

A curve grows in rounds: `FlipCurve` says how many flips the next trials should have, any executor runs them, and all of
them go back before the next round. The size of a round is fixed, so the same trials are asked for whoever runs them. A
trial is known by its number of flips and by how often that number came before, and by nothing else: a store serves a
longer curve, another range of rates or another question about the same arms.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Unpack

from faultcli.campaign.bench import Trial
from faultcli.campaign.flip_curve import FlipCurve, MaxBer
from faultcli.campaign.plan import Arm, Identity, Plan, Question
from faultcli.campaign.provenance import Provenance
from faultcli.campaign.records import Failure, Record, trials_using_labels
from faultcli.campaign.result import no_trials
from faultcli.campaign.store import ArmMemory, Store
from faultcli.campaign.store_checks import MOST_REPEATS
from faultcli.campaign.subject import Subject
from faultcli.campaign.trials import ArmTrials, RunWith, opened
from faultcli.errors import UsageError
from faultcli.faults.laws import AnyFlips, Flips
from faultcli.workload.metrics import Outcome

CURVE_SCHEMA = "faultcli.curve/1"
QUANTITIES = ("accuracy", "sdc", "due")
ROUND = 32  # trials between two looks


@dataclass(frozen=True)
class ArmCurve:
    """The curve of one arm. `curve` has all of its trials; `max_ber` is None without a question for it; `using_labels`
    is of all trials but the one without faults, see `trials_using_labels`."""

    arm: Arm
    memory: ArmMemory
    curve: FlipCurve
    failures: tuple[Failure, ...]
    max_ber: MaxBer | None
    using_labels: int | None = None


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
    on_record: Look = lambda result, curve, kept: None,
    **means: Unpack[RunWith],
) -> CurveResult:
    """Grow the curve of every arm until it is as narrow as the plan asks, or has as many trials as it allows.

    Args:
        plan: has a question, and arms that follow the law `flips:any`; `trials` is per arm, without the fault-free one.
        subject: the model, its data and what is at risk; in the same state, bit for bit, when this returns or raises.
        on_record: called with every trial once it is kept, those of the store too.
        means: see `RunWith`.

    Raises:
        UsageError: a protection needs a bit-error rate and names none; a memory of fewer bits than the curve needs.
        FormatError: a tensor cannot be stored in a format of the plan.
        StoreError: the store holds another campaign.
        WorkloadError: the model fails, or workers are lost again and again.
    """
    check_arms(plan, subject)
    with opened(plan, subject, **means) as run:
        found = {arm.number: _grow(plan, arm, run.share, on_record) for arm in run.arms()}
    return CurveResult(
        plan,
        run.identity.sha256,
        len(subject.workload),
        run.original.outcome,
        tuple(found[number] for number in range(len(plan.arms))),
        run.seconds,
        means.get("provenance"),
    )


def curves_of(store: Store) -> CurveResult:
    """Return the curves that the trials of a store make: those of its campaign, as far as it came.

    Raises:
        UsageError: the store holds no curves.
        StoreError: the store is damaged, or no curve has been begun.
    """
    plan, identity = store.plan(), Identity(store.base, tuple(store.arms))
    if plan.question is None:
        raise UsageError("the store holds no curves", "they are what faultcli curve LOW:HIGH --store FILE keeps")
    arms = []
    for number, key in enumerate(identity.arms):
        if not isinstance(plan.arms[number].fault, AnyFlips):
            continue  # of another campaign in the same store
        trials = ArmTrials(store, key, number)
        if store.memory(key) is not None and 0 in trials.known:
            arms.append(_grow(plan, trials, None, lambda result, curve, kept: None))
    if not arms:
        raise no_trials(store)
    seconds = sum(record.seconds for key in identity.arms for record in store.records(key, 0).values())
    return CurveResult(plan, identity.sha256, store.inputs, store.original, tuple(arms), seconds, store.provenance)


def check_arms(plan: Plan, subject: Subject) -> None:
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
        if arm.protect.needs_ber and subject.hardened is None:
            raise UsageError(
                f"{arm.protect.label}: depends on the bit-error rate, and a curve has all of them",
                "name the rate it is designed for: posterior=P; scale=max or a number instead of scale=auto",
            )


def _question(plan: Plan) -> Question:
    assert plan.question is not None
    return plan.question


def _aim(question: Question, curve: FlipCurve) -> tuple[float, float] | None:
    """Return the rates that the answer hangs on; None: all of them."""
    found = None if question.hold is None else curve.find_max_ber(question.hold)
    return None if found is None else (found.low or curve.range[0], found.high or curve.range[1])


def _grow(plan: Plan, arm: ArmTrials, seconds: float | None, on_record: Look) -> ArmCurve:
    start, question = time.perf_counter(), _question(plan)
    memory = arm.memory()
    (healthy,) = arm.run([Trial(arm.number, 0, Flips(0))])
    assert isinstance(healthy, Record)  # without a fault-free run there is nothing to compare with
    curve = FlipCurve(
        memory.bits,
        question.axis.low,
        question.axis.high,
        fault_free=_values(healthy),
        seed=plan.seed,
        confidence=plan.confidence,
    )
    failures: list[Failure] = []
    labels_used: list[bool | None] = []
    asked: Counter[int] = Counter()
    while asked.total() < plan.trials:
        aim = _aim(question, curve)
        if plan.until_half_width is not None and curve.half_width(rates=aim) <= plan.until_half_width:
            break
        if asked and seconds is not None and time.perf_counter() - start >= seconds:
            break
        flips = curve.next_flips(min(ROUND, plan.trials - asked.total()), rates=aim)
        trials = _round(arm.number, flips, asked)
        with closing(arm.run(trials)) as results:
            done = []
            for result in results:
                on_record(result, curve, result.trial in arm.known)
                done.append(result)
        for result in done:
            if isinstance(result, Failure):
                failures.append(result)
            else:
                curve.add(result.flips, _values(result))
                labels_used.append(result.outcome.labels_used)
        if len(done) < len(flips):  # the store has no more, and nobody is there to run them
            break
    highest = None if question.hold is None else curve.find_max_ber(question.hold)
    return ArmCurve(plan.arms[arm.number], memory, curve, tuple(failures), highest, trials_using_labels(labels_used))


def _round(number: int, flips: list[int], asked: Counter[int]) -> list[Trial]:
    """Return a trial for every number of flips, and count them among those that were asked for."""
    trials = []
    for count in flips:
        trials.append(Trial(number, count * MOST_REPEATS + asked[count], Flips(count)))
        asked[count] += 1
    return trials


def _values(record: Record) -> dict[str, float]:
    outcome = record.outcome
    return {
        "accuracy": outcome.top1,
        "sdc": (outcome.sdc or 0) / outcome.n,
        "due": (outcome.due or 0) / outcome.n,
    }
