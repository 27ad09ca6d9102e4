"""One campaign, every bit-error rate: trials at exact numbers of flips, read at any rate.

Under independent flips at rate p the number of flips k is binomial, and given k the flipped bits are a uniform choice,
whatever p was. So acc(p) = Σ_k Binom(k; bits, p) · acc(k), and trials at fixed k serve every p.

**Strata** of k are geometric, and inside one k is drawn with a probability in proportion to log((k + 1)/k), nearly 1/k:
this is the mixture of the binomials over all rates evenly on a logarithmic axis (∫ Binom(k; N, p) dp/p = 1/k). k = 0 is
the fault-free run as stored: known, never drawn.

`FlipCurve.estimate` takes acc(k) as a smooth function of log k (`statistics.smoothing`), summed under the binomial
exactly. At many flips the binomial is narrow (1 % wide at 10,000 flips), so hardly any trial lies inside it and the
smoothness of acc(k) is what lets neighbours help. The tests check it with an estimate that assumes nothing of acc(k).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faultcli.campaign.statistics.intervals import Interval, error_rate
from faultcli.campaign.statistics.smoothing import Floats, Moments, Smooth, fit, spline_basis

STRATA_PER_DECADE = 4
PILOT = 3  # trials per stratum before anything is compared
_GOLDEN = (math.sqrt(5) - 1) / 2
_TAIL = 6.5  # standard deviations of the binomial that are summed; beyond lie 1e-10


@dataclass(frozen=True)
class CurvePoint:
    """The curve at one rate."""

    ber_per_bit: float
    interval: Interval


@dataclass(frozen=True)
class MaxBer:
    """The highest rate up to which the model holds an accuracy, with the interval of where it really is.

    `ber_per_bit` is None where the model misses the accuracy from the lowest rate on, `low` where it may miss it there.
    `high` is None where nothing speaks against the highest rate; `ber_per_bit` is the highest rate itself where the
    curve never falls below the accuracy.
    """

    ber_per_bit: float | None
    low: float | None
    high: float | None


class FlipCurve:
    """Chooses flip counts, takes trials back, reads the curve at any rate. Deterministic in the seed and the trials.

    Ask for a round with `next_flips`, run its trials in any order on anything, hand all of them back with `add` in the
    order asked for, and ask again. The same rounds give the same numbers.

    Args:
        bits: stored bits at risk.
        ber_low, ber_high: the range of rates, 0 < low < high < 1.
        fault_free: every quantity (such as `accuracy`, `sdc`, `due`) without faults, as stored.
        seed: of the draws of k.
        confidence: of every interval.
        primary: the quantity whose interval the allocation narrows.

    Raises:
        ValueError: no bits, or no such range.
    """

    def __init__(
        self,
        bits: int,
        ber_low: float,
        ber_high: float,
        *,
        fault_free: Mapping[str, float],
        seed: int = 0,
        confidence: float = 0.95,
        primary: str = "accuracy",
    ) -> None:
        if bits < 1 or not 0 < ber_low < ber_high < 1:
            raise ValueError(f"{bits} bits, rates {ber_low} to {ber_high}: no such curve")
        self.bits = bits
        self.range = (ber_low, ber_high)
        self.alpha = error_rate(confidence)
        self.primary = primary
        self.fault_free = dict(fault_free)
        least = max(1, math.floor(bits * ber_low - _TAIL * math.sqrt(bits * ber_low)))
        most = min(bits, math.ceil(bits * ber_high + _TAIL * math.sqrt(bits * ber_high) + 10))
        strata = max(4, math.ceil(math.log10(most / least) * STRATA_PER_DECADE))
        self.edges = np.unique(np.geomspace(least, most + 1, strata + 1).round().astype(np.int64))
        self._cells = len(self.edges) - 1
        self._logs = (math.log(least), math.log(most) if most > least else math.log(least) + 1)
        self._start = np.random.default_rng(seed).random(self._cells)
        self._asked = np.zeros(self._cells, dtype=np.int64)
        self._taken = 0  # trials handed back
        self._moments = {name: Moments(self._cells, level) for name, level in fault_free.items()}
        self._fits: dict[str, Smooth] = {}
        self._rows: dict[float, tuple[float, Floats]] = {}

    @property
    def trials(self) -> int:
        """Trials handed back so far."""
        return self._taken

    def add(self, flips: int, values: Mapping[str, float]) -> None:
        """Take one trial back: its number of flips and every quantity of `fault_free`.

        Raises:
            ValueError: a number of flips that lies in no stratum.
        """
        if not self.edges[0] <= flips < self.edges[-1]:
            raise ValueError(f"{flips} flips lie in no stratum: from {self.edges[0]} to {self.edges[-1] - 1}")
        row = spline_basis(self._position([flips]), self._cells)[0]
        cell = int(self._cell(np.array(flips)))
        self._taken += 1
        for name, moments in self._moments.items():
            moments.add(row, float(values[name]), cell)
        self._fits.clear()

    def next_flips(self, count: int, *, rates: tuple[float, float] | None = None) -> list[int]:
        """Return the numbers of flips that the next `count` trials should have.

        First every stratum in turn until each has its pilot; then always the one that narrows the interval of the
        primary quantity most at the rate where it is widest, given all trials handed back and those asked for just now
        (a sequential G-optimal design; with one stratum per parameter it is Neyman's allocation).

        Args:
            count: size of the round.
            rates: aim at these rates only, such as the ends of a `MaxBer`.
        """
        chosen: list[int] = []
        while len(chosen) < count and self._asked.min() < PILOT:
            chosen.append(self._draw(int(self._asked.argmin())))
        if len(chosen) == count or not self._taken:
            while len(chosen) < count:
                chosen.append(self._draw(int(self._asked.argmin())))
            return chosen
        smooth = self._fit(self.primary)
        covariance = smooth.covariance.copy()
        # A variance from few trials may be far too small by luck; doubt keeps a stratum in play.
        variances = smooth.variances * (1 + 3 / np.maximum(smooth.counts, 1))
        targets = np.stack([self._row(p)[1] for p in self._grid(rates)])
        while len(chosen) < count:
            worst = targets[int(np.einsum("ij,jk,ik->i", targets, covariance, targets).argmax())]
            candidates = spline_basis(self._position([self._peek(h) for h in range(self._cells)]), self._cells)
            pulled = candidates @ covariance
            gain = (pulled @ worst) ** 2 / (variances + np.einsum("ij,ij->i", pulled, candidates))
            best = int(gain.argmax())
            covariance -= np.outer(pulled[best], pulled[best]) / (variances[best] + pulled[best] @ candidates[best])
            chosen.append(self._draw(best))
        return chosen

    def estimate(self, ber: float, quantity: str = "accuracy") -> Interval | None:
        """Return a quantity at one rate with its pointwise interval; None while there are too few trials for one.

        Student's t with Satterthwaite's degrees of freedom around the smooth curve, cut to 0 to 1.
        """
        if not self._ready:
            return None
        mean, half, row = self._point(ber, quantity)
        return self._cut(mean, half * self._quantile(quantity, row))

    def band(self, bers: Sequence[float], quantity: str = "accuracy") -> list[CurvePoint]:
        """Return the curve at many rates with a band that holds at all of them at once, as far as it is smooth.

        The quantile is that of the largest deviation over the rates (4000 seeded draws from the curve's posterior), in
        proportion to the pointwise one. Empty while there are too few trials.
        """
        if not self._ready:
            return []
        rows = np.stack([self._row(p)[1] for p in bers])
        covariance = self._fit(quantity).covariance
        deviations = np.sqrt(np.einsum("ij,jk,ik->i", rows, covariance, rows))
        draws = np.random.default_rng(0).multivariate_normal(np.zeros(len(covariance)), covariance, 4000, method="eigh")
        largest = np.abs(draws @ rows.T / np.maximum(deviations, 1e-300)).max(axis=1)
        from scipy.special import ndtri

        factor = max(1.0, float(np.quantile(largest, 1 - self.alpha)) / float(ndtri(1 - self.alpha / 2)))
        points = []
        for ber in bers:
            mean, half, row = self._point(ber, quantity)
            points.append(CurvePoint(ber, self._cut(mean, factor * half * self._quantile(quantity, row))))
        return points

    def half_width(self, quantity: str | None = None, *, rates: tuple[float, float] | None = None) -> float:
        """Return the largest pointwise half-width over the range, or over `rates` only; 1 while there are too few
        trials."""
        found = [self.estimate(float(p), quantity or self.primary) for p in self._grid(rates)]
        return max((one.half_width or 0.0) if one else 1.0 for one in found)

    def find_max_ber(self, min_accuracy: float, *, per_decade: int = 40) -> MaxBer | None:
        """Return the highest rate up to which the accuracy holds; None while there are too few trials.

        The first rate at which the curve falls below, between rates evenly spaced on a logarithmic axis; its interval
        is where the pointwise band's ends do (the test inverted, Fieller's way, for an accuracy that falls with p).
        """
        if not self._ready:
            return None
        rates = self._grid(None, per_decade)
        points = [self.estimate(float(p)) for p in rates]
        ends = [[0.0 if end is None else end for end in (p.mean, p.low, p.high)] for p in points if p is not None]
        mean, low, high = (_first_below(rates, np.array(ends)[:, column], min_accuracy) for column in range(3))
        last = float(rates[-1])
        fell = [end for end in (mean, low, high) if end is not None]
        return MaxBer(
            None if mean == 0 else mean if mean is not None else last,
            None if low == 0 else low if low is not None else last,
            high or (float(rates[0]) if high == 0 and fell else None),
        )

    @property
    def _ready(self) -> bool:
        return self._taken >= PILOT * self._cells

    def _grid(self, rates: tuple[float, float] | None, per_decade: int = 4) -> Floats:
        low, high = rates or self.range
        return np.geomspace(low, high, max(2, math.ceil(math.log10(high / low) * per_decade) + 1))

    def _peek(self, stratum: int) -> int:
        """Return the k that this stratum's next trial has: k with probability log((k + 1)/k)/log(edge ratio).

        Steps of the golden ratio from a random start fill the stratum evenly, and each is uniform by itself.
        """
        u = (self._start[stratum] + self._asked[stratum] * _GOLDEN) % 1
        low, high = int(self.edges[stratum]), int(self.edges[stratum + 1])
        flips = math.floor(low * math.exp(float(u) * math.log(high / low)))
        return min(max(flips, low), high - 1)

    def _draw(self, stratum: int) -> int:
        flips = self._peek(stratum)
        self._asked[stratum] += 1
        return flips

    def _cell(self, flips: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.clip(np.searchsorted(self.edges, flips, side="right") - 1, 0, self._cells - 1).astype(np.int64)

    def _position(self, flips: Sequence[int] | NDArray[np.int64]) -> Floats:
        """Return where numbers of flips lie on the spline's axis, 0 to the number of cells."""
        low, high = self._logs
        scaled = (np.log(np.asarray(flips, dtype=np.float64)) - low) / (high - low) * self._cells
        return np.asarray(np.clip(scaled, 0, self._cells), dtype=np.float64)

    def _fit(self, quantity: str) -> Smooth:
        if quantity not in self._fits:
            self._fits[quantity] = fit(self._moments[quantity])
        return self._fits[quantity]

    def _binomial(self, ber: float) -> tuple[NDArray[np.int64], Floats]:
        """Return the numbers of flips that matter at a rate and their probabilities, which add up to 1.

        By ratios of neighbours, log P(k + 1) − log P(k) = log((N − k)/(k + 1)) + log(p/(1 − p)), free of the
        cancellation of log-gamma at 1e12 bits.
        """
        centre = self.bits * ber
        reach = _TAIL * math.sqrt(centre) + 20
        k = np.arange(max(0, math.floor(centre - reach)), min(self.bits, math.ceil(centre + reach)) + 1)
        steps = np.log((self.bits - k[:-1]) / (k[:-1] + 1)) + math.log(ber) - math.log1p(-ber)
        logs = np.concatenate([[0.0], np.cumsum(steps)])
        mass = np.exp(logs - logs.max())
        return k, mass / mass.sum()

    def _row(self, ber: float) -> tuple[float, Floats]:
        """Return the probability of no flip at a rate, and the basis row of all the others, summed."""
        ber = float(ber)
        if ber not in self._rows:
            k, mass = self._binomial(ber)
            some = k > 0
            self._rows[ber] = (
                float(mass[~some].sum()),
                mass[some] @ spline_basis(self._position(k[some]), self._cells),
            )
        return self._rows[ber]

    def _point(self, ber: float, quantity: str) -> tuple[float, float, Floats]:
        """Return mean, standard error and basis row at a rate."""
        level, row = self._row(ber)
        smooth = self._fit(quantity)
        mean = level * self.fault_free[quantity] + float(row @ smooth.coefficients)
        return mean, math.sqrt(max(0.0, float(row @ smooth.covariance @ row))), row

    def _quantile(self, quantity: str, row: Floats) -> float:
        from scipy.special import stdtrit

        return float(stdtrit(max(1.0, self._fit(quantity).degrees(row)), 1 - self.alpha / 2))

    @staticmethod
    def _cut(mean: float, half: float) -> Interval:
        mean = min(1.0, max(0.0, mean))
        return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def _first_below(rates: Floats, curve: Floats, level: float) -> float | None:
    """Return the rate at which the curve falls below first; 0 if from the start, None if never."""
    below = np.flatnonzero(curve < level)
    if not below.size:
        return None
    i = int(below[0])
    if i == 0:
        return 0.0
    part = (curve[i - 1] - level) / (curve[i - 1] - curve[i])
    return float(rates[i - 1] * (rates[i] / rates[i - 1]) ** part)
