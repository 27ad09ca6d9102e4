"""How many trials, and where: sample sizes before a campaign, estimates and allocation over strata."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Stratum:
    """One part of a population of faults and what its sample showed."""

    weight: float  # its part of the population; all parts together are 1
    mean: float  # sample mean, or proportion
    variance: float  # sample variance; for proportions p (1 − p)
    n: int  # sampled, at least 1
    size: int | None = None  # its number of faults, for sampling without replacement; None: unlimited


def stratified_estimate(strata: Sequence[Stratum]) -> tuple[float, float] | None:
    """Return the estimated mean of the population and its standard error; None without strata.

    Σ W_h ȳ_h and √Σ W_h² s_h²/n_h (1 − n_h/N_h): Cochran, Sampling Techniques (3rd ed. 1977), section 5.4.
    """
    if not strata:
        return None
    mean = math.fsum(h.weight * h.mean for h in strata)
    variance = math.fsum(h.weight**2 * h.variance / h.n * (1 - h.n / h.size if h.size else 1) for h in strata)
    return mean, math.sqrt(variance)


def neyman_allocation(
    weights: Sequence[float], deviations: Sequence[float], total: int, *, least: int = 1
) -> tuple[int, ...]:
    """Share `total` trials out over strata, n_h ∝ W_h σ_h, with at least `least` each (Neyman 1934; Cochran 5.5).

    Whole numbers that add up to `total`, by largest remainders, the earlier stratum first among equals. Without any
    spread they follow the weights.

    Raises:
        ValueError: fewer trials than `least` for every stratum, or lengths that differ.
    """
    if len(weights) != len(deviations) or total < least * len(weights):
        raise ValueError(f"{total} trials for {len(weights)} strata with at least {least} each")
    shares = np.asarray(weights, dtype=np.float64) * np.asarray(deviations, dtype=np.float64)
    if not shares.sum() > 0:
        shares = np.asarray(weights, dtype=np.float64)
    counts = np.zeros(len(shares))
    fixed = np.zeros(len(shares), dtype=bool)
    while not fixed.all():  # strata that the rule gives less than the least get the least, the others share the rest
        free = shares[~fixed]
        rest = total - least * int(fixed.sum())
        counts[~fixed] = rest * (free / free.sum() if free.sum() > 0 else np.full(len(free), 1 / len(free)))
        short = ~fixed & (counts < least)
        counts[short] = least
        fixed |= short
        if not short.any():
            break
    whole = np.floor(counts + 1e-9).astype(int)
    for index in np.argsort(whole - counts, kind="stable")[: total - int(whole.sum())]:
        whole[index] += 1
    return tuple(int(count) for count in whole)


def _typical(mean: float, deviation: float) -> NDArray[np.float64]:
    """Return values at evenly spaced quantiles of a beta distribution; two points where none spreads that far."""
    quantiles = (np.arange(200) + 0.5) / 200
    if deviation**2 < mean * (1 - mean) * 0.999 and deviation > 0:
        from scipy.special import betaincinv

        total = mean * (1 - mean) / deviation**2 - 1
        values: NDArray[np.float64] = np.clip(betaincinv(mean * total, (1 - mean) * total, quantiles), 0, 1)
        return values
    return np.full(200, mean) if deviation == 0 else np.where(quantiles < mean, 1.0, 0.0)
