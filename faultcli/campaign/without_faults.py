"""Evaluations without faults: the checkpoint as it is, as stored, and corrected."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

from torch import Tensor

from faultcli.activations.stored import ActivationMemory
from faultcli.campaign.bench import as_stored, fault_free
from faultcli.campaign.subject import Subject
from faultcli.errors import UsageError
from faultcli.memory import MemoryImage
from faultcli.recover.applied import AppliedCorrection
from faultcli.workload.base import BaseWorkload
from faultcli.workload.classifier import Workload
from faultcli.workload.language import LanguageWorkload
from faultcli.workload.metrics import Outcome
from faultcli.workload.models.hf_kernels import SideBySide, library_model


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
    image: MemoryImage,
    workload: Workload | LanguageWorkload,
    tensors: Mapping[str, Tensor],
    correction: AppliedCorrection,
) -> Outcome:
    """Return the outcome of the checkpoint as stored and corrected, compared with the checkpoint as it is."""
    if isinstance(workload, LanguageWorkload):
        run, _ = workload.fault_free()
        with as_stored(image, workload, tensors):
            outcome = workload.outcome(run, correction.correction())
    else:
        golden = workload.golden()
        with as_stored(image, workload, tensors):
            outcome = workload.outcome(golden, correction)
    return replace(outcome, labels_used=correction.labels_used)


@dataclass(frozen=True)
class LibraryRun:
    """What the library of a quantised checkpoint's layout made of it.

    `outcome`: compared with decoded weights. `largest_difference`: of two finite logits; None: there were none.
    `layers`: the classes of the modules that computed with quantised weights.
    """

    outcome: Outcome
    largest_difference: float | None
    layers: tuple[str, ...]


def evaluate_by_library(subject: Subject) -> LibraryRun:
    """Run a quantised checkpoint with the kernels of the library that its layout is of, and with decoded weights on the
    same inputs; a hardened one as it reads.

    Raises:
        UsageError: its weights are not quantised.
        WorkloadError: the library cannot run it, see `library_model`.
    """
    if subject.quantised is None:
        raise UsageError(
            f"--kernel library: {subject.model} is not quantised, so no library has kernels for it",
            "leave it out, or name a directory with packed weights (docs/quantised.md)",
        )
    packed, workload = subject.quantised.packed, subject.workload
    loaded = library_model(packed, workload.device)
    golden, _ = workload.fault_free()
    model = SideBySide(workload.model, loaded.module, f"{subject.model}: the library of {packed.layout.title}")
    outcome = workload.answered_by(model).outcome(golden)
    return LibraryRun(outcome, model.largest, loaded.layers)
