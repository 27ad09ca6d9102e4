"""A corrector in a campaign: before every evaluation it looks at its window, on the model as it is then."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from faultcli.checkpoint import Checkpoint
from faultcli.errors import WorkloadError
from faultcli.recover.base import Corrector
from faultcli.recover.file import load_corrector
from faultcli.workload.classifier import Workload
from faultcli.workload.data.labelled import Dataset

DEFAULT_WINDOW = 1000


@dataclass(frozen=True)
class CorrectorId:
    """What tells one corrector in a campaign from another."""

    name: str  # of its method
    window: int
    sha256: str  # of its file

    @property
    def text(self) -> str:
        """Short and unique: method, window, first digits of the file's SHA-256."""
        return f"{self.name}:{self.window}@{self.sha256[:8]}"


@dataclass(frozen=True)
class Correct(CorrectorId):
    """The option `--corrector FILE`: the corrector with what identifies it. Equal files are equal."""

    corrector: Corrector = field(compare=False, repr=False)

    @classmethod
    def load(cls, path: Path, window: int = DEFAULT_WINDOW) -> Correct:
        """Read a corrector.

        Raises:
            CheckpointError, CorrectorError: see `load_corrector`; or the window is smaller than the corrector takes.
        """
        corrector = load_corrector(path)
        corrector.check_window(window)
        return cls(corrector.name, window, Checkpoint.open(path).sha256(), corrector)


class AppliedCorrection:
    """Corrects what a workload's model answers.

    Args:
        workload: holds the model.
        unlabelled: the window is its first inputs; they are not among those that are evaluated. None if none is needed.
        spec: the corrector.

    Raises:
        WorkloadError: there are fewer inputs than the window has.
    """

    def __init__(self, workload: Workload, unlabelled: Dataset | None, spec: Correct) -> None:
        self._spec = spec
        self._window: Workload | None = None
        if spec.corrector.needs_window:
            if unlabelled is None or len(unlabelled) < spec.window:
                found = "none" if unlabelled is None else f"{unlabelled.name} with {len(unlabelled)}"
                raise WorkloadError(
                    f"the corrector looks at {spec.window} unlabelled inputs; there is {found}",
                    "name more with --unlabelled D, or a smaller --window",
                )
            self._window = workload.beside(unlabelled.first(spec.window))

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the logits [N, K] of the model as it is now, corrected."""
        self._spec.corrector.check_classes(logits)
        window = None if self._window is None else self._window.logits()
        return self._spec.corrector.observe(window)(logits)
