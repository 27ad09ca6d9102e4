"""How much room each class takes up: a trace of the names that damage hardly touches.

A map of full rank that all logits go through changes the log volumes ½ log |S| of all classes by the same amount. So
classes that are compact beside the others stay so under damage that mixes logits, long after class means have lost
most of what told them apart: under noise that costs half of the accuracy, log volumes still correlate with those of the
clean model at 0.9 and more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.base import Array

_FREEDOM = 3.0  # how much the learned variance counts beside the window's own
_LEAST_VARIANCE = 0.1
_TINY = float(np.finfo(float).tiny)


def log_volumes(covariances: Array) -> Array:
    """Return ½ log |S| [..., C] of covariances [..., C, d, d]."""
    result: Array = 0.5 * np.linalg.slogdet(covariances)[1]
    return result


@dataclass(frozen=True)
class VolumeLaw:
    """Log volumes of damaged classes: a + b · those of the clean model + noise, with b ≥ 0.

    Attributes:
        clean: [K], log volumes of the clean classes.
        variance: of the noise.
    """

    clean: Array
    variance: float

    @classmethod
    def learn(cls, clean: Array, damaged: Sequence[Array]) -> Self:
        """Learn the noise from log volumes of damaged copies, each [K]; without any it is as large as what is told."""
        noise = [float(_residual(one, clean)[0]) / max(1, len(clean) - 2) for one in damaged]
        return cls(clean, max(_LEAST_VARIANCE, float(np.mean(noise)) if noise else float(clean.var())))

    def agreement(self, found: Array, labels: NDArray[np.int64]) -> Array:
        """Return how well components agree with the classes that they are called.

        Args:
            found: [..., C], log volumes of components.
            labels: [..., C], their classes.

        Returns:
            [...], a log-likelihood by Student's distribution of the noise; 0 where the volumes say nothing.
        """
        residual, whole = _residual(found, self.clean[labels])
        least = _FREEDOM * self.variance
        result: Array = -0.5 * (labels.shape[-1] - 1) * np.log((residual + least) / (whole + least))
        return result

    def of_all(self, found: Array) -> Callable[[NDArray[np.int64]], Array]:
        """Return the agreement [M] of components [K] with namings [M, K] that give every class its component; the same
        as `agreement`, but what no naming changes is reckoned once."""
        a, b = found - found.mean(), self.clean - self.clean.mean()
        whole, size = float(a @ a), max(float(b @ b), _TINY)
        least, half = _FREEDOM * self.variance, -0.5 * (len(found) - 1)

        def agreement(components: NDArray[np.int64]) -> Array:
            along = np.maximum(a[components] @ b, 0)
            result: Array = half * np.log((whole - along * along / size + least) / (whole + least))
            return result

        return agreement


def _residual(found: Array, clean: Array) -> tuple[Array, Array]:
    """Return the sum of squares [...] of found volumes about a + b · the clean ones, and that about their mean."""
    a, b = (volumes - volumes.mean(axis=-1, keepdims=True) for volumes in (found, clean))
    whole, along = (a * a).sum(axis=-1), np.maximum((a * b).sum(axis=-1), 0)
    return whole - along**2 / np.maximum((b * b).sum(axis=-1), _TINY), whole
