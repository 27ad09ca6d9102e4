"""Evaluations without faults: the checkpoint as it is, as stored, and corrected."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

from torch import Tensor

from faultcli.activations.stored import ActivationMemory
from faultcli.campaign.bench import as_stored, fault_free
from faultcli.memory import MemoryImage
from faultcli.recover.applied import AppliedCorrection
from faultcli.workload.base import BaseWorkload
from faultcli.workload.classifier import Workload
from faultcli.workload.metrics import Outcome


def evaluate_stored(
    image: MemoryImage,
    workload: BaseWorkload,
    tensors: Mapping[str, Tensor],
    activations: ActivationMemory | None = None,
) -> tuple[Outcome, Outcome]:
    """Return the outcome of the checkpoint as it is, and as stored (compared with the first), outputs of layers, too,
    if they are asked for; the workload, which holds the checkpoint, is left as it was."""
    original = fault_free(workload, listen=True)
    rounding = nullcontext() if activations is None else activations.stored(workload.model)
    with as_stored(image, workload, tensors) as differs, rounding:
        rounded = differs or (activations is not None and activations.rounds)
        return original.outcome, workload.outcome(original.golden) if rounded else original.outcome


def evaluate_corrected(
    image: MemoryImage, workload: Workload, tensors: Mapping[str, Tensor], correction: AppliedCorrection
) -> Outcome:
    """Return the outcome of the checkpoint as stored and corrected, compared with the checkpoint as it is."""
    golden = workload.golden()
    with as_stored(image, workload, tensors):
        return workload.outcome(golden, correction)
