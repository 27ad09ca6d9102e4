"""Means of bounded trials that may be looked at after every trial: betting, as in Waudby-Smith and Ramdas.

A bettor starts with 1 and, before every trial, stakes a part f of what he has on the mean being above m: a value y in
[0, 1] turns a wealth K into K (1 − f + f y/m). If the mean is m or less, the wealth is a nonnegative supermartingale
and reaches 1/α at any time at all with a probability of at most α (Ville's inequality); so an m at which it did is
refuted, however often one looked and whatever made one stop. Waudby-Smith and Ramdas, "Estimating means of bounded
random variables by betting", J. R. Statist. Soc. B 86 (2024; arXiv 2010.09686).

The bettor here splits his first wealth over fixed parts f = 1, 1/2, 1/4, … (a mixture of bets) and never moves it.
Against that paper's plug-in bets this loses up to a sixth of the width where trials vary much and few have run, wins
where they agree (near 1 up to a quarter), and buys two properties: the wealth falls monotonically in m, so what is not
refuted is an interval, and it does not depend on the order of the trials.

**The order of looks does matter**: feed trials by their number, not as workers finish them. A harmless fault map costs
no forward pass and finishes first; what has finished is therefore no fair sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from faultcli.campaign.statistics.intervals import Interval, error_rate

# Parts of the wealth at stake, and how the first wealth is split over them: three tenths less for every halving.
FRACTIONS = 0.5 ** np.arange(11)
SPLIT = 0.7 ** np.arange(11) / (0.7 ** np.arange(11)).sum()
_MOST = 1e200  # wealth is cut here: still refuted, and one more trial cannot overflow


class Wealth:
    """What the bettor has, per candidate mean. One row per fraction, one column per mean.

    Args:
        means: candidates, above 0 and below 1, ascending.
    """

    def __init__(self, means: NDArray[np.float64]) -> None:
        self.means = means
        self._wealth = np.repeat(SPLIT[:, None], len(means), axis=1)

    def add(self, value: float) -> NDArray[np.float64]:
        """Take one trial, 0 to 1; return the wealth per mean."""
        self._wealth *= 1 + FRACTIONS[:, None] * (value / self.means - 1)
        np.minimum(self._wealth, _MOST, out=self._wealth)
        total: NDArray[np.float64] = self._wealth.sum(axis=0)
        return total

    def drop(self, count: int) -> None:
        """Forget the `count` smallest means: a refuted one stays refuted."""
        self.means = self.means[count:]
        self._wealth = np.ascontiguousarray(self._wealth[:, count:])


class MeanTest:
    """Is the mean of bounded trials above (below) a threshold? Valid at every look; a few operations per trial.

    Args:
        threshold: the mean in question.
        alpha: the probability, at most, of ever deciding so although the mean is not beyond the threshold.
        direction: what is to be shown.
        bounds: the least and the largest value of a trial.

    Attributes:
        decided: it was shown; stays so.
        trials: trials taken.
    """

    def __init__(
        self,
        threshold: float,
        *,
        alpha: float,
        direction: Literal["above", "below"],
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.alpha = alpha
        self.trials = 0
        self._bounds = bounds
        self._above = direction == "above"
        mean = _scaled(threshold, bounds)
        self._mean = mean if self._above else 1 - mean
        # A mean outside what trials can be is beyond the threshold, or never will be, without any trial.
        self.decided = self._mean < 0
        self._wealth = Wealth(np.array([self._mean])) if 0 < self._mean < 1 else None

    def add(self, value: float) -> bool:
        """Take the next trial, in the order of trial numbers; return `decided`."""
        y = _checked(value, self._bounds)
        y = y if self._above else 1 - y
        self.trials += 1
        if not self.decided:
            if self._wealth is not None:
                self.decided = bool(self._wealth.add(y)[0] >= 1 / self.alpha)
            elif self._mean == 0:
                self.decided = y > 0  # one value above the least there is puts the mean above it
        return self.decided


def trials_to_show(
    values: Sequence[float],
    threshold: float,
    *,
    alpha: float,
    direction: Literal["above", "below"],
    bounds: tuple[float, float] = (0.0, 1.0),
) -> int | None:
    """Return about how many trials a `MeanTest` would take if all are like those so far; None where none would do, or
    more than a million.

    The wealth grows by the mean logarithm of what these trials multiply it by.
    """
    y = np.array([_scaled(value, bounds) for value in values])
    mean = _scaled(threshold, bounds)
    if direction == "below":
        y, mean = 1 - y, 1 - mean
    if not 0 < mean < 1:
        return None
    with np.errstate(divide="ignore"):
        rates = np.log1p(FRACTIONS[:, None] * (y / mean - 1)).mean(axis=1)
    low, high = len(values), 1 << 20
    goal = math.log(1 / alpha)

    def shown(n: int) -> bool:
        return bool(np.logaddexp.reduce(n * rates + np.log(SPLIT)) >= goal)

    if not shown(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle + 1, high)
    return low


class ConfidenceSequence:
    """An interval for the mean of bounded trials that holds at all times at once with the confidence asked.

    Candidate means lie on a grid with steps in proportion to √(m (1 − m)), and the ends are the outermost refuted grid
    points: rounding only widens (at most by 0.0016 per end with 1000 points). The ends never move outwards.

    Args:
        confidence: of holding at every look; both ends together.
        bounds: the least and the largest value of a trial: (0, 1) for rates, (−1, 1) for paired differences.
        side: "lower" and "upper" spend all of the error on one end; the other stays at the bound.
        points: candidate means.
    """

    def __init__(
        self,
        *,
        confidence: float = 0.95,
        bounds: tuple[float, float] = (0.0, 1.0),
        side: Literal["both", "lower", "upper"] = "both",
        points: int = 1000,
    ) -> None:
        alpha = error_rate(confidence) / (2 if side == "both" else 1)
        self.confidence = confidence
        self.bounds = bounds
        self.trials = 0
        self._sum = 0.0
        self._goal = 1 / alpha
        grid = np.sin(np.pi * np.arange(1, points) / (2 * points)) ** 2
        self._below = Wealth(grid) if side != "upper" else None  # refutes means from below
        self._above = Wealth(grid) if side != "lower" else None  # on 1 − value: refutes means from above
        self._low, self._high = 0.0, 1.0

    def add(self, value: float) -> None:
        """Take the next trial, in the order of trial numbers.

        Raises:
            ValueError: the value is not finite or outside the bounds.
        """
        y = _checked(value, self.bounds)
        self.trials += 1
        self._sum += float(value)
        low = _refuted(self._below, y, self._goal, self._low)
        high = 1 - _refuted(self._above, 1 - y, self._goal, 1 - self._high)
        # The ends cross only where the interval has missed, or the trials have no common mean: keep the last one.
        if low <= high:
            self._low, self._high = low, high

    @property
    def interval(self) -> Interval | None:
        """The mean so far and its interval; None without trials. The mean is the trials', and may lie outside."""
        if self.trials == 0:
            return None
        least, span = self.bounds[0], self.bounds[1] - self.bounds[0]
        return Interval(self._sum / self.trials, least + span * self._low, least + span * self._high)

    @property
    def half_width(self) -> float:
        """Half of the interval's length; without trials that of the bounds."""
        return (self.bounds[1] - self.bounds[0]) * (self._high - self._low) / 2


