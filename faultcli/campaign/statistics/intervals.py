"""Intervals for a number of trials that was fixed before the first one ran."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """An estimated mean with a two-sided interval. `low` and `high` are None where one trial tells nothing of them."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.mean:.4g}{ends}"

    def within(self, bounds: tuple[float, float]) -> Interval:
        """Return it cut at bounds that the true mean is known to keep."""
        low, high = bounds
        mean, *ends = (None if one is None else min(high, max(low, one)) for one in (self.mean, self.low, self.high))
        assert mean is not None
        return Interval(mean, *ends)

    @property
    def half_width(self) -> float | None:
        """Half of the interval's length; None where it has no end."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(
    values: Sequence[float], *, confidence: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval | None:
    """Return the mean of a fixed number of independent trials with its interval; None without trials.

    Hall's monotone cubic transformation of the studentised mean, "On the removal of skewness by transformation", J. R.
    Statist. Soc. B 54 (1992), with the quantiles of Student's t with n − 1 degrees of freedom, cut at
    `bounds`. Accuracies under faults are skewed (most maps are harmless, some ruin the model), and the plain t interval
    then ends too early on the side of the rare maps; without skewness the two are the same.

    The interval speaks of the kinds of fault map that were seen, and of no others: where all trials agree its width is
    0. If a part q of the maps is of another kind, none of them turns up in n trials with probability (1 − q)^n. How
    large q can be is a statement of its own, `unseen_share`; the two are never mixed into one number.

    Args:
        values: one number per trial, all inside `bounds`.
        confidence: above 0 and below 1.
        bounds: the least and the largest value that a trial can have.

    Raises:
        ValueError: a value is not finite or outside `bounds`, or the confidence is no probability.
    """
    array = checked(values, bounds)
    alpha = error_rate(confidence)
    n = array.size
    if n == 0:
        return None
    mean = float(array.mean())
    if n == 1:
        return Interval(mean, None, None)
    low_bound, high_bound = bounds
    if array.min() == array.max():
        return certain(float(array[0]))
    from scipy.special import stdtrit  # scipy.stats takes 0.8 s to import

    scale = float(np.abs(array - mean).max())  # powers of differences near 1e-108 would underflow
    deviations = (array - mean) / scale
    variance = float(np.mean(deviations**2))
    skewness = float(np.mean(deviations**3)) / variance**1.5
    deviation = scale * math.sqrt(variance * n / (n - 1))
    quantile = float(stdtrit(n - 1, 1 - alpha / 2)) / math.sqrt(n)
    low = mean - deviation * _hall_inverse(quantile, skewness, n)
    high = mean - deviation * _hall_inverse(-quantile, skewness, n)
    return Interval(mean, max(low_bound, low), min(high_bound, high))


def certain(value: float) -> Interval:
    """Return a mean that no other trial would change."""
    return Interval(value, value, value)


def unseen_share(n: int, confidence: float = 0.95) -> float:
    """Return the largest part of fault maps, from 0 to 1, that can be of a kind of which n trials showed none.

    1 − (α/2)^(1/n), the end of the two-sided interval for zero of n (Clopper and Pearson, Biometrika 26, 1934).
    Without trials it is 1.
    """
    return 1.0 if n < 1 else 1 - (error_rate(confidence) / 2) ** (1 / n)


def checked(values: Sequence[float], bounds: tuple[float, float]) -> NDArray[np.float64]:
    """Return the values as float64.

    Raises:
        ValueError: a value is not finite or outside `bounds`.
    """
    array = np.asarray(values, dtype=np.float64)
    if not ((array >= bounds[0]) & (array <= bounds[1])).all():
        raise ValueError(f"a trial's value lies outside [{bounds[0]}, {bounds[1]}]")
    return array


def error_rate(confidence: float) -> float:
    """Return 1 − confidence.

    Raises:
        ValueError: the confidence does not lie between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence}")
    return 1 - confidence


def _hall_inverse(transformed: float, skewness: float, n: int) -> float:
    """Return x with x + g x²/3 + g² x³/27 + g/(6n) = `transformed`, g the skewness; increasing for every g."""
    if abs(skewness) < 1e-6:
        return transformed
    return 3 / skewness * (math.cbrt(1 + skewness * (transformed - skewness / (6 * n))) - 1)
