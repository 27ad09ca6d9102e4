"""Windows of every class mix, and what a corrector that has seen one does: on inputs like it, and on all classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faultcli.recover.base import Array, Correction

Random = np.random.Generator
REFUSED = "cannot be told"  # in the reason of a correction that leaves alone what it does not trust


def _half(mix: Array, random: Random) -> Array:
    chosen = random.permutation(len(mix)) < len(mix) // 2
    return np.where(chosen, mix, 0)


def _one_at_half(mix: Array, random: Random) -> Array:
    at = int(random.integers(len(mix)))
    others = np.where(np.arange(len(mix)) == at, 0, mix)
    return 0.5 * others / others.sum() + 0.5 * np.eye(len(mix))[at]


# From the class mix of training [K] to that of a window.
MIXES: dict[str, Callable[[Array, Random], Array]] = {
    "as in training": lambda mix, random: mix,
    "half of the classes": _half,
    "random shares": lambda mix, random: random.dirichlet(np.ones(len(mix))),
    "one class at 50 %": _one_at_half,
}


def draw_window(mix: str, labels: NDArray[np.int64], size: int, random: Random) -> NDArray[np.int64]:
    """Return rows of a pool with these labels, in random order: `size`, or as many as the pool has in this mix."""
    counts = np.bincount(labels)
    shares = MIXES[mix](counts / counts.sum(), random)
    shares = shares / shares.sum()
    some = shares > 0
    size = min(size, int((counts[some] / shares[some]).min()))
    taken = np.minimum(np.round(size * shares).astype(int), counts)
    rows = [random.choice(np.flatnonzero(labels == c), n, replace=False) for c, n in enumerate(taken)]
    return random.permutation(np.concatenate(rows))


@dataclass(frozen=True)
class Outcome:
    """What one correction did. Accuracies are fractions: on test inputs weighted to the class mix of the window, and
    (`_all`) on test inputs as they are."""

    network: str
    level: str
    trial: int
    method: str
    mix: str
    size: int  # of the window that was asked for
    rows: int  # that it has
    clean: float
    corrupted: float
    corrected: float
    clean_all: float
    corrupted_all: float
    corrected_all: float
    alone: bool  # left alone, for whatever reason
    refused: bool  # because the window was not trusted
    predicted: float | None  # gain
    covered: bool | None = None  # whether the predicted interval holds the gain; None where there is none

    @property
    def gain(self) -> float:
        return self.corrected - self.corrupted

    @property
    def gain_all(self) -> float:
        return self.corrected_all - self.corrupted_all

    def values(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Judge:
    """Test labels and the healthy logits on them."""

    network: str
    labels: NDArray[np.int64]
    clean: Tensor

    def outcome(
        self, level: str, trial: int, method: str, mix: str, size: int, seen: NDArray[np.int64], correction: Correction,
        test: Tensor,
    ) -> Outcome:  # fmt: skip
        """Apply a correction to test logits [T, K]; `seen`: labels of the window, or of training."""
        shares = np.bincount(seen, minlength=int(self.labels.max()) + 1) / len(seen)
        counts = np.maximum(np.bincount(self.labels, minlength=len(shares)), 1)
        weights = (shares / counts)[self.labels]
        weights = weights / weights.sum()
        right = [self._right(logits) for logits in (self.clean, test, correction(test))]
        inside, over_all = [float(weights @ one) for one in right], [float(one.mean()) for one in right]
        refused = correction.is_identity and REFUSED in correction.reason
        interval, gain = correction.predicted_interval, inside[2] - inside[1]
        covered = None if interval is None else interval[0] <= gain <= interval[1]
        return Outcome(
            self.network, level, trial, method, mix, size, len(seen), *inside, *over_all,
            correction.is_identity, refused, correction.predicted_gain, covered,
        )  # fmt: skip

    def _right(self, logits: Tensor) -> Array:
        finite = torch.isfinite(logits).all(dim=1)
        return ((logits.argmax(dim=1).numpy() == self.labels) & finite.numpy()).astype(float)
