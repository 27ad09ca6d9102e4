"""Intervals over trials. The unit is the trial (one fault map); the inputs inside a trial are not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """An estimated mean with a two-sided interval. `low` and `high` are None where one trial tells nothing of them."""

    mean: float
    low: float | None
    high: float | None


def mean_interval(
    values: Sequence[float], *, confidence: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval | None:
    """Return the mean of a fixed number of trials with its interval; None without trials.

    Student's t over trials, cut at `bounds`. Where all trials agree the spread says nothing, so the interval reaches as
    far as the part of trials, at most, that could still differ without one of n having been seen: 1 − (α/2)^(1/n)
    (Clopper and Pearson 1934), taken as if such trials lay at the far bound.
    """
    n = len(values)
    if n == 0:
        return None
    low_bound, high_bound = bounds
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, None, None)
    alpha = 1 - confidence
    if min(values) == max(values):
        unseen = 1 - (alpha / 2) ** (1 / n)
        return Interval(mean, mean - unseen * (mean - low_bound), mean + unseen * (high_bound - mean))
    from scipy.special import stdtrit  # scipy.stats takes 0.8 s to import

    half = float(stdtrit(n - 1, 1 - alpha / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, max(low_bound, mean - half), min(high_bound, mean + half))
