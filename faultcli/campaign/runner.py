"""Run a campaign: every trial draws its faults, patches the model in place, evaluates it and undoes the patch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from faultcli.campaign.gates import GateCheck, GateResult, Verdict
from faultcli.campaign.plan import Arm, Plan
from faultcli.campaign.records import ArmResult, CampaignResult, Record
from faultcli.campaign.statistics import ConfidenceSequence
from faultcli.memory import MemoryImage
from faultcli.protect.scale import Factors
from faultcli.recover.applied import AppliedCorrection
from faultcli.recover.batchnorm import BatchNormRecalibration
from faultcli.workload.base import BaseWorkload, Golden
from faultcli.workload.data import Dataset
from faultcli.workload.evaluate import Workload
from faultcli.workload.metrics import GoldenRun, Outcome, measure


@dataclass(frozen=True)
class FaultFree:
    """A run of the model without faults: what outcomes are compared with."""

    golden: Golden
    outcome: Outcome  # compared with itself, so masked = n but for non-finite rows


def fault_free(workload: BaseWorkload) -> FaultFree:
    """Run the model as it is now."""
    return FaultFree(*workload.fault_free())


def run_campaign(
    plan: Plan,
    workload: BaseWorkload,
    tensors: Mapping[str, Tensor],
    *,
    checkpoint_hash: str,
    factors: Mapping[str, Factors] | None = None,
    unlabelled: Dataset | None = None,
    on_record: Callable[[Record], None] = lambda record: None,
) -> CampaignResult:
    """Run all trials of a plan, one after the other.

    Args:
        plan: what to run.
        workload: holds the checkpoint; it is in the same state, bit for bit, when this returns or raises.
        tensors: the tensors at risk, by name, as in the checkpoint.
        checkpoint_hash: content hash of the checkpoint, for the plan's identity.
        factors: those of a scaled checkpoint, for arms that do not scale by themselves.
        unlabelled: inputs for arms that recalibrate or correct; not those that are evaluated.
        on_record: called with every finished trial.

    Raises:
        FormatError: a tensor cannot be stored in a format of the plan.
        FaultError: a law does not fit the memory.
        UsageError: a gate asks for what this kind of model does not have.
    """
    start = time.perf_counter()
    original = fault_free(workload)
    for gate in plan.gates:
        gate.check_measured(gate_values(original.outcome), workload.architecture.name)
    results: dict[int, ArmResult] = {}
    try:
        for memory in dict.fromkeys(arm.memory for arm in plan.arms):
            image = MemoryImage(tensors, *memory, factors)
            stored = original
            if _write_stored(image, workload, tensors):
                stored = fault_free(workload)
            for number, arm in enumerate(plan.arms):
                if arm.memory == memory:
                    recalibration = None
                    if arm.recalibrate is not None:
                        assert unlabelled is not None
                        assert isinstance(workload, Workload)
                        recalibration = BatchNormRecalibration(workload, unlabelled, arm.recalibrate)
                    watch = Watch(plan, number, stored.outcome.top1)
                    records = []
                    correction = None
                    if arm.correct is not None:
                        assert isinstance(workload, Workload)
                        correction = AppliedCorrection(workload, unlabelled, arm.correct)
                    for record in trials(plan, number, arm, image, workload, stored, recalibration, correction):
                        on_record(record)
                        records.append(record)
                        if watch.enough(record):
                            break
                    overhead = image.overhead_bits_per_weight
                    overhead += recalibration.side_bits / image.weights if recalibration else 0
                    results[number] = ArmResult(
                        arm, image.bits, overhead, stored.outcome, tuple(records), watch.gates, watch.rule.sequential
                    )
    finally:
        workload.load(tensors)
    return CampaignResult(
        plan,
        plan.identity(
            checkpoint=checkpoint_hash,
            workload=workload.identity(),
            unlabelled=unlabelled.sha256() if unlabelled else None,
        ),
        len(workload),
        original.outcome,
        tuple(results[number] for number in range(len(plan.arms))),
        time.perf_counter() - start,
    )


def gate_values(outcome: Outcome) -> dict[str, float]:
    """Return what gates read of a trial, all from 0 to 1; what is not defined for this kind of model is absent."""
    values = {
        "accuracy": outcome.top1,
        "sdc": (outcome.sdc or 0) / outcome.n,
        "token probability": outcome.token_probability,
    }
    return {name: value for name, value in values.items() if value is not None}


class Watch:
    """Looks at the trials of one arm as they come, in the order of their numbers, and says when there are enough."""

    def __init__(self, plan: Plan, number: int, stored_accuracy: float) -> None:
        self.rule = plan.stop_rule
        self._number = number
        self._sequence = ConfidenceSequence(confidence=plan.confidence)
        alpha = (1 - plan.confidence) / max(1, len(plan.gates) * len(plan.arms))
        self._checks = [GateCheck(gate, stored_accuracy=stored_accuracy, alpha=alpha) for gate in plan.gates]

    def enough(self, record: Record) -> bool:
        """Take the next trial; return whether the arm stops here."""
        values = gate_values(record.outcome)
        self._sequence.add(record.outcome.top1)
        for check in self._checks:
            check.add(values[check.gate.quantity])
        undecided = sum(check.verdict is Verdict.INCONCLUSIVE for check in self._checks)
        return self.rule.reason(self._sequence, undecided_gates=undecided) is not None

    @property
    def gates(self) -> tuple[GateResult, ...]:
        """What the arm's gates say so far."""
        return tuple(GateResult(self._number, c.gate, c.limit, c.verdict, c.trials) for c in self._checks)


