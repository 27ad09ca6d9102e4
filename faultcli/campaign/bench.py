"""The test bench: the model with one memory's values in it, on which any trial of that memory can be run.

A bench is plain data. It can be sent to another process (`executors.parcel`), and gives the same records there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from faultcli.activations.guard import LayerBounds
from faultcli.activations.stored import ActivationMemory
from faultcli.campaign.activations import activation_memory, guards_of
from faultcli.campaign.plan import Arm
from faultcli.campaign.records import Record
from faultcli.campaign.single_flip import one_flip, single_flip
from faultcli.campaign.subject import Subject
from faultcli.campaign.subsets import Subsets, check_subsets
from faultcli.faults.law import FaultLaw
from faultcli.formats import as_words
from faultcli.memory import MemoryImage
from faultcli.recover.applied import AppliedCorrection, Correct
from faultcli.recover.batchnorm import BatchNormRecalibration
from faultcli.workload.base import BaseWorkload, Golden
from faultcli.workload.classifier import Workload
from faultcli.workload.data.labelled import Dataset
from faultcli.workload.language import LanguageWorkload
from faultcli.workload.late.rows import LateRows
from faultcli.workload.late.starting import LateStart
from faultcli.workload.metrics import Outcome


@dataclass(frozen=True)
class FaultFree:
    """A run of the model without faults: what outcomes are compared with."""

    golden: Golden
    outcome: Outcome  # compared with itself, so masked = n but for non-finite rows
    seconds: float


def fault_free(workload: BaseWorkload, *, listen: bool = False) -> FaultFree:
    """Run the model as it is now; if asked to listen, find out whether its answers vary by themselves
    (`BaseWorkload.noise`)."""
    start = time.perf_counter()
    golden, outcome = workload.fault_free()
    seconds = time.perf_counter() - start
    if listen:
        workload.listen(golden)
    return FaultFree(golden, outcome, seconds)


@dataclass(frozen=True)
class Trial:
    """One trial to run. With the seed of the bench it says everything: who runs it, and when, changes nothing."""

    arm: int  # position in the plan
    number: int
    law: FaultLaw


@dataclass
class Bench:
    """A memory, and the model that holds its values as stored, before and after every trial.

    `recalibrations` and `corrections` hold those of the arms that have one, by position in the plan. `late` saves what
    a trial does not have to run, and changes no record; None: every trial is run from the first layer on.
    """

    workload: BaseWorkload
    image: MemoryImage
    stored: FaultFree
    seed: int
    recalibrations: dict[int, BatchNormRecalibration]
    corrections: dict[int, AppliedCorrection]
    activations: ActivationMemory | None = None  # outputs of layers, where they are at risk
    late: LateStart | None = None
    guards: dict[int, tuple[LayerBounds, str]] = field(default_factory=dict)  # as recalibrations, with their modes
    subsets: Subsets | None = None  # where trials do not run all inputs

    @classmethod
    def set_up(
        cls,
        subject: Subject,
        arms: Mapping[int, Arm],
        original: FaultFree,
        *,
        seed: int,
        inputs_per_trial: int | None = None,
    ) -> Bench:
        """Put the values as they lie in the memory into the model and run it without faults.

        Args:
            subject: its workload holds the checkpoint; afterwards, the values as stored.
            arms: those of one memory, by position in the plan.
            original: the run of the checkpoint as it is.
            seed: of all faults, and of the inputs of trials.
            inputs_per_trial: how many of the inputs a trial runs; None: all of them.
        """
        workload, tensors, unlabelled = subject.workload, subject.tensors, subject.unlabelled
        image = subject.image(next(iter(arms.values())))
        differs = write_stored(image, workload, tensors)
        activations = activation_memory(subject, next(iter(arms.values())).format)
        subsets = None
        if inputs_per_trial is not None:
            subsets = Subsets.of(check_subsets(workload, inputs_per_trial), seed, inputs_per_trial)
            stored = FaultFree(subsets.golden, subsets.outcome, subsets.seconds)
        else:
            with nullcontext() if activations is None else activations.stored(workload.model):
                stored = fault_free(workload) if differs or (activations and activations.rounds) else original
        recalibrations, corrections = {}, {}
        for number, arm in arms.items():
            if arm.recalibrate is not None:
                assert isinstance(unlabelled, Dataset)
                assert isinstance(workload, Workload)
                recalibrations[number] = BatchNormRecalibration(workload, unlabelled, arm.recalibrate)
            if arm.correct is not None:
                assert isinstance(arm.correct, Correct)
                assert isinstance(workload, Workload | LanguageWorkload)
                corrections[number] = AppliedCorrection(workload, unlabelled, arm.correct)
        guards = guards_of(subject, arms)
        late: LateStart | None = None
        if subsets is not None:
            late = subsets.late_start(list(image.tensors))
        elif activations is None and isinstance(workload, Workload):
            late = workload.late_start(stored.golden, list(image.tensors))
        return cls(workload, image, stored, seed, recalibrations, corrections, activations, late, guards, subsets)

    @property
    def bits(self) -> int:
        """Stored bits at risk: of tensors, and of outputs of layers in all inferences of a trial."""
        return self.image.bits + (self.activations.bits if self.activations else 0)

    def overhead_bits_per_weight(self, arm: int) -> float:
        """Return what the protections of an arm add, its recalibration included."""
        recalibration = self.recalibrations.get(arm)
        side_bits = recalibration.side_bits if recalibration else 0
        if arm in self.guards and self.image.weights:
            side_bits += self.guards[arm][0].bits
        return self.image.overhead_bits_per_weight + side_bits / max(1, self.image.weights)

    def run(self, trial: Trial) -> Record:
        """Draw the trial's faults, patch the model in place, evaluate it and undo the patch.

        A trial that changes no stored value is the golden run and costs no forward pass.
        """
        if self.activations is not None:
            return self._run_activations(trial, self.activations)
        start = time.perf_counter()
        faults = self.image.draw(trial.law, seed=self.seed, trial=trial.number)
        patch = self.image.patch(faults)
        recalibration, correction = self.recalibrations.get(trial.arm), self.corrections.get(trial.arm)
        rows = None if self.subsets is None else self.subsets.rows(trial.number)
        guarded = trial.arm in self.guards
        outcome = self.stored.outcome
        if patch.values_changed or recalibration or correction or guarded:
            # A recalibration changes further tensors, a guard what layers give.
            late = None if recalibration is not None or guarded else self.late
            if isinstance(late, LateRows) and rows is not None:
                run = late.run_on(rows, patch.elements)
            else:
                run = None if late is None else late.run_with(patch.elements)
            with (
                patch.applied(self.workload.parameters),
                recalibration.applied() if recalibration else nullcontext(),
                self._guarded(trial.arm),
            ):
                if self.subsets is not None and rows is not None:
                    outcome = self.subsets.run(rows, run)
                elif correction is None and run is None:
                    outcome = self.workload.outcome(self.stored.golden)
                elif isinstance(self.workload, LanguageWorkload):
                    assert correction is not None
                    outcome = self.workload.outcome(self.stored.golden, correction.correction())
                else:
                    assert isinstance(self.workload, Workload)
                    outcome = self.workload.outcome(self.stored.golden, correction, run)
            if correction is not None:
                outcome = replace(outcome, labels_used=correction.labels_used)
        elif self.subsets is not None and rows is not None:
            outcome = self.subsets.healthy(rows)
        flip = single_flip(self.image, faults, patch, self.workload.parameters) if one_flip(trial.law) else None
        seconds = time.perf_counter() - start
        return Record(trial.arm, trial.number, faults.flips, patch.values_changed, outcome, seconds, flip)

    def _guarded(self, arm: int) -> AbstractContextManager[None]:
        if arm not in self.guards:
            return nullcontext()
        bounds, mode = self.guards[arm]
        return bounds.applied(self.workload.model, mode)

    def _run_activations(self, trial: Trial, activations: ActivationMemory) -> Record:
        """As `run`, with faults in outputs of layers, which are drawn as the model runs, and in tensors if any are at
        risk."""
        start, which = time.perf_counter(), {"seed": self.seed, "trial": trial.number}
        faults = self.image.draw(trial.law, **which) if self.image.tensors else None
        patch = None if faults is None else self.image.patch(faults)
        with (
            nullcontext() if patch is None else patch.applied(self.workload.parameters),
            activations.faulty(self.workload.model, trial.law, **which) as hit,
            self._guarded(trial.arm),  # behind the memory
        ):
            outcome = self.workload.outcome(self.stored.golden)
        flips = hit.flips + (faults.flips if faults else 0)
        changed = hit.values_changed + (patch.values_changed if patch else 0)
        return Record(trial.arm, trial.number, flips, changed, outcome, time.perf_counter() - start)


def write_stored(image: MemoryImage, workload: BaseWorkload, tensors: Mapping[str, Tensor]) -> bool:
    """Put the values as stored into the model; return whether any differs from the checkpoint's."""
    differs = False
    for name, values in image.values():
        workload.load({name: values})
        differs |= not torch.equal(as_words(values.to(tensors[name].dtype)), as_words(tensors[name]))
    return differs


@contextmanager
def as_stored(image: MemoryImage, workload: BaseWorkload, tensors: Mapping[str, Tensor]) -> Iterator[bool]:
    """Hold the values as stored in the model for the length of a `with` block; give whether any differs."""
    try:
        yield write_stored(image, workload, tensors)
    finally:
        workload.load(tensors)
