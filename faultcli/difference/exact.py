"""Distributions and intervals for counts, exact where counts are small.

scipy.special is imported inside functions, and scipy.stats not at all: it takes most of a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from faultcli.faults.sampling import Stream

_MOST_EXACT = 2000  # flips of which a distribution is written out, or simulated
_SIMULATED = 1_000_000  # flips drawn for a p value
_DENSE = 20  # hits² per cell, from which on about ten pairs share one
_FEWEST_EXPECTED = 5.0  # per cell, for a chi-squared approximation


class RealisedRate(NamedTuple):
    """A probability, from 0 to 1, with its interval; all None where nothing was tried."""

    rate: float | None
    low: float | None
    high: float | None


class TestOutcome(NamedTuple):
    """A test's statistic and its p value; p is None where the data cannot speak for or against."""

    statistic: float | None
    p: float | None


NOTHING = TestOutcome(None, None)


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> RealisedRate:
    """Return the share of `hits` with the interval of Clopper and Pearson, Biometrika 26 (1934): it covers the true
    probability of independent hits at least as often as it says, whatever that is."""
    if trials == 0:
        return RealisedRate(None, None, None)
    from scipy.special import betaincinv

    alpha = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, trials - hits + 1, alpha))
    high = 1.0 if hits == trials else float(betaincinv(hits + 1, trials - hits, 1 - alpha))
    return RealisedRate(hits / trials, low, high)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for their number (Holm, Scand. J. Statist. 6, 1979); None stays and does not count."""
    known = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, at) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        adjusted[at] = highest
    return adjusted


def shares(groups: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], purpose: str) -> TestOutcome:
    """Test whether the flips of every group fall on its cells as the cells' sizes say.

    The statistic is the likelihood ratio G, summed over groups, given the flips of each. Its p value is that of
    chi-squared where every cell expects 5 flips (with Williams' correction, Biometrika 63, 1976, and divided by
    1 − flips/bits, as flips of a finite memory do not repeat), else from simulated flips, (1 + as extreme) / (1 + all),
    which is valid for any number of them. With more than 2,000, cells that expect fewer than 5 are taken together.

    Args:
        groups: per group the flips and the bits of each cell, int64 [cells].
        purpose: makes the simulation another one; the same purpose and flips give the same p value.
    """
    cells = [(flips[bits > 0], bits[bits > 0]) for flips, bits in groups if flips.sum() and (bits > 0).sum() > 1]
    total = int(sum(flips.sum() for flips, _ in cells))
    if not total:
        return NOTHING
    sparse = any((flips.sum() * (bits / bits.sum())).min() < _FEWEST_EXPECTED for flips, bits in cells)
    if sparse and total > _MOST_EXACT:
        cells = [joined for flips, bits in cells if len((joined := _joined(flips, bits))[0]) > 1]
        sparse = False
    if not cells:
        return NOTHING
    statistic, freedom = 0.0, 0
    for flips, bits in cells:
        k, chances = int(flips.sum()), bits / bits.sum()
        finite = max(1 - k / float(bits.sum()), 1e-12)
        ratio = float(_likelihood_ratio(flips[None, :], chances)[0])
        freedom += len(flips) - 1
        correction = 1 + ((1 / chances).sum() - 1) / (6 * k * (len(flips) - 1))
        statistic += ratio if sparse else ratio / finite / correction  # simulated flips may repeat
    if sparse:
        return TestOutcome(statistic, _simulated(cells, statistic, purpose))
    from scipy.special import chdtrc

    return TestOutcome(statistic, float(chdtrc(freedom, statistic)))


def _likelihood_ratio(flips: NDArray[np.int64], chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return G of every row of int64 [n, cells]."""
    expected = flips.sum(axis=1, keepdims=True) * chances
    ratio = np.log(np.where(flips > 0, flips, 1) / np.where(flips > 0, expected, 1))
    return np.asarray(2 * (flips * ratio).sum(axis=1))