def evaluate_stored(
    image: MemoryImage, workload: BaseWorkload, tensors: Mapping[str, Tensor]
) -> tuple[Outcome, Outcome]:
    """Return the outcome of the checkpoint as it is, and as stored (compared with the first). Arguments as in
    `run_campaign`; the workload is left as it was."""
    original = fault_free(workload)
    try:
        differs = _write_stored(image, workload, tensors)
        return original.outcome, workload.outcome(original.golden) if differs else original.outcome
    finally:
        workload.load(tensors)


def evaluate_corrected(
    image: MemoryImage, workload: Workload, tensors: Mapping[str, Tensor], correction: AppliedCorrection
) -> Outcome:
    """Return the outcome of the checkpoint as stored and corrected, compared with the checkpoint as it is."""
    golden = workload.golden()
    try:
        _write_stored(image, workload, tensors)
        return measure(correction(workload.logits()), workload.labels, golden)
    finally:
        workload.load(tensors)


def trials(
    plan: Plan,
    number: int,
    arm: Arm,
    image: MemoryImage,
    workload: BaseWorkload,
    stored: FaultFree,
    recalibration: BatchNormRecalibration | None = None,
    correction: AppliedCorrection | None = None,
) -> Iterator[Record]:
    """Yield the trials of one arm; the model holds the stored values before and after each."""
    for trial in range(plan.trials):
        start = time.perf_counter()
        faults = image.draw(arm.fault, seed=plan.seed, trial=trial)
        patch = image.patch(faults)
        outcome = stored.outcome  # a trial that changes no value is the golden run
        if patch.values_changed or recalibration or correction:
            with patch.applied(workload.parameters), recalibration.applied() if recalibration else nullcontext():
                outcome = _outcome(workload, stored.golden, correction)
        yield Record(number, trial, faults.flips, patch.values_changed, outcome, time.perf_counter() - start)


def _outcome(workload: BaseWorkload, golden: Golden, correction: AppliedCorrection | None) -> Outcome:
    if correction is None:
        return workload.outcome(golden)
    assert isinstance(workload, Workload)
    assert isinstance(golden, GoldenRun)
    return measure(correction(workload.logits()), workload.labels, golden)


def _write_stored(image: MemoryImage, workload: BaseWorkload, tensors: Mapping[str, Tensor]) -> bool:
    """Put the values as stored into the model; return whether any differs from the checkpoint's."""
    differs = False
    for name, values in image.values():
        workload.load({name: values})
        differs |= not torch.equal(values.to(tensors[name].dtype), tensors[name])
    return differs
