"""How many trials every stratum gets, and what they say: a pilot, then Neyman's allocation, in rounds.

A stratum of N_h of all N sites has the weight W_h = N_h / N. Its trials give numbers from 0 to 1; the mean over the
memory is Σ W_h·ȳ_h, whatever the allocation, and its variance Σ W_h²·(1 − n_h/N_h)·s_h²/n_h. Where trials run a part
of the inputs, s_h² holds what that does, and Σ W_h²·(n_h/N_h)·v_h/n_h is added, with v_h the mean variance of a trial's
number by the choice of its inputs: two-stage sampling (Cochran, Sampling Techniques, 1977, section 10.4). Even all
sites leave it.

Where trials decide how many follow, their mean leans: a stratum whose first flips look harmless is left alone, and one
that looks bad is looked at again. So the sites of every stratum are two halves, at random, with trials of their own,
and each half's allocation follows from what the other one showed (but for a half-width per stratum, which both halves
decide). ȳ_h is the mean of both, each weighted by its sites.

s_h² of a few trials that all say the same is 0 and means little. So each stratum borrows one trial's worth of spread
from its bit position: the pooled squares of that bit's trials in all layers, and half a trial more at what the codes
predict. A layer-by-bit interval borrows nothing: it is Wilson's, which for numbers between 0 and 1 is at least as wide
as their own variance asks for (y² ≤ y), with the finite population taken into account where trials run all inputs.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faultcli.campaign.statistics.intervals import Interval, error_rate
from faultcli.where.layers import LayerStratum
from faultcli.where.strata import Stratum

Floats = NDArray[np.float64]
PILOT = 3  # trials of half a stratum before anything is compared
PILOT_HARMLESS = 1  # of one whose flips are predicted to change next to nothing
HARMLESS = 0.01  # predicted part of answers below which that is so
HALVES = 2


@dataclass(frozen=True)
class Turn:
    """The next trial: the `number`-th site of a stratum; even ones are one half of it, odd ones the other."""

    stratum: int
    number: int


class Seen:
    """What trials of strata gave, by halves.

    Args:
        sizes: sites of every stratum, [H].
    """

    def __init__(self, sizes: Floats) -> None:
        self.sizes = np.stack([np.ceil(sizes / 2), np.floor(sizes / 2)])  # of the halves
        self.counts = np.zeros(self.sizes.shape, dtype=np.int64)
        self.sums, self.squares = np.zeros(self.sizes.shape), np.zeros(self.sizes.shape)
        self.within = np.zeros(self.sizes.shape)

    def add(self, draw: Turn, value: float, within: float = 0.0) -> None:
        """Take a trial back: its number, and the variance of that by the choice of its inputs."""
        place = draw.number % HALVES, draw.stratum
        self.counts[place] += 1
        self.sums[place] += value
        self.squares[place] += value * value
        self.within[place] += within

    def means(self) -> Floats:
        """Return the mean of every stratum: of its halves, weighted by their sites; where one has no trial, the
        other's."""
        means = self.sums / np.maximum(self.counts, 1)
        return np.asarray((self._weights() * means).sum(axis=0), dtype=np.float64)

    def spreads(self) -> Floats:
        """Return the variance of `means` per unit of s²: Σ (N_half/N)²·(1 − n/N_half)/n."""
        left = np.maximum(0.0, 1 - self.counts / np.maximum(self.sizes, 1.0)) / np.maximum(self.counts, 1)
        return np.asarray((self._weights() ** 2 * left).sum(axis=0), dtype=np.float64)

    def left_by_inputs(self) -> Floats:
        """Return what the choice of inputs adds to the variance of `means`: Σ (N_half/N)²·(n/N_half)·v/n."""
        each = self.within / np.maximum(self.counts, 1) / np.maximum(self.sizes, 1.0)
        return np.asarray((self._weights() ** 2 * each).sum(axis=0), dtype=np.float64)

    def _weights(self) -> Floats:
        known = np.where(self.counts > 0, self.sizes, 0.0)
        return np.asarray(known / np.maximum(known.sum(axis=0), 1.0), dtype=np.float64)


