"""A corrector in a campaign: before every evaluation it looks at its window, on the model as it is then."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from faultcli.errors import WorkloadError
from faultcli.recover.base import Corrector
from faultcli.recover.file import load_corrector
from faultcli.workload.data import Dataset
from faultcli.workload.evaluate import Workload

DEFAULT_WINDOW = 1000


@dataclass(frozen=True, eq=False)
class Correct:
    """The option `--corrector FILE`: the corrector, and what tells it from another one. Equal files are equal."""

    corrector: Corrector
    sha256: str  # of the file
    window: int = DEFAULT_WINDOW

    @classmethod
    def load(cls, path: Path, window: int = DEFAULT_WINDOW) -> Correct:
        """Read a corrector.

        Raises:
            CheckpointError, CorrectorError: see `load_corrector`; or the window is smaller than the corrector takes.
        """
        corrector = load_corrector(path)
        corrector.check_window(window)
        return cls(corrector, hashlib.sha256(path.read_bytes()).hexdigest(), window)

    @property
    def text(self) -> str:
        """Short and unique: method, window, first digits of the file's SHA-256."""
        return f"{self.corrector.name}:{self.window}@{self.sha256[:8]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Correct) and (self.sha256, self.window) == (other.sha256, other.window)

    def __hash__(self) -> int:
        return hash((self.sha256, self.window))


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
            self._window = Workload(
                workload.architecture,
                workload.model,
                unlabelled.first(spec.window),
                batch_size=workload.batch_size,
                device=workload.device,
            )

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the logits [N, K] of the model as it is now, corrected."""
        self._spec.corrector.check_classes(logits)
        window = None if self._window is None else self._window.logits()
        return self._spec.corrector.observe(window)(logits)
