"""Outputs of layers of a subject as a memory: what they are rounded by, and on which inputs that is fitted."""

from __future__ import annotations

from collections.abc import Mapping

from faultcli.activations.asked import has_scale
from faultcli.activations.guard import LayerBounds, Restrict
from faultcli.activations.stored import ActivationMemory
from faultcli.campaign.plan import Arm, Plan
from faultcli.campaign.subject import Subject
from faultcli.errors import FaultcliError
from faultcli.workload.classifier import Workload
from faultcli.workload.data.labelled import Dataset

CALIBRATION = 100  # clean inputs that scales are taken from


def calibrating(subject: Subject, plan: Plan) -> Subject:
    """Return the subject with clean inputs, if an arm takes scales or bounds from some; see `with_clean_inputs`."""
    needed = any(arm.calibrates(plan.selection) for arm in plan.arms)
    return with_clean_inputs(subject) if needed else subject


def with_clean_inputs(subject: Subject, unlabelled: str | None = None) -> Subject:
    """Return the subject with the inputs that scales and bounds of outputs are taken from: those it looks at already,
    those of this name, or else the training split of its data, where there is one."""
    if subject.unlabelled is not None or not isinstance(subject.workload, Workload):
        return subject
    if unlabelled is None and subject.training_split is None:
        return subject
    try:
        return subject.looking_at(unlabelled)
    except FaultcliError:
        if unlabelled is not None:
            raise
        return subject


def activation_memory(subject: Subject, format: str) -> ActivationMemory | None:
    """Return the memory that outputs of layers lie in; None where they are not at risk.

    A scale is the largest magnitude that the layer gives on the first inputs that the subject looks at; without such,
    on those that it is measured on. The model holds its weights as stored.

    Raises:
        UsageError: the outputs cannot be stored in this format.
    """
    seen = subject.layers
    if seen is None:
        return None
    bounds = None
    if has_scale(format):
        bounds = clean_bounds(subject, seen.glob).layers
    return ActivationMemory.of(seen, format, bounds=bounds)


def clean_bounds(subject: Subject, glob: str = "*") -> LayerBounds:
    """Return the bounds of what layers give on a few clean inputs; the model is as it is now."""
    workload = subject.workload
    if isinstance(workload, Workload) and isinstance(subject.unlabelled, Dataset):
        workload = workload.beside(subject.unlabelled.first(CALIBRATION))
    return LayerBounds.of(workload.model, workload.outcome, workload.data_name, glob)


def guards_of(subject: Subject, arms: Mapping[int, Arm]) -> dict[int, tuple[LayerBounds, str]]:
    """Return the bounds of arms whose outputs are guarded, and how: from a file, or else of clean inputs."""
    guards, found = {}, None
    for number, arm in arms.items():
        if isinstance(arm.guard, Restrict):
            if arm.guard.bounds is None:
                found = found or clean_bounds(subject)
            bounds = arm.guard.bounds or found
            assert bounds is not None
            guards[number] = bounds, arm.guard.mode
    return guards
