"""A smooth mean of noisy trials along one axis, with its uncertainty: a penalised spline as a mixed model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Prior standard deviations of a coefficient's second difference, from a straight line to hardly any smoothing.
_ROUGHNESS = 10.0 ** np.arange(-3, 0.76, 0.25)
_NEIGHBOURS = 12.0  # a cell's variance takes in that many trials' worth of its neighbours'
_UNSEEN = 1.0  # trials of a kind not seen that a run of cells counts as having had
_LEAST = 1e-8  # of a variance; a hundredth of a point: below what a thousand inputs resolve
_DOUBT = 1.2  # roughness is taken that much larger than its likeliest value: less bias at bends, wider intervals
_ROUNDS = 3


def spline_basis(position: Floats, cells: int) -> Floats:
    """Return the uniform cubic B-splines at `position` (0 to `cells`, knots at whole numbers): [len, cells + 3]."""
    cell = np.clip(np.floor(position), 0, cells - 1).astype(int)
    s = position - cell
    values = np.stack([(1 - s) ** 3, 3 * s**3 - 6 * s**2 + 4, -3 * s**3 + 3 * s**2 + 3 * s + 1, s**3], axis=1) / 6
    basis = np.zeros((len(position), cells + 3))
    np.put_along_axis(basis, cell[:, None] + np.arange(4), values, axis=1)
    return basis


class Moments:
    """What a fit needs to know of the trials: sums per cell, so that a fit costs the same after any number of trials.

    Args:
        cells: stretches of the axis in which trials vary alike, from light to heavy damage.
        level: the value without damage.
    """

    def __init__(self, cells: int, level: float) -> None:
        size = cells + 3
        self.level = level
        self.counts: Floats = np.zeros(cells)
        self.gram: Floats = np.zeros((cells, size, size))
        self.cross: Floats = np.zeros((cells, size))
        self.squares: Floats = np.zeros(cells)
        self.least = math.inf
        self.most = -math.inf

    def add(self, row: Floats, value: float, cell: int) -> None:
        """Take one trial: its row of the basis, its value, its cell."""
        value -= self.level
        self.counts[cell] += 1
        self.gram[cell] += np.outer(row, row)
        self.cross[cell] += row * value
        self.squares[cell] += value * value
        self.least = min(self.least, value)
        self.most = max(self.most, value)


@dataclass(frozen=True)
class Smooth:
    """A fitted curve: its mean at basis row a is a · `coefficients`, its variance a · `covariance` · a."""

    coefficients: Floats
    covariance: Floats
    variances: Floats  # of one trial, per cell
    counts: Floats  # trials per cell
    gram: Floats  # per cell, Σ over its trials of the outer product of their basis rows

    def degrees(self, row: Floats) -> float:
        """Return the degrees of freedom of the variance at a basis row (Satterthwaite 1946)."""
        pull = self.covariance @ row
        parts = np.einsum("i,hij,j->h", pull, self.gram, pull) / self.variances
        bottom = float((parts**2 / (np.maximum(self.counts - 1, 0) + _NEIGHBOURS)).sum())
        return float(parts.sum()) ** 2 / bottom if bottom > 0 else _NEIGHBOURS


def fit(moments: Moments) -> Smooth:
    """Fit the trials to a spline; their variance differs between cells.

    P-splines (Eilers and Marx, Statistical Science 11, 1996) in their Bayesian reading: second differences of the
    coefficients are normal around 0 with a deviation that maximises the marginal likelihood, so flat curves pool over
    many cells and steep ones over few. The covariance is the posterior's, which accounts for the smoothing bias on
    average over the curve (Nychka, JASA 83, 1988; Marra and Wood, Scand. J. Statist. 39, 2012), not at every bend.

    A cell's variance is that of its trials about the curve, drawn towards its neighbours', and no less than if one
    trial more had come out as the value farthest from the level that was seen anywhere, or as the level itself. Without
    that trial, cells in which a rare ruinous map (or, under heavy damage, a rare harmless one) has not come up yet
    would look certain, would outweigh those where it has, and would get no more trials to find out. Ruinous trials are
    taken to be no likelier in a cell than in those after it, harmless ones no likelier than in those before.
    """
    variances = _variances(moments, None, np.minimum(moments.counts, 1.0))
    coefficients = covariance = np.empty(0)
    for _ in range(_ROUNDS):
        normal = (moments.gram / variances[:, None, None]).sum(axis=0)
        right = (moments.cross / variances[:, None]).sum(axis=0)
        covariance = _posterior(normal, right)
        coefficients = covariance @ right
        used = np.einsum("hij,ij->h", moments.gram, covariance) / variances
        variances = _variances(moments, coefficients, used)
    # The basis sums to 1 everywhere, so a level is the same for every coefficient.
    return Smooth(coefficients + moments.level, covariance, variances, moments.counts.copy(), moments.gram.copy())


def _posterior(normal: Floats, right: Floats) -> Floats:
    """Return the coefficients' covariance under the roughness that makes the values likeliest."""
    size = len(right)
    differences = np.diff(np.eye(size), 2, axis=0)
    penalty = differences.T @ differences
    ridge = 1e-9 * np.eye(size)  # for what no trial touches
    precision = normal + penalty / _ROUGHNESS[:, None, None] ** 2 + ridge
    _, logarithm = np.linalg.slogdet(precision)
    fitted = np.linalg.solve(precision, np.broadcast_to(right[:, None], (len(_ROUGHNESS), size, 1)))[..., 0]
    evidence = 0.5 * (fitted @ right - logarithm) - (size - 2) * np.log(_ROUGHNESS)
    covariance: Floats = np.linalg.inv(normal + penalty / (_DOUBT * _ROUGHNESS[int(evidence.argmax())]) ** 2 + ridge)
    return (covariance + covariance.T) / 2


