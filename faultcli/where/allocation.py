"""How many trials every stratum gets, and what they say: a pilot, then Neyman's allocation, in rounds.

A stratum of N_h of all N sites has the weight W_h = N_h / N. Its trials give numbers from 0 to 1; the mean over the
memory is Σ W_h·ȳ_h, whatever the allocation, and its variance Σ W_h²·(1 − n_h/N_h)·s_h²/n_h.

s_h² of a few trials that all say the same is 0 and means little. So each stratum borrows one trial's worth of spread
from its bit position: the pooled squares of that bit's trials in all layers, and half a trial more at what the codes
predict. A layer-by-bit interval borrows nothing: it is Wilson's, which for numbers between 0 and 1 is at least as wide
as their own variance asks for (y² ≤ y), with the finite population taken into account.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from faultcli.campaign.statistics.intervals import Interval, error_rate
from faultcli.where.strata import Stratum

Floats = NDArray[np.float64]
PILOT = 6  # trials of a stratum before anything is compared
PILOT_HARMLESS = 2  # of one whose flips are predicted to change next to nothing
HARMLESS = 0.01  # predicted part of answers below which that is so


class Allocation:
    """Says where the next trials go, takes trials back and estimates. Deterministic in strata and trials.

    Args:
        strata: of the memory.
        confidence: of intervals.
    """

    def __init__(self, strata: Sequence[Stratum], confidence: float = 0.95) -> None:
        from scipy.special import ndtri

        self.strata = strata
        self.z = float(ndtri(1 - error_rate(confidence) / 2))
        self.sizes = np.array([stratum.size for stratum in strata], dtype=np.float64)
        self.counts = np.zeros(len(strata), dtype=np.int64)
        self._sums, self._squares = np.zeros(len(strata)), np.zeros(len(strata))
        self.asked = np.zeros(len(strata), dtype=np.int64)  # turns given out, failed ones included
        self._predicted = np.array([stratum.predicted for stratum in strata])
        pilot = np.where(self._predicted < HARMLESS, PILOT_HARMLESS, PILOT)
        self._pilot = np.minimum(pilot, self.sizes).astype(np.int64)
        kinds = {(s.bit, s.word_bits): 0 for s in strata}
        numbers = {kind: i for i, kind in enumerate(kinds)}
        self._kind = np.array([numbers[s.bit, s.word_bits] for s in strata])

    def add(self, stratum: int, value: float) -> None:
        """Take a trial back: a number from 0 to 1."""
        self.counts[stratum] += 1
        self._sums[stratum] += value
        self._squares[stratum] += value * value

    def next_round(self, most: int, *, per_stratum: float | None = None) -> list[int]:
        """Return the strata of the next `most` trials; fewer, or none, where nothing is left to ask.

        Args:
            most: size of the round.
            per_stratum: the half-width that every stratum is to have; None: narrow the interval of the whole.
        """
        chosen: list[int] = []
        for first in np.flatnonzero(self.asked < self._pilot):
            chosen += [int(first)] * int(self._pilot[first] - self.asked[first])
        chosen = chosen[:most]
        if not chosen:
            free = self.sizes - self.asked > 0
            if per_stratum is not None:
                open_ = self.half_widths() > per_stratum
                worth = np.where(free & open_, self.half_widths(), 0.0)
                rate = worth * np.sqrt(np.maximum(self.counts, 1))
            else:
                rate = np.where(free, self.sizes * np.sqrt(self._variances()), 0.0)
            heap = [(-(rate[h] ** 2) / _next(self.asked[h]), int(h)) for h in np.flatnonzero(rate > 0)]
            heapq.heapify(heap)
            given = self.asked.copy()
            while heap and len(chosen) < most:
                _, h = heapq.heappop(heap)
                chosen.append(h)
                given[h] += 1
                if given[h] < self.sizes[h]:
                    heapq.heappush(heap, (-(rate[h] ** 2) / _next(given[h]), h))
        for h in chosen:
            self.asked[h] += 1
        return chosen

    def estimate(self, members: NDArray[np.bool_] | None = None) -> Interval | None:
        """Return the mean over some strata (None: all), weighted by their sites, with its interval; None while one of
        them has no trial. One stratum alone has Wilson's interval."""
        which = np.flatnonzero(np.ones(len(self.strata), dtype=bool) if members is None else members)
        if not len(which) or not self.counts[which].all():
            return None
        if len(which) == 1:
            return self.of(int(which[0]))
        weights = self.sizes[which] / self.sizes[which].sum()
        counts = self.counts[which]
        mean = float(weights @ (self._sums[which] / counts))
        left = np.maximum(0.0, 1 - counts / self.sizes[which])
        half = self.z * math.sqrt(float((weights**2 * left) @ (self._variances()[which] / counts)))
        return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))

    def of(self, stratum: int) -> Interval | None:
        """Return the mean of one stratum with its interval; None without trials."""
        n = int(self.counts[stratum])
        if not n:
            return None
        low, high = (float(end[stratum]) for end in self._wilson())
        return Interval(float(self._sums[stratum]) / n, low, high)

    def half_widths(self) -> Floats:
        """Return half of the length of every stratum's interval; 0.5 without trials."""
        low, high = self._wilson()
        return (high - low) / 2

    def _wilson(self) -> tuple[Floats, Floats]:
        n = np.maximum(self.counts, 1)
        p = self._sums / n
        whole = self.counts >= self.sizes
        effective = n * (self.sizes - 1) / np.maximum(self.sizes - n, 1e-9)  # all sites seen: nothing is uncertain
        q = self.z**2 / np.maximum(effective, 1e-9)
        centre, half = (p + q / 2) / (1 + q), np.sqrt(q * p * (1 - p) + q * q / 4) / (1 + q)
        low, high = np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)
        low, high = np.where(whole, p, np.minimum(low, p)), np.where(whole, p, np.maximum(high, p))
        return np.where(self.counts == 0, 0.0, low), np.where(self.counts == 0, 1.0, high)

    def _variances(self) -> Floats:
        """Return s² of every stratum, with what it borrows."""
        n = np.maximum(self.counts, 1)
        spread = np.maximum(0.0, self._squares - self._sums**2 / n)
        kinds = int(self._kind.max()) + 1
        trials = np.bincount(self._kind, self.counts, kinds)
        strata = np.bincount(self._kind, minlength=kinds)
        guess = np.bincount(self._kind, self._predicted**2, kinds) / strata
        pooled = (np.bincount(self._kind, spread, kinds) + 0.5 * guess) / (np.maximum(trials - strata, 0) + 1)
        unseen = 0.15 * self._predicted**2 / (n + 1)
        return np.asarray((spread + pooled[self._kind]) / n + unseen, dtype=np.float64)


def _next(count: int) -> float:
    return float(max(count, 1)) * (max(count, 1) + 1)
