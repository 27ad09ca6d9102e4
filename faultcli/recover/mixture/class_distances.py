"""How far apart classes lie: a trace of how many there are.

Damage takes much the same factor from all distances between class means, in spreads that the classes share: beside it
their logarithms scatter by about 0.1. A component that was cut out of a class lies half as far from the rest of it as
classes do from each other. So distances tell too many components from the right number, where likelihood and class
means speak for one more: inputs that look like a class that is missing lie where the law of the damage expects it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.base import Array

_SCATTER = 0.1  # of log distances; and this part of what the distances lost:
_PART = 0.3
_COUNTED = 12.0  # weight beside the law of means, whatever the number of pairs: they do not scatter independently
_FREEDOM = 4.0  # how much the known scatter counts beside the components' own
_NEAREST = 1e-3


def log_distances(means: Array, covariances: Array) -> Array:
    """Return the logarithm [C, C] of the distances between means [C, d] in the metric of the mean of the covariances
    [C, d, d]; 0 on the diagonal."""
    apart = means[:, None, :] - means[None, :, :]
    squares = ((apart @ np.linalg.inv(covariances.mean(axis=0))) * apart).sum(axis=2)
    result: Array = 0.5 * np.log(np.maximum(squares, _NEAREST**2))
    np.fill_diagonal(result, 0)
    return result


@dataclass(frozen=True)
class FoundDistances:
    """Log distances [C, C] between components, and how much each of them counts, 0 to 1: less with few rows."""

    logs: Array
    weights: Array

    @classmethod
    def of(cls, means: Array, covariances: Array, rows: Array) -> FoundDistances:
        """Measure components with so many rows [C]."""
        error = 1 / np.maximum(rows, 1)
        return cls(log_distances(means, covariances), 1 / (1 + (error[:, None] + error) / _SCATTER**2))


@dataclass(frozen=True)
class DistanceLaw:
    """Log distances of damaged classes: those of the clean model, less what all lost, + noise.

    Attributes:
        clean: [K, K], log distances between the clean classes.
    """

    clean: Array

    def agreement(self, found: FoundDistances, labels: NDArray[np.int64]) -> Array:
        """Return how well the distances between components agree with the classes that they are called.

        Args:
            found: between C components.
            labels: [M, C], in each row their classes.

        Returns:
            [M], a log-likelihood by Student's distribution of the noise; 0 for two components.
        """
        one, other = _pairs(labels.shape[1])
        weights = found.weights[one, other]
        pairs = len(self.clean) * labels.take(one, axis=1) + labels.take(other, axis=1)
        moved = found.logs[one, other] - self.clean.ravel().take(pairs)
        lost = moved @ (weights / weights.sum())
        scatter = _SCATTER**2 + (_PART * lost) ** 2
        moved -= lost[:, None]
        moved *= moved
        squares = moved @ weights
        result: Array = -0.5 * _COUNTED * np.log((squares / scatter + _FREEDOM) / (len(one) - 1 + _FREEDOM))
        return result


@cache
def _pairs(components: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(components, 1)