def _variances(moments: Moments, coefficients: Floats | None, used: Floats) -> Floats:
    """Return the variance of a trial per cell about the curve, or, before there is one, about the cell's mean."""
    count = np.maximum(moments.counts, 1)
    if coefficients is None:
        means = moments.cross.sum(axis=1) / count
        squares = moments.squares - count * means**2
    else:
        means = (moments.gram.sum(axis=1) @ coefficients) / count
        fitted = np.einsum("i,hij,j->h", coefficients, moments.gram, coefficients)
        squares = moments.squares - 2 * moments.cross @ coefficients + fitted
    squares = np.maximum(squares, 0.0)
    free = np.maximum(moments.counts - used, 1e-3 * (moments.counts > 0))
    kernel = np.array([0.25, 0.5, 0.25])
    around = np.convolve(np.pad(free, 1, mode="edge"), kernel, mode="valid")
    near = np.convolve(np.pad(squares, 1, mode="edge"), kernel, mode="valid") / np.maximum(around, 1e-3)
    own = (squares + _NEIGHBOURS * near) / (free + _NEIGHBOURS)
    worst = moments.least if -moments.least >= moments.most else moments.most
    if worst == 0:  # nothing ever differed from the level: as far as a trial can
        worst = max(moments.level, 1 - moments.level)
    ruinous = _unseen(squares, free, (worst - means) ** 2)
    harmless = _unseen(squares[::-1], free[::-1], means[::-1] ** 2)[::-1]
    variances: Floats = np.maximum(np.maximum(own, _LEAST), np.maximum(ruinous, harmless))
    return variances


def _unseen(squares: Floats, free: Floats, gap: Floats) -> Floats:
    """Return the variance that unseen trials at a squared distance may add to a cell where they are no likelier than in
    any cell after it: of all runs of cells that begin with it, the one that says least."""
    variances = np.empty_like(gap)
    for h in range(len(gap)):
        runs = (squares[h:].cumsum() + _UNSEEN * gap[h]) / (free[h:].cumsum() + _UNSEEN)
        variances[h] = runs.min()
    return variances
