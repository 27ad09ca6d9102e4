"""How many trials: sample sizes before a campaign."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from faultcli.campaign.statistics.intervals import error_rate, unseen_share
from faultcli.campaign.statistics.sequences import expected_end

_MOST_TRIALS = 10**9


def trials_needed(
    half_width: float, *, confidence: float = 0.95, mean: float = 0.5, deviation: float = 0.5, sequential: bool = False
) -> int | None:
    """Guess the trials after which an interval for a mean in [0, 1] is as narrow as asked.

    Args:
        half_width: above 0.
        confidence: of the interval.
        mean, deviation: a guess of the trials' mean and standard deviation; the defaults are the worst there is.
        sequential: with the confidence sequence of `--until-ci` (typical trials: evenly over the quantiles of a beta
            distribution with that mean and deviation) rather than with the interval for a fixed number of trials.

    Returns:
        Trials; None if 10⁹ are not enough. Without any deviation, what unseen kinds of fault map ask for.

    Raises:
        ValueError: a half-width or a deviation that is not possible.
    """
    alpha = error_rate(confidence)
    if half_width <= 0 or deviation < 0 or not 0 <= mean <= 1:
        raise ValueError(f"half-width {half_width}, mean {mean}, deviation {deviation}: no such trials")
    if sequential:
        values = _typical(mean, deviation)

        def width(n: int) -> float:
            return 1 - expected_end(values, n, 2 / alpha) - expected_end(1 - values, n, 2 / alpha)

    elif deviation == 0:

        def width(n: int) -> float:
            return unseen_share(n, confidence)

    else:
        from scipy.special import stdtrit

        def width(n: int) -> float:
            quantile = float(stdtrit(n - 1, 1 - alpha / 2))
            return 2 * quantile * deviation / math.sqrt(n)

    low, high = 1, 2  # low: not enough, high: enough once the loop is through
    while width(high) > 2 * half_width:
        low, high = high, high * 2
        if high > _MOST_TRIALS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if width(middle) <= 2 * half_width else (middle, high)
    return high


def sample_size(population: int, *, error: float, confidence: float = 0.95, proportion: float = 0.5) -> int:
    """Return how many of `population` faults to inject to know a proportion within ± `error`.

    n = N / (1 + e² (N − 1) / (t² p (1 − p))), rounded up: Leveugle, Calvez, Maistri and Vanhauwaert, "Statistical fault
    injection: quantified error and confidence", DATE 2009; t is the normal quantile. Meant for campaigns of
    single faults drawn without replacement, one outcome per fault. A proportion of 0 or 1 needs 1.

    Raises:
        ValueError: an empty population, or an error or a proportion outside (0, 1] and [0, 1].
    """
    if population < 1 or not 0 < error <= 1 or not 0 <= proportion <= 1:
        raise ValueError(f"population {population}, error {error}, proportion {proportion}: no such sample")
    from scipy.special import ndtri

    spread = float(ndtri(1 - error_rate(confidence) / 2)) ** 2 * proportion * (1 - proportion)
    return 1 if spread == 0 else math.ceil(population / (1 + error**2 * (population - 1) / spread))


def _typical(mean: float, deviation: float) -> NDArray[np.float64]:
    """Return values at evenly spaced quantiles of a beta distribution; two points where none spreads that far."""
    quantiles = (np.arange(200) + 0.5) / 200
    if deviation**2 < mean * (1 - mean) * 0.999 and deviation > 0:
        from scipy.special import betaincinv

        total = mean * (1 - mean) / deviation**2 - 1
        values: NDArray[np.float64] = np.clip(betaincinv(mean * total, (1 - mean) * total, quantiles), 0, 1)
        return values
    return np.full(200, mean) if deviation == 0 else np.where(quantiles < mean, 1.0, 0.0)
