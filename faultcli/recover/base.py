"""What a corrector is: logits in, logits out. It never sees a weight, and at inference it never sees a label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.errors import FaultcliError
from faultcli.recover.threads import one_numpy_thread

Array = NDArray[np.float64]
Setting = Literal["unseen damage", "known damage"]

_OUTLIER = 50.0  # spreads (median absolute deviations) from the median; rows beyond are no use to a window
NOTHING_TO_LEARN = "a tenth of the level of --fault, or --format q2.5, in which no flip makes a NaN or an infinity"


class CorrectorError(FaultcliError):
    """A corrector is damaged, or does not fit the model, the logits or the window that it is used with."""


def refuse_window(size: int, least: int, name: str) -> None:
    """Refuse a window of fewer inputs than a method can look at.

    Raises:
        CorrectorError: it is.
    """
    if size < least:
        raise CorrectorError(
            f"a window of {size} inputs is too small: {name} needs {least} or more",
            "name more inputs: --window 1000 works well for 10 classes; training takes three times that (--train-data)",
        )


@dataclass(frozen=True)
class Card:
    """What a corrector was trained for.

    `setting`: `unseen damage`: only the law is known, the device's own faults are new to it. `known damage`: trained on
    the logits of the damaged device itself. A corrector is one or the other, for good.
    """

    classes: int
    setting: Setting = "unseen damage"
    model: str = ""  # SHA-256 of the checkpoint; empty: not bound
    faults: tuple[str, ...] = ()  # laws and levels of the training maps
    format: str = "native"
    protect: str = "none"
    seed: int = 0


@dataclass(frozen=True)
class Correction:
    """A corrector that has seen its window: what the device runs on every answer.

    Rows with a NaN or infinite logit come back as they are: a detected error stays one, whatever the method.

    Attributes:
        apply: float64 [n, K] finite logits to corrected ones.
        numbers: how many numbers `apply` works with, beyond the logits.
        decision: what was chosen, in words: `identity`, `align`, `mixture + 0.3 align`, …
        reason: why, where it is not obvious.
        strength: from 0 (leave every logit alone) to 1 (the whole correction); a blend of logits in between.
        predicted_gain: expected gain in top-1 accuracy, a fraction; None where nothing is predicted.
        predicted_interval: that covers the gain of 95 % of new fault maps; None where there is none.
        severity: the estimate that the decision rests on; None without one.
        labels: how many labelled inputs of the device it was bettered by; see `few_shot`.
    """

    apply: Callable[[Array], Array]
    numbers: int
    decision: str
    reason: str = ""
    strength: float = 1.0
    predicted_gain: float | None = None
    predicted_interval: tuple[float, float] | None = None
    severity: float | None = None
    labels: int = 0

    @property
    def is_identity(self) -> bool:
        return self.decision == "identity" or self.strength == 0

    def __call__(self, logits: Tensor) -> Tensor:
        """Return corrected logits: float32 [n, K] on the CPU, in the order given."""
        if self.is_identity or not len(logits):
            return logits
        corrected = logits.detach().to("cpu", torch.float32, copy=True)
        finite = torch.isfinite(corrected).all(dim=1)
        rows = corrected[finite].double().numpy()
        if len(rows):
            changed = self.apply(rows)
            if self.strength < 1:
                changed = rows + self.strength * (changed - rows)
            corrected[finite] = torch.from_numpy(np.ascontiguousarray(changed)).float()
        return corrected


def identity(reason: str = "", severity: float | None = None) -> Correction:
    """Return the correction that leaves everything alone."""
    return Correction(
        lambda z: z, 0, "identity", reason, predicted_gain=0.0, predicted_interval=(0.0, 0.0), severity=severity
    )


@dataclass(frozen=True)
class Corrector(ABC):
    """A method with all that its training found.

    Use: `correction = corrector.observe(window)`, then `correction(logits)` for every batch of answers. Correctors that
    need no window take None. `card` says what it was trained for.
    """

    name: ClassVar[str]
    summary: ClassVar[str]  # one line, for help and tables

    card: Card = field(kw_only=True)

    @property
    def smallest_window(self) -> int:
        """Fewest rows that `observe` takes; 0: it needs no window."""
        return 0

    @property
    def remarks(self) -> tuple[str, ...]:
        """What training found out about how far it can be relied on: sentences for whoever trains it."""
        return ()

    @property
    def needs_window(self) -> bool:
        return self.smallest_window > 0

    def check_window(self, size: int) -> None:
        """Refuse a window that is too small.

        Raises:
            CorrectorError: says how many inputs it takes.
        """
        refuse_window(size, self.smallest_window, self.name)

    @abstractmethod
    def adapt(self, window: Array) -> Correction:
        """Make the correction from a window of usable rows, float64 [n, K], n ≥ `smallest_window`."""

    @abstractmethod
    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return what training found as arrays, and as values that JSON takes."""

    @classmethod
    @abstractmethod
    def from_parts(cls, card: Card, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> Self:
        """Build the corrector from what `parts` returned. KeyError, TypeError or ValueError: they are damaged."""

    def observe(self, window: Tensor | None = None, *, strength: float = 1.0) -> Correction:
        """Look at unlabelled logits of the device as it is now, and return the correction for it.

        Rows with a non-finite or absurdly large logit (50 spreads from the median) are left out of the window. If too
        few are left, or they cannot be fitted, the identity comes back, with the reason: such a device cannot be
        corrected.

        Args:
            window: [n, K] logits of inputs that are a fair sample of the use; None where none is needed.
            strength: 0 to 1, how much of the correction to apply.

        Raises:
            CorrectorError: no window or too small a one, another number of classes, or a strength outside 0 to 1.
        """
        if not 0 <= strength <= 1:
            raise CorrectorError(f"a strength of {strength:g}: lies between 0 (leave alone) and 1 (correct fully)")
        with one_numpy_thread():
            correction = self._observe(window)
        if strength == 1:
            return correction
        gain = None if correction.predicted_gain is None else strength * correction.predicted_gain
        return replace(correction, strength=strength, predicted_gain=gain, predicted_interval=None)

    def _observe(self, window: Tensor | None) -> Correction:
        if not self.needs_window:
            return self.adapt(np.empty((0, self.card.classes)))
        if window is None:
            raise CorrectorError(
                f"a {self.name} corrector needs a window of unlabelled logits", "pass logits of inputs as they come in"
            )
        self.check_classes(window)
        self.check_window(len(window))
        rows = usable_rows(window.detach().cpu().double().numpy())
        if len(rows) < self.smallest_window:
            return identity(f"only {len(rows)} of {len(window)} inputs in the window have usable logits")
        try:
            return self.adapt(rows)
        except np.linalg.LinAlgError as error:
            return identity(f"the window's logits cannot be fitted ({error})")

    def check_classes(self, logits: Tensor) -> None:
        """Refuse what is no tensor [n, K], and logits of another number of classes."""
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            found = f"a tensor of shape {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            wanted = f"a tensor [n, {self.card.classes}]"
            raise CorrectorError(f"logits are {found}, and {wanted} is needed", "one row of logits for each input")
        if logits.shape[1] != self.card.classes:
            raise CorrectorError(
                f"logits of shape {list(logits.shape)}: the corrector was trained for {self.card.classes} classes",
                "use the corrector of this model, or train one with `train-corrector`",
            )

    def check_model(self, sha256: str, classes: int | None = None) -> None:
        """Refuse another model than the one it was trained for.

        Raises:
            CorrectorError: the checkpoint's hash or its number of classes differ.
        """
        if classes is not None and classes != self.card.classes:
            raise CorrectorError(
                f"the corrector was trained for {self.card.classes} classes, the model has {classes}",
                "use the corrector of this model, or train one with `train-corrector`",
            )
        if self.card.model and self.card.model != sha256:
            raise CorrectorError(
                f"the corrector was trained for another model: SHA-256 {self.card.model[:12]}…, this is {sha256[:12]}…",
                "use the corrector of this model, or train one with `train-corrector`",
            )


def usable_rows(logits: Array) -> Array:
    """Return the rows whose logits are all finite and none of them absurd."""
    rows = logits[np.isfinite(logits).all(axis=1)]
    if not len(rows):
        return rows
    distance = np.abs(rows - np.median(rows, axis=0))
    spread = np.median(distance, axis=0)
    typical = np.where(spread > 0, spread, max(float(spread.mean()), 1e-12))
    return rows[(distance <= _OUTLIER * typical).all(axis=1)]
