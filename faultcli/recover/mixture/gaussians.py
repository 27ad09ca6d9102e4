"""Gaussian mixtures over logits, fitted to a window without labels: one component per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.mixture.cluster_matching import Labels

Array = NDArray[np.float64]

_TOLERANCE = 1e-4  # of the log-likelihood of a row, for another round
_OWN = 40  # rows of a component at which its own covariance and the shared one count alike
_FEWEST = 1e-9


def softmax(scores: Array) -> Array:
    """Return the softmax of every row."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def log_normalised(scores: Array) -> Array:
    """Return the logarithm of the softmax of every row."""
    largest = scores.max(axis=1, keepdims=True)
    result: Array = scores - (largest + np.log(np.exp(scores - largest).sum(axis=1, keepdims=True)))
    return result


@dataclass(frozen=True)
class ClassMixture:
    """One Gaussian per class: what a device classifies by.

    Attributes:
        means: [K, K], rows are classes.
        factors: [K, K, K], per class a matrix F with F Fᵀ the inverse covariance.
        offsets: [K], log prior minus half the log determinant of the covariance.
    """

    means: Array
    factors: Array
    offsets: Array

    @classmethod
    def of(cls, means: Array, covariances: Array, prior: Array) -> ClassMixture:
        """Make it from means [K, K], covariances [K, K, K] and class probabilities [K]."""
        factors = np.linalg.cholesky(np.linalg.inv(covariances))
        return cls(means, factors, np.log(prior) - 0.5 * np.linalg.slogdet(covariances)[1])

    @property
    def numbers(self) -> int:
        """K means, K symmetric covariances and K offsets."""
        k = len(self.means)
        return k * k + k * k * (k + 1) // 2 + k

    def log_posterior(self, x: Array) -> Array:
        """Return the log probability of every class, [n, K]."""
        scores = np.empty((len(x), len(self.means)))
        for c, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            scores[:, c] = self.offsets[c] - 0.5 * (((x - mean) @ factor) ** 2).sum(axis=1)
        return log_normalised(scores)


@dataclass(frozen=True)
class Fit:
    """Where expectation maximisation came to, from one start or from several at once (a leading axis more).

    Attributes:
        means: [C, d], per component.
        covariances: [C, d, d], shrunk.
        posterior: [C, n], the responsibilities of the components for the rows.
        log_likelihood: mean per row, without the constant; an array, of no axis for one start.
    """

    means: Array
    covariances: Array
    posterior: Array
    log_likelihood: Array

    def one(self, number: int) -> Fit:
        """Return what one of several starts led to."""
        return Fit(self.means[number], self.covariances[number], self.posterior[number], self.log_likelihood[number])

    def renamed(self, labels: Labels) -> Fit:
        """Return the fit with component `labels[c]` as class c."""
        return Fit(self.means[labels], self.covariances[labels], self.posterior[labels], self.log_likelihood)

    def closest(self) -> tuple[int, int]:
        """Return the two components that lie closest together, in standard deviations of their average covariance."""
        one, other = np.triu_indices(len(self.means), 1)
        apart = self.means[one] - self.means[other]
        average = (self.covariances[one] + self.covariances[other]) / 2
        nearest = int((apart * np.linalg.solve(average, apart[:, :, None])[:, :, 0]).sum(axis=1).argmin())
        return int(one[nearest]), int(other[nearest])