class Allocation:
    """Says where the next trials go, takes trials back and estimates. Deterministic in strata and trials.

    Args:
        strata: of the memory.
        confidence: of intervals.
        sampled: whether a trial runs a part of the inputs.
    """

    def __init__(
        self, strata: Sequence[Stratum] | Sequence[LayerStratum], confidence: float = 0.95, *, sampled: bool = False
    ) -> None:
        from scipy.special import ndtri

        self.strata, self.sampled = strata, sampled
        self.z = float(ndtri(1 - error_rate(confidence) / 2))
        self.sizes = np.array([stratum.size for stratum in strata], dtype=np.float64)
        self.weights = self.sizes / self.sizes.sum()
        self.seen = Seen(self.sizes)
        self._asked = np.zeros((HALVES, len(strata)), dtype=np.int64)
        self._predicted = np.array([stratum.predicted for stratum in strata])
        pilot = np.where(self._predicted < HARMLESS, PILOT_HARMLESS, PILOT)
        self._pilot = np.minimum(pilot, self.seen.sizes).astype(np.int64)
        kinds = {(s.bit, s.word_bits): 0 for s in strata}
        numbers = {kind: i for i, kind in enumerate(kinds)}
        self._kind = np.array([numbers[s.bit, s.word_bits] for s in strata])

    @property
    def counts(self) -> NDArray[np.int64]:
        """Trials of every stratum that gave a number."""
        total: NDArray[np.int64] = self.seen.counts.sum(axis=0)
        return total

    def add(self, draw: Turn, value: float, within: float = 0.0) -> None:
        """Take a trial back: a number from 0 to 1, and the variance of it by the choice of its inputs."""
        self.seen.add(draw, value, within)

    def next_round(self, most: int, *, per_stratum: float | None = None) -> list[Turn]:
        """Return the next `most` trials; fewer, or none, where nothing is left to ask.

        Args:
            most: size of the round.
            per_stratum: the half-width that every stratum is to have; None: narrow the interval of the whole.
        """
        chosen: list[Turn] = []
        pilot = self._asked < self._pilot
        for half, h in zip(*np.nonzero(pilot), strict=True):
            missing = int(self._pilot[half, h] - self._asked[half, h])
            chosen += [self._ask(int(half), int(h)) for _ in range(min(missing, most - len(chosen)))]
        if pilot.any():
            return chosen
        rates = [self._rates(other, per_stratum) for other in (1, 0)]  # of each half, by what the other one showed
        for half in range(HALVES):
            wanted = (most + half) // HALVES
            heap = [(-(rates[half][h] ** 2) / _next(self._asked[half, h]), int(h)) for h in np.flatnonzero(rates[half])]
            heap = [(worth, h) for worth, h in heap if self._asked[half, h] < self.seen.sizes[half, h]]
            heapq.heapify(heap)
            while heap and wanted:
                _, h = heapq.heappop(heap)
                chosen.append(self._ask(half, h))
                wanted -= 1
                if self._asked[half, h] < self.seen.sizes[half, h]:
                    heapq.heappush(heap, (-(rates[half][h] ** 2) / _next(self._asked[half, h]), h))
        return chosen

    def _ask(self, half: int, h: int) -> Turn:
        number = HALVES * int(self._asked[half, h]) + half
        self._asked[half, h] += 1
        return Turn(h, number)

    def _rates(self, half: int, per_stratum: float | None) -> Floats:
        """Return what trials of the strata are worth, by what one of their halves showed."""
        if per_stratum is None:
            return np.asarray(self.sizes * np.sqrt(self._variances(half)), dtype=np.float64)
        widths = self.half_widths()
        return np.where(widths > per_stratum, widths, 0.0) * np.sqrt(np.maximum(self.counts, 1))

    def estimate(self, members: NDArray[np.bool_] | None = None) -> Interval | None:
        """Return the mean over some strata (None: all), weighted by their sites, with its interval; None while one of
        them has no trial. One stratum alone has Wilson's interval."""
        which = np.flatnonzero(np.ones(len(self.strata), dtype=bool) if members is None else members)
        if not len(which) or not self.counts[which].all():
            return None
        if len(which) == 1:
            return self.of(int(which[0]))
        weights = self.sizes[which] / self.sizes[which].sum()
        mean = float(weights @ self.seen.means()[which])
        variances = self._variances() * self.seen.spreads() + self.seen.left_by_inputs()
        half = self.z * math.sqrt(float(weights**2 @ variances[which]))
        return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))

    def of(self, stratum: int) -> Interval | None:
        """Return the mean of one stratum with its interval; None without trials."""
        if not self.counts[stratum]:
            return None
        low, high = (float(end[stratum]) for end in self._wilson())
        return Interval(float(self.seen.means()[stratum]), low, high)

    def half_widths(self) -> Floats:
        """Return half of the length of every stratum's interval; 0.5 without trials."""
        low, high = self._wilson()
        return (high - low) / 2

    def _wilson(self) -> tuple[Floats, Floats]:
        n, p = np.maximum(self.counts, 1), self.seen.means()
        whole = self.counts >= self.sizes
        effective = n * (self.sizes - 1) / np.maximum(self.sizes - n, 1e-9)  # all sites seen: nothing is uncertain
        if self.sampled:  # but what their inputs leave, of which the trials of one stratum say too little
            whole, effective = np.zeros_like(whole), n.astype(np.float64)
        q = self.z**2 / np.maximum(effective, 1e-9)
        centre, half = (p + q / 2) / (1 + q), np.sqrt(q * p * (1 - p) + q * q / 4) / (1 + q)
        low, high = np.maximum(0.0, centre - half), np.minimum(1.0, centre + half)
        low, high = np.where(whole, p, np.minimum(low, p)), np.where(whole, p, np.maximum(high, p))
        return np.where(self.counts == 0, 0.0, low), np.where(self.counts == 0, 1.0, high)

    def _variances(self, half: int | None = None) -> Floats:
        """Return s² of every stratum, with what it borrows; `half`: by the trials of one half alone."""
        which = slice(None) if half is None else slice(half, half + 1)
        n = np.maximum(self.seen.counts[which].sum(axis=0), 1)
        sums, squares = self.seen.sums[which].sum(axis=0), self.seen.squares[which].sum(axis=0)
        spread = np.maximum(0.0, squares - sums**2 / n)
        kinds = int(self._kind.max()) + 1
        trials, strata = np.bincount(self._kind, n, kinds), np.bincount(self._kind, minlength=kinds)
        guess = np.bincount(self._kind, self._predicted**2, kinds) / strata
        pooled = (np.bincount(self._kind, spread, kinds) + 0.5 * guess) / (np.maximum(trials - strata, 0) + 1)
        unseen = 0.15 * self._predicted**2 / (n + 1)
        return np.asarray((spread + pooled[self._kind]) / n + unseen, dtype=np.float64)


def _next(count: int) -> float:
    return float(max(count, 1)) * (max(count, 1) + 1)
