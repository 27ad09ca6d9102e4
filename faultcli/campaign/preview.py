"""What a campaign would do, without a trial: bits at risk, expected flips, trials that an interval takes, time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from faultcli.activations.stored import ActivationMemory
from faultcli.campaign.activations import activation_memory, calibrating
from faultcli.campaign.bench import fault_free
from faultcli.campaign.curves import check_arms
from faultcli.campaign.plan import Arm, Plan
from faultcli.campaign.statistics import sample_size, trials_needed
from faultcli.campaign.store import Store
from faultcli.campaign.subject import Subject
from faultcli.campaign.subsets import check_subsets
from faultcli.errors import UsageError
from faultcli.faults.laws import Flips
from faultcli.memory import MemoryImage

HALF_WIDTH = 0.01  # of the interval, where the plan asks for none
WORST = 0.5  # the largest deviation that accuracies can have: every map does nothing or everything
USUAL = 0.1  # a guess where there are no trials to go by
_LEAST_TRIALS = 5  # to go by


@dataclass(frozen=True)
class ArmPreview:
    """One arm before its first trial.

    `flips`: expected per trial; None where it depends on what is stored; for a curve, at both ends of its range.
    `needed_worst`, `needed_likely`: trials for the half-width, None where a billion are not enough or a curve decides
    for itself; the second goes by `deviation`, that of the `known` trials of the store if it has enough. `seconds`: for
    all trials of the arm in one process, without recalibration and correction.
    """

    arm: Arm
    bits: int
    overhead_bits_per_weight: float
    flips: tuple[float, ...] | None
    trials: int
    needed_worst: int | None
    needed_likely: int | None
    deviation: float
    known: int
    seconds: float


@dataclass(frozen=True)
class Preview:
    """A campaign before its first trial."""

    plan: Plan
    plan_hash: str
    inputs: int
    half_width: float
    seconds_per_trial: float  # one run of the model over a trial's inputs, measured
    arms: tuple[ArmPreview, ...]


def preview(
    plan: Plan,
    subject: Subject,
    store: Store | None = None,
) -> Preview:
    """Look at a campaign without running a trial. The model runs twice without faults, and only the second time counts.

    Args:
        plan, subject: as `run_campaign`.
        store: trials to go by.

    Raises:
        UsageError, FormatError: as `run_campaign`, and `run_curves` for a plan with a question.
    """
    if plan.question is not None:
        check_arms(plan, subject)
    size = plan.inputs_per_trial
    if size == "auto":
        raise UsageError("--inputs-per-trial auto: is settled by running trials", "name a number with --plan-only")
    if size is not None:
        check_subsets(subject.workload, size)
    subject = calibrating(subject, plan)
    identity, workload = subject.identity(plan), subject.workload
    original = fault_free(workload).outcome
    plan.check_measure(original)
    measure = plan.measure(original)
    seconds = fault_free(workload).seconds * (1 if size is None else size / len(workload))
    half_width = plan.until_half_width or HALF_WIDTH
    images: dict[object, tuple[MemoryImage, ActivationMemory | None]] = {}
    arms = []
    for number, arm in enumerate(plan.arms):
        if arm.memory not in images:
            images = {arm.memory: (subject.image(arm), activation_memory(subject, arm.format))}
        key = identity.arms[number]
        records = store.records(key, number) if store is not None and key in store.arms else {}
        values = None  # of a score nobody knows how far it spreads
        if measure.score is None:
            values = [record.outcome.top1 for record in records.values()]
        arms.append(_arm(plan, arm, *images[arm.memory], half_width, seconds, values))
    return Preview(plan, identity.sha256, len(workload), half_width, seconds, tuple(arms))


def _arm(
    plan: Plan,
    arm: Arm,
    image: MemoryImage,
    activations: ActivationMemory | None,
    half_width: float,
    seconds: float,
    values: list[float] | None,
) -> ArmPreview:
    flips: tuple[float, ...] | None
    worst = likely = None
    deviation = USUAL
    trials = 1 if arm.fault.repeats else plan.trials
    if plan.question is not None:
        flips = (plan.question.axis.low * image.bits, plan.question.axis.high * image.bits)
        cost = 1.0
    else:
        sites = [*image.regions, *(activations.layers.values() if activations else ())]
        expected = arm.fault.expected_flips([site for site in sites if arm.fault.covers(site)])
        flips = None if expected is None else (expected,)
        cost = -math.expm1(-expected) if arm.fault.ber is not None and expected is not None else 1.0
    if plan.question is None and not arm.fault.repeats and values is not None:
        sequential = plan.stop_rule.sequential
        mean = 0.5
        if len(values) >= _LEAST_TRIALS:
            mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
        given = {"confidence": plan.confidence, "sequential": sequential}
        worst = trials_needed(half_width, deviation=WORST, **given)  # type: ignore[arg-type]
        if arm.fault == Flips(1) and not sequential:  # there are no more different faults than bits
            worst = sample_size(image.bits, error=half_width, confidence=plan.confidence)
        likely = trials_needed(half_width, mean=mean, deviation=deviation, **given)  # type: ignore[arg-type]
    return ArmPreview(
        arm,
        image.bits + (activations.bits if activations else 0),
        image.overhead_bits_per_weight,
        flips,
        trials,
        worst,
        likely,
        deviation,
        len(values or ()),
        cost * seconds * trials,
    )