def _joined(flips: NDArray[np.int64], bits: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Take the cells together that expect too few flips, and the next one if they still do."""
    order = np.argsort(bits, kind="stable")
    flips, bits = flips[order], bits[order]
    expected = bits * (flips.sum() / bits.sum())
    few = int(np.searchsorted(expected, _FEWEST_EXPECTED))
    few += few > 0 and float(expected[:few].sum()) < _FEWEST_EXPECTED
    if not few:
        return flips, bits
    return np.append(flips[:few].sum(), flips[few:]), np.append(bits[:few].sum(), bits[few:])


def _simulated(cells: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], statistic: float, purpose: str) -> float:
    total = int(sum(flips.sum() for flips, _ in cells))
    rounds = int(np.clip(_SIMULATED // total, 499, 9999))
    widest = max(len(flips) for flips, _ in cells)
    at_once = max(1, min(rounds, 2_000_000 // (total + widest)))
    stream = Stream("faultcli", "diff", purpose, total)
    extreme = done = 0
    while done < rounds:
        count = min(at_once, rounds - done)
        found = np.zeros(count)
        for flips, bits in cells:
            k, ends = int(flips.sum()), np.cumsum(bits) / bits.sum()
            where = np.searchsorted(ends[:-1], stream.uniform(count * k), side="right").reshape(count, k)
            rows = np.arange(count)[:, None] * len(flips)
            drawn = np.bincount((rows + where).ravel(), minlength=count * len(flips)).reshape(count, len(flips))
            found += _likelihood_ratio(drawn, bits / bits.sum())
        extreme += int((found >= statistic * (1 - 1e-9)).sum())
        done += count
    return (1 + extreme) / (1 + rounds)


def sum_of_draws(
    marked: NDArray[np.int64], population: NDArray[np.int64], drawn: NDArray[np.int64], observed: int
) -> TestOutcome:
    """Test, two-sided, how many marked items were drawn in all from several populations without replacement.

    The sum of independent hypergeometric numbers: its distribution is written out up to 2,000 drawn items, and normal,
    with continuity correction, beyond (or where it would be as good). The statistic is the deviation in units of its
    standard deviation.

    Args:
        marked, population, drawn: int64 [n], the marked items, all items and drawn items of each population.
        observed: marked items drawn.
    """
    open_ = (drawn > 0) & (drawn < population) & (marked > 0) & (marked < population)
    fixed = int(
        np.where(open_, 0, np.where(marked == population, drawn, np.where(drawn == population, marked, 0))).sum()
    )
    marked, population, drawn = marked[open_], population[open_], drawn[open_]
    if not len(marked):
        return NOTHING
    share = marked / population
    mean = float((drawn * share).sum()) + fixed
    spread = drawn * share * (1 - share) * (population - drawn) / np.maximum(population - 1, 1)
    deviation = math.sqrt(float(spread.sum()))
    if int(drawn.sum()) > _MOST_EXACT:
        from scipy.special import ndtr

        beyond = max(0.0, abs(observed - mean) - 0.5) / deviation
        return TestOutcome((observed - mean) / deviation, min(1.0, 2 * float(ndtr(-beyond))))
    chances = np.ones(1)
    lowest = fixed
    for some, of, taken in zip(marked.tolist(), population.tolist(), drawn.tolist(), strict=True):
        least, pmf = _hypergeometric(some, of, taken)
        chances = np.convolve(chances, pmf)
        lowest += least
    at = observed - lowest
    below, above = float(chances[: at + 1].sum()), float(chances[at:].sum())
    return TestOutcome((observed - mean) / deviation, min(1.0, 2 * min(below, above)))


def _hypergeometric(marked: int, population: int, drawn: int) -> tuple[int, NDArray[np.float64]]:
    """Return the least number of marked items, and the probabilities from it on."""
    least, most = max(0, drawn - (population - marked)), min(marked, drawn)
    j = np.arange(least, most, dtype=np.float64)
    steps = np.log(marked - j) + np.log(drawn - j) - np.log(j + 1) - np.log(population - marked - drawn + j + 1)
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    chances = np.exp(logs - logs.max())
    return least, chances / chances.sum()


def more_than_by_chance(observed: int, expected: float) -> TestOutcome:
    """Test, one-sided, whether rare coincidences are more than expected: the upper tail of Poisson.

    Sums of coincidences among independent places spread less than Poisson numbers do, so p is on the safe side where
    they are not rare. The statistic is observed over expected.
    """
    if expected <= 0:
        return NOTHING if observed == 0 else TestOutcome(None, 0.0)
    from scipy.special import pdtrc

    return TestOutcome(observed / expected, 1.0 if observed == 0 else float(pdtrc(observed - 1, expected)))


def evenness(hits: NDArray[np.int64], expected: NDArray[np.float64], left: float, purpose: str) -> TestOutcome:
    """Test whether hits crowd in some of many cells of about the same size: Pearson's X², upper tail.

    Up to 2,000 hits its p value is simulated; beyond, X² is a gamma variable of the mean and the variance that it has
    for these cells (Haldane, Biometrika 29, 1937). Places are hit once: X² is divided by the share of them that is
    left, unless so few hits share a cell that it would only break ties.

    Args:
        hits: int64 [cells].
        expected: float64 [cells], adds up to the hits. Cells that expect less than a hundredth of the median are taken
            together: the ends of a memory.
        purpose: as for `shares`.
    """
    hits, expected = hits[expected > 0], expected[expected > 0]
    if len(hits):
        small = expected < 0.01 * float(np.median(expected))
        if small.any():
            hits = np.append(hits[~small], hits[small].sum())
            expected = np.append(expected[~small], expected[small].sum())
    k = int(hits.sum())
    if k < 2 or len(hits) < 2:
        return NOTHING
    statistic = float((hits.astype(np.float64) ** 2 / expected).sum() - k)
    if k * k > _DENSE * len(hits):
        statistic /= left
    if k > _MOST_EXACT:
        from scipy.special import gammaincc

        cells, chances = len(hits), expected / k
        mean = cells - 1
        variance = 2 * mean + (float((1 / chances).sum()) - cells**2 - 2 * cells + 2) / k
        return TestOutcome(statistic, float(gammaincc(mean * mean / variance, statistic * mean / variance)))
    rounds = int(np.clip(_SIMULATED // k, 499, 9999))
    stream = Stream("faultcli", "diff", purpose, k)
    ends = np.cumsum(expected) / k
    extreme = 0
    at_once = max(1, 1_000_000 // k)
    for start in range(0, rounds, at_once):
        count = min(at_once, rounds - start)
        where = np.searchsorted(ends[:-1], stream.uniform(count * k), side="right").reshape(count, k)
        rows = np.arange(count)[:, None]
        pairs, often = np.unique(rows * len(hits) + where, return_counts=True)
        found = np.bincount(pairs // len(hits), often.astype(np.float64) ** 2 / expected[pairs % len(hits)]) - k
        extreme += int((found >= statistic - 1e-9 * abs(statistic)).sum())
    return TestOutcome(statistic, (1 + extreme) / (1 + rounds))
