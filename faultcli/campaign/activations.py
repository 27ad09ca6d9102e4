"""Outputs of layers of a subject as a memory: what they are rounded by, and on which inputs that is fitted."""

from __future__ import annotations

from collections.abc import Iterable

from faultcli.activations.asked import has_scale
from faultcli.activations.layers import Seen
from faultcli.activations.stored import ActivationMemory
from faultcli.campaign.plan import Plan
from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.workload.classifier import Workload

CALIBRATION = 100  # clean inputs that scales are taken from


def calibrating(subject: Subject, plan: Plan) -> Subject:
    """Return the subject with the inputs that scales of a plan's arms are taken from; see `with_clean_inputs`."""
    return with_clean_inputs(subject, [arm.format for arm in plan.arms])


def with_clean_inputs(subject: Subject, formats: Iterable[str]) -> Subject:
    """Return the subject with the inputs that scales of outputs are taken from, if any of the formats has such: those
    it looks at already, or else the training split of its data, where there is one."""
    if subject.layers is None or subject.unlabelled is not None or not any(map(has_scale, formats)):
        return subject
    if not isinstance(subject.workload, Workload) or subject.training_split is None:
        return subject
    try:
        return subject.looking_at()
    except UsageError:
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
        bounds = clean_outputs(subject, seen).bounds
    return ActivationMemory.of(seen, format, bounds=bounds)


def clean_outputs(subject: Subject, seen: Seen) -> Seen:
    """Return what layers give on a few clean inputs, values included."""
    workload = subject.workload
    if isinstance(workload, Workload) and subject.unlabelled is not None:
        workload = workload.beside(subject.unlabelled.first(CALIBRATION))
    return Seen.of(workload.model, seen.glob, workload.outcome, bounds=True)
