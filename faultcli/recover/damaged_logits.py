"""Logits of damaged copies of a model: computed once per fault map, then every method trains on them in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.errors import UsageError
from faultcli.faults.law import FaultLaw
from faultcli.faults.maps import FaultMap
from faultcli.memory import MemoryImage
from faultcli.recover.base import CorrectorError
from faultcli.workload.classifier import Workload
from faultcli.workload.language import LanguageWorkload

Answering: TypeAlias = Workload | LanguageWorkload  # whose logits can be corrected: per input, or per token


@dataclass(frozen=True, eq=False)
class Copy:
    """One damaged copy of the model: its fault map's law and number, and what it answers."""

    fault: str
    trial: int
    logits: Tensor  # float32 [N, K], in the order of the data
    changed: int = 1  # values that read differently


@dataclass(frozen=True, eq=False)
class LabelledLogits:
    """The clean model's logits on labelled inputs, and those of damaged copies on the same inputs.

    Raises:
        CorrectorError: labels are missing or do not belong to the logits.
    """

    clean: Tensor  # float32 [N, K]
    labels: Tensor  # int64 [N]
    copies: tuple[Copy, ...] = field(default=())

    def __post_init__(self) -> None:
        n, classes = self.clean.shape
        if self.labels is None or len(self.labels) != n:
            raise CorrectorError(
                f"{n} rows of logits and {0 if self.labels is None else len(self.labels)} labels",
                "training needs the label of every input",
            )
        if n == 0 or int(self.labels.min()) < 0 or int(self.labels.max()) >= classes:
            raise CorrectorError(f"labels do not lie between 0 and {classes - 1}, the classes of the logits")
        for copy in self.copies:
            if copy.logits.shape != self.clean.shape:
                raise CorrectorError(f"{copy.fault}: logits {list(copy.logits.shape)} beside {[n, classes]}")

    @property
    def classes(self) -> int:
        return int(self.clean.shape[1])

    @property
    def clean_accuracy(self) -> float:
        """Top-1 accuracy of the clean model, 0 to 1."""
        return float((self.clean.argmax(dim=1) == self.labels).double().mean())

    def check_windows(self, window: int) -> None:
        """Refuse to learn for windows that leave too few inputs to judge them by.

        Raises:
            CorrectorError: there are fewer than twice as many inputs.
        """
        if len(self.labels) < 2 * window:
            raise CorrectorError(
                f"{len(self.labels)} training inputs are too few for windows of {window}: twice as many are needed",
                "name more of them with --train-data D, or a smaller --window",
            )

    def rows(self, index: NDArray[np.int64]) -> LabelledLogits:
        """Return the part of some inputs."""
        at = torch.from_numpy(index)
        copies = tuple(Copy(c.fault, c.trial, c.logits[at], c.changed) for c in self.copies)
        return LabelledLogits(self.clean[at], self.labels[at], copies)


def damaged_copies(
    image: MemoryImage,
    laws: Sequence[FaultLaw],
    maps: int,
    workloads: Sequence[Answering],
    *,
    seed: int,
    first_trial: int = 0,
) -> Iterator[tuple[Copy, ...]]:
    """Yield, law by law and map by map, what the damaged model answers on every workload.

    Args:
        image: the memory; the workloads' model must hold its stored values.
        laws: of the faults.
        maps: fault maps per law: trials `first_trial`, `first_trial` + 1, … of `seed`.
        workloads: data sets around one and the same model; it is undamaged between the maps.
        seed: of the faults.
        first_trial: trials with other numbers are other faults.

    Raises:
        UsageError: a law leaves the model intact in all of its maps.
    """
    for law in laws:
        changed = 0
        for trial in range(first_trial, first_trial + maps):
            faults = image.draw(law, seed=seed, trial=trial)
            copies = one_copy(image, faults, workloads, law.spec, trial)
            changed += copies[0].changed
            yield copies
        if not changed:
            raise UsageError(
                f"--fault {law.spec}: leaves the model intact in all of {maps} fault maps: nothing to correct",
                "raise the level, or draw more maps",
            )


def one_copy(
    image: MemoryImage, faults: FaultMap, workloads: Sequence[Answering], spec: str, trial: int = 0
) -> tuple[Copy, ...]:
    """Return what the model answers with these faults in its memory, on every workload."""
    patch = image.patch(faults)
    with patch.applied(workloads[0].parameters):
        return tuple(Copy(spec, trial, workload.logits(), patch.values_changed) for workload in workloads)
