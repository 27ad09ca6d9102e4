"""The gain to be expected on a window, from how sure the corrected answers are, and how far off that may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faultcli.recover.base import Array
from faultcli.recover.mixture.gaussians import softmax

COVERAGE = 0.95  # of the interval, over new fault maps
_SURE, _PART = 0.01, 0.1  # points and part of the gain: how the error of a forecast grows with the gain


def expected_gain(raw: Array, corrected: Array) -> float:
    """Return how much likelier the corrected top class is than the raw one, mean over a window.

    Args:
        raw: [n, K] logits as they came.
        corrected: [n, K], of which the softmax are probabilities.
    """
    posterior = softmax(corrected)
    kept = posterior[np.arange(len(raw)), raw.argmax(axis=1)]
    return float((posterior.max(axis=1) - kept).mean())


@dataclass(frozen=True)
class Forecast:
    """Difference of confidences (Guillory et al. 2021), corrected by what training copies really gained.

    Attributes:
        slope: real over expected gain.
        margin: half the interval's width over 0.01 + a tenth of the gain.
    """

    slope: float = 1.0
    margin: float = np.inf

    @classmethod
    def learn(cls, expected: Sequence[Array], gained: Sequence[Array]) -> Forecast:
        """Learn from damaged copies, each with its windows.

        The slope of least squares and the posterior's own word (1) count alike. The margin is a quantile of Student's
        predictive distribution for a new copy, from every copy's error under the slope of the others.

        Args:
            expected: per copy, of every window.
            gained: likewise.
        """
        if len(expected) < 2:
            return cls()
        from scipy.special import stdtrit

        with_itself = np.array([float((e * e).sum()) for e in expected])
        with_gain = np.array([float((e * g).sum()) for e, g in zip(expected, gained, strict=True)])

        def slope(along: float, size: float) -> float:
            return float((along / size + 1) / 2) if size > 0 else 1.0

        errors = []
        for number, (e, g) in enumerate(zip(expected, gained, strict=True)):
            others = np.arange(len(expected)) != number
            foreseen = slope(with_gain[others].sum(), with_itself[others].sum()) * e
            errors.append(float(np.mean(((g - foreseen) / _scale(foreseen)) ** 2)))
        n = len(errors)
        quantile = float(stdtrit(n - 1, (1 + COVERAGE) / 2))
        margin = quantile * float(np.sqrt(np.mean(errors) * (1 + 1 / n)))
        return cls(slope(with_gain.sum(), with_itself.sum()), margin)

    def gain(self, expected: float) -> tuple[float, tuple[float, float]]:
        """Return the gain to be expected and its interval, fractions."""
        gain = self.slope * expected
        half = self.margin * float(_scale(np.asarray(gain)))
        return gain, (max(-1.0, gain - half), min(1.0, gain + half))


def _scale(gain: Array) -> Array:
    result: Array = _SURE + _PART * np.abs(gain)
    return result