class Rows:
    """Rows [n, d] that mixtures are fitted to by expectation maximisation (Dempster et al. 1977).

    Every component has a covariance of its own, moved towards the one that all share, the more the fewer rows it has.
    Responsibilities may have a leading axis: several starts are worked on at once, which costs little more than one.

    Args:
        x: the rows.
        exact: in double precision; else what is done per row is done in single precision, in a third of the time.
    """

    def __init__(self, x: Array, exact: bool = True) -> None:
        self._kind: Any = np.float64 if exact else np.float32
        self.x = x = np.ascontiguousarray(x, dtype=self._kind)
        i, j = np.triu_indices(x.shape[1])
        self._square = np.empty((x.shape[1], x.shape[1]), dtype=np.int64)  # where a product is among the moments
        self._square[i, j] = self._square[j, i] = x.shape[1] + np.arange(len(i))
        self._flat, self._halves = x.shape[1] * i + j, np.where(i == j, -0.5, -1.0)  # off the diagonal counts twice
        ones = np.ones((len(x), 1), dtype=self._kind)
        self._first = np.ascontiguousarray(np.concatenate([x, ones], axis=1).T)
        self._counted = np.ascontiguousarray(np.concatenate([x, x[:, i] * x[:, j], ones], axis=1).T)
        self._transposed, self._moments = self._first[:-1], self._counted[:-1]  # of first, of first and second order
        self._second = (x.T @ x).astype(np.float64) / len(x)

    def maximise(self, posterior: Array) -> tuple[Array, Array]:
        """Return the means and covariances that suit responsibilities [C, n] best."""
        n, d = self.x.shape
        sums = (posterior @ self._counted.T).astype(np.float64)
        weight = sums[..., -1] + _FEWEST
        moments = sums / weight[..., None]
        means = moments[..., :d]
        own = moments.take(self._square, axis=-1)
        own -= means[..., :, None] * means[..., None, :]
        parts = weight / weight.sum(axis=-1, keepdims=True)
        flat = own.reshape(*weight.shape, d * d)
        pooled = _shrunk((parts[..., None, :] @ flat).reshape(*weight.shape[:-1], d, d), n)
        share = (_OWN / (weight + _OWN))[..., None, None]
        covariances: Array = (1 - share) * own + share * pooled[..., None, :, :]
        return means, covariances

    def expect(self, means: Array, covariances: Array, weights: Array) -> Fit:
        """Return the responsibilities under a mixture with these weights [C], and how likely it makes the rows."""
        precisions = np.linalg.inv(covariances)
        slopes = (precisions @ means[..., None])[..., 0]
        offsets = np.log(weights) - 0.5 * (slopes * means).sum(axis=-1) - 0.5 * np.linalg.slogdet(covariances)[1]
        squares = precisions.reshape(*precisions.shape[:-2], -1).take(self._flat, axis=-1) * self._halves
        linear = np.concatenate([slopes, squares], axis=-1)
        return Fit(means, covariances, *_responsibilities(self._scores(linear, self._moments, offsets)))

    def _scores(self, slopes: Array, columns: Array, offsets: Array) -> Array:
        scores: Array = slopes.astype(self._kind) @ columns
        scores += offsets[..., None].astype(self._kind)
        return scores

    def fit(self, start: Array, rounds: int, weights: Array | None = None) -> Fit:
        """Go from responsibilities [C, n] at most so many rounds. `weights` [C] are kept; None: they are fitted."""
        posterior, before = start.astype(self._kind), np.asarray(-np.inf)
        while True:
            own = fitted_weights(posterior) if weights is None else weights
            fit = self.expect(*self.maximise(posterior), own)
            rounds -= 1
            if rounds < 1 or (fit.log_likelihood - before < _TOLERANCE).all():
                return fit
            posterior, before = fit.posterior, fit.log_likelihood

    def metric(self, posterior: Array) -> tuple[Array, Array]:
        """Return the means that suit responsibilities, and the inverse of the covariance that all components share."""
        sums = (posterior @ self._first.T).astype(np.float64)
        weight = sums[..., -1] + _FEWEST
        means = sums[..., :-1] / weight[..., None]
        between = np.swapaxes(means * weight[..., None], -1, -2) @ means / len(self.x)
        metric = np.asarray(np.linalg.inv(_shrunk(self._second - between, len(self.x))), dtype=np.float64)
        return means, metric

    def share_covariance(self, start: Array, rounds: int, weights: Array) -> Array:
        """Go so many rounds with one covariance for all components, which is cheap; return the responsibilities."""
        posterior = start.astype(self._kind)
        for _ in range(rounds):
            means, precision = self.metric(posterior)
            slopes = means @ precision
            offsets = np.log(weights) - 0.5 * (slopes * means).sum(axis=-1)
            posterior = _responsibilities(self._scores(slopes, self._transposed, offsets))[0]
        return posterior


def fitted_weights(posterior: Array) -> Array:
    """Return the components' weights [C]: their shares of the rows, with one row more for each."""
    rows = posterior.sum(axis=-1, dtype=np.float64) + 1
    result: Array = rows / rows.sum(axis=-1, keepdims=True)
    return result


def _responsibilities(scores: Array) -> tuple[Array, Array]:
    """Return the softmax over components of scores [C, n], written over them, and the mean log-likelihood of a row."""
    largest = scores.max(axis=-2)
    scores -= largest[..., None, :]
    np.exp(scores, out=scores)
    total = scores.sum(axis=-2)
    scores /= total[..., None, :]
    return scores, (largest + np.log(total)).mean(axis=-1, dtype=np.float64)


def _shrunk(covariance: Array, n: int) -> Array:
    """Move a shared covariance towards its diagonal, the more the fewer rows it was estimated from."""
    d = covariance.shape[-1]
    share = min(0.5, 2 * d / n)
    result: Array = (1 - share) * covariance
    diagonal = covariance.reshape(*covariance.shape[:-2], d * d)[..., :: d + 1]
    least = 1e-6 / d * diagonal.sum(axis=-1, keepdims=True) + 1e-12
    result.reshape(*covariance.shape[:-2], d * d)[..., :: d + 1] += share * np.maximum(diagonal, 0) + least
    return result