def sequence_interval(
    values: Sequence[float], *, confidence: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval | None:
    """Return the mean of trials, in the order of their numbers, with the interval that holds however many there are and
    whatever made them stop; None without trials."""
    sequence = ConfidenceSequence(confidence=confidence, bounds=bounds)
    for value in values:
        sequence.add(value)
    return sequence.interval


def expected_end(values: NDArray[np.float64], n: int, goal: float) -> float:
    """Return where the lower end would stand after n trials that share out evenly over `values` (0 to 1)."""
    low, high = 0.0, float(values.mean())
    if high == 0:  # nothing lies below
        return low
    for _ in range(30):
        mean = (low + high) / 2
        with np.errstate(divide="ignore"):
            logs = n * np.log1p(FRACTIONS[:, None] * (values / mean - 1)).mean(axis=1) + np.log(SPLIT)
        if np.logaddexp.reduce(logs) >= math.log(goal):
            low = mean
        else:
            high = mean
    return low


def _refuted(wealth: Wealth | None, value: float, goal: float, end: float) -> float:
    """Return the largest mean that is refuted after one more trial: `end`, or further."""
    if wealth is None or not len(wealth.means):
        return end
    reached = np.flatnonzero(wealth.add(value) >= goal)
    if not reached.size:
        return end
    end = float(wealth.means[reached[-1]])
    wealth.drop(int(reached[-1]) + 1)
    return end


def _scaled(value: float, bounds: tuple[float, float]) -> float:
    return (value - bounds[0]) / (bounds[1] - bounds[0])


def _checked(value: float, bounds: tuple[float, float]) -> float:
    if not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"a trial's value {value} lies outside [{bounds[0]}, {bounds[1]}]")
    return _scaled(value, bounds)
