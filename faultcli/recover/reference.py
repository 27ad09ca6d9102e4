"""What the logits of the clean model look like: all that a corrector has to compare a window with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.base import Array, CorrectorError
from faultcli.recover.parts import array, precision

MOST_CLASSES = 64  # up to here the classes' means and covariance are kept, and a mixture can be fitted
_TINY = 1e-9
_LEAST_VARIANCE = 1e-3  # of a logit over a part of the classes, beside that over all of them


@dataclass(frozen=True)
class Reference:
    """Statistics of the clean model's logits.

    Attributes:
        mean, spread: [K], of every logit over all classes.
        prior: [K], the class mix of the training data.
        class_means: [K, K], rows are classes; None with more than 64 classes.
        precision: [K, K], inverse of the pooled covariance within classes; None likewise.
    """

    mean: Array
    spread: Array
    prior: Array
    class_means: Array | None = None
    precision: Array | None = None

    @classmethod
    def measure(cls, logits: Array, labels: NDArray[np.int64]) -> Reference:
        """Compute it from clean logits [n, K] and labels [n].

        Raises:
            CorrectorError: logits that are not finite, or (up to 64 classes) a class with fewer than 2 inputs.
        """
        check_finite(logits)
        classes = logits.shape[1]
        counts = np.bincount(labels, minlength=classes)
        mean, spread = logits.mean(axis=0), np.maximum(logits.std(axis=0), _TINY)
        prior = np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum()
        if classes > MOST_CLASSES:
            return cls(mean, spread, prior)
        if counts.min() < 2:
            raise CorrectorError(
                f"the {len(labels):,} inputs to train on hold {counts.min()} of class {int(counts.argmin())}, and every"
                " class needs 2 or more",
                "name more labelled inputs: --train-data D, or a larger --train-limit",
            )
        means = class_means(logits, labels, classes)
        rest = logits - means[labels]
        covariance = rest.T @ rest / len(rest)
        diagonal = np.diag(covariance)
        covariance = 0.98 * covariance + np.diag(0.02 * diagonal + 1e-6 * diagonal.mean() + _TINY)
        precision = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
        return cls(mean, spread, prior, means, precision)

    @property
    def classes(self) -> int:
        return len(self.mean)

    @property
    def standard_means(self) -> Array:
        """[K, K], class means of the standardised clean logits."""
        assert self.class_means is not None
        return (self.class_means - self.mean) / self.spread

    def moments(self, shares: Array) -> tuple[Array, Array]:
        """Return the mean and spread [K] that the clean model's logits have over classes at these shares [K]."""
        assert self.class_means is not None
        means, squares = self.class_means, self.class_means**2
        mean = self.mean + (shares - self.prior) @ means
        between = (shares @ squares - (shares @ means) ** 2) - (self.prior @ squares - (self.prior @ means) ** 2)
        return mean, np.sqrt(np.maximum(self.spread**2 + between, _LEAST_VARIANCE * self.spread**2))

    def shift(self, window: Array) -> float:
        """Return how far a window's logits lie from where clean ones lie: 0 and more, about 1 for the clean model.

        It is the median over rows of the squared Mahalanobis distance to the nearest clean class, per class, so it does
        not depend on how often which class comes. With more than 64 classes: the mean squared standardised logit.
        """
        if self.class_means is None or self.precision is None:
            return float((((window - self.mean) / self.spread) ** 2).mean())
        scaled = window @ self.precision
        own = (scaled * window).sum(axis=1)[:, None]
        centre = self.class_means @ self.precision
        distance = own - 2 * window @ centre.T + (centre * self.class_means).sum(axis=1)
        return float(np.median(distance.min(axis=1))) / self.classes

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `from_arrays` takes."""
        optional = {"class_means": self.class_means, "precision": self.precision}
        found = {"mean": self.mean, "spread": self.spread, "prior": self.prior}
        return {f"reference.{k}": v for k, v in {**found, **optional}.items() if v is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Reference:
        """Build it from what `arrays` returned. KeyError or ValueError where that is damaged."""
        k = arrays["reference.mean"].size
        found = cls(
            array(arrays, "reference.mean", k),
            array(arrays, "reference.spread", k, positive=True),
            array(arrays, "reference.prior", k, positive=True),
        )
        if "reference.class_means" not in arrays and "reference.precision" not in arrays:
            return found
        means = array(arrays, "reference.class_means", k, k)
        return replace(found, class_means=means, precision=precision(arrays, "reference.precision", k))


def check_finite(clean: Array) -> None:
    """Refuse logits of a clean model that are not all finite.

    Raises:
        CorrectorError: they are not.
    """
    if not np.isfinite(clean).all():
        raise CorrectorError("the clean model's own logits are not finite", "no corrector can be trained for it")


def class_means(rows: Array, labels: NDArray[np.int64], classes: int) -> Array:
    """Return the mean row of every class, [K, columns]; every class has to occur."""
    sums = np.zeros((classes, rows.shape[1]))
    np.add.at(sums, labels, rows)
    result: Array = sums / np.bincount(labels, minlength=classes)[:, None]
    return result
