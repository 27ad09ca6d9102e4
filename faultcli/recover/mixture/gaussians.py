"""Gaussian mixtures over logits, fitted to a window without labels: one component per class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.mixture.cluster_matching import Labels, MeanStructure

Array = NDArray[np.float64]

_LIKELIHOOD_WEIGHT = 0.1  # the mixture is only a model of the logits, so the window's rows do not count in full
_TOLERANCE = 1e-4
_SAME = 1e-3  # fits whose log-likelihoods per row differ by less are one and the same
_SEARCHED = 2000  # rows of the window that starts are tried on; the best one is then fitted to all
_DRAWN, _SPREAD, _KEPT, _SPLITS = 10, 4, 5, 12  # starts from the law and from the rows; kept of them; splits and merges
_SHARED, _SHORT, _LONG = 10, 12, 40  # rounds: with one covariance, to see which starts are worth it, and to the end
_SMALLEST_WEIGHT = 1e-4


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

    def separation(self) -> float:
        """Return how far apart classes are: the mean, over classes, of the distance of the mean to the nearest other
        one, in standard deviations of the two classes' average covariance."""
        covariances = np.linalg.inv(self.factors @ self.factors.transpose(0, 2, 1))
        nearest = []
        for c, mean in enumerate(self.means):
            apart = np.delete(self.means, c, axis=0) - mean
            average = (np.delete(covariances, c, axis=0) + covariances[c]) / 2
            nearest.append((apart * np.linalg.solve(average, apart[:, :, None])[:, :, 0]).sum(axis=1).min())
        return float(np.sqrt(nearest).mean())


@dataclass(frozen=True)
class Fit:
    """Where expectation maximisation came to.

    Attributes:
        means: [K, K], per component.
        covariances: [K, K, K], shrunk.
        posterior: [K, n], the responsibilities of the components for the rows.
        log_likelihood: mean per row, without the constant.
    """

    means: Array
    covariances: Array
    posterior: Array
    log_likelihood: float

    def renamed(self, labels: Labels) -> Fit:
        """Return the fit with component `labels[c]` as class c."""
        return Fit(self.means[labels], self.covariances[labels], self.posterior[labels], self.log_likelihood)


class Rows:
    """Rows [n, K] that mixtures are fitted to by expectation maximisation (Dempster et al. 1977).

    Every component has a covariance of its own, moved towards the one that all share, the more the fewer rows there
    are. The weights of the components are given, not fitted.

    Args:
        x: [n, K], standardised.
        prior: [K], the weights.
    """

    def __init__(self, x: Array, prior: Array) -> None:
        self.x, self.prior = x, prior
        self._pairs = i, j = np.triu_indices(x.shape[1])
        self._twice = np.where(i == j, 1.0, 2.0)
        self._moments = np.ascontiguousarray(np.concatenate([x, x[:, i] * x[:, j]], axis=1).T)  # of first, second order

    def maximise(self, posterior: Array, *, shared: bool = False) -> tuple[Array, Array]:
        """Return the means and covariances that suit responsibilities [K, n] best."""
        (n, classes), (i, j) = self.x.shape, self._pairs
        weight = posterior.sum(axis=1) + 1e-9
        moments = (posterior @ self._moments.T) / weight[:, None]
        means = moments[:, :classes]
        own = np.empty((classes, classes, classes))
        own[:, i, j] = own[:, j, i] = moments[:, classes:]
        own -= means[:, :, None] * means[:, None, :]
        pooled = _shrunk(np.tensordot(weight / weight.sum(), own, 1), n)
        share = 1.0 if shared else 40 * classes / (n + 40 * classes)  # 0.29 for 10 classes and 1000 rows
        return means, (1 - share) * own + share * pooled

    def expect(self, means: Array, covariances: Array, prior: Array | None = None) -> Fit:
        """Return the responsibilities under a mixture, and how likely it makes the rows."""
        i, j = self._pairs
        precisions = np.linalg.inv(covariances)
        slopes = np.einsum("cij,cj->ci", precisions, means)
        offsets = np.log(self.prior if prior is None else prior) - 0.5 * (slopes * means).sum(axis=1)
        offsets -= 0.5 * np.linalg.slogdet(covariances)[1]
        weights = np.concatenate([slopes, -0.5 * precisions[:, i, j] * self._twice], axis=1)
        scores = weights @ self._moments + offsets[:, None]
        largest = scores.max(axis=0)
        posterior = np.exp(scores - largest)
        total = posterior.sum(axis=0)
        return Fit(means, covariances, posterior / total, float((largest + np.log(total)).mean()))

    def fit(self, start: Array, rounds: int, *, shared: bool = False) -> Fit:
        """Go from responsibilities [K, n] at most so many rounds."""
        fit, before = self.expect(*self.maximise(start, shared=shared)), -np.inf
        while rounds > 1 and fit.log_likelihood - before >= _TOLERANCE:
            before = fit.log_likelihood
            fit = self.expect(*self.maximise(fit.posterior, shared=shared))
            rounds -= 1
        return fit

    def gain_of_free_weights(self, fit: Fit) -> float:
        """Return by how much the log-likelihood of a row grows if the components' weights are fitted as well.

        It is small where the rows have the class mix of the prior.
        """
        freed = fit
        for _ in range(_LONG):
            prior = np.maximum(freed.posterior.mean(axis=1), _SMALLEST_WEIGHT)
            freed = self.expect(*self.maximise(freed.posterior), prior)
        return freed.log_likelihood - fit.log_likelihood


def _shrunk(covariance: Array, n: int) -> Array:
    """Move a shared covariance towards its diagonal, the more the fewer rows it was estimated from."""
    share = min(0.5, 2 * len(covariance) / n)
    diagonal = np.diag(covariance)
    floor = 1e-6 * float(diagonal.mean()) + 1e-12
    result: Array = (1 - share) * covariance + np.diag(share * np.maximum(diagonal, 0) + floor)
    return result


def search(x: Array, aligned: Array, prior: Array, structure: MeanStructure, random: np.random.Generator) -> Fit:
    """Fit from many starts and name the components.

    Starts: the aligned logits' probabilities, sharp and flat; class means drawn from the law of the damage; centres
    spread as in k-means++ (Arthur and Vassilvitskii 2007); and from the best, splits and merges (Ueda et al. 2000).

    Args:
        x: [n, K], standardised window.
        aligned: [n, K], the aligned logits of the same rows.
        prior: [K].
        structure: names the components.
        random: for the starts.
    """
    every = max(1, -(-len(x) // _SEARCHED))
    some = Rows(x[::every], prior)
    fits = [_start(some, softmax(aligned[::every] / heat).T) for heat in (1.0, 4.0)]
    metric = np.linalg.cholesky(np.linalg.inv(some.maximise(fits[0].posterior, shared=True)[1][0]))
    size = float(np.sqrt((fits[0].means ** 2).mean()))
    for number in range(_DRAWN + _SPREAD):
        drawn = number < _DRAWN
        centres = structure.draw(size, random) if drawn else _spread_centres(some.x @ metric, len(prior), random)
        distances = _squared_distances(some.x @ metric, centres @ metric if drawn else centres)
        fits.append(_start(some, softmax(-0.5 * distances).T))
        if number >= _DRAWN // 2 and _agree(fits):
            break
    found = sorted((_NamedFit.of(fit, structure) for fit in fits), key=lambda named: -named.score)
    best = found[0]
    if not _agree(fits):
        again = [_NamedFit.of(some.fit(named.fit.posterior, _LONG), structure) for named in found[:_KEPT]]
        best = max(again, key=lambda named: named.score)
        for _ in range(_SPLITS):
            start = _split_and_merge(some.x, best.fit, random)
            best = max(best, _NamedFit.of(some.fit(start, _LONG), structure), key=lambda named: named.score)
    whole = Rows(x, prior)
    named = whole.expect(best.fit.means, best.fit.covariances).renamed(best.labels)
    return whole.fit(named.posterior, _LONG)


def _start(rows: Rows, start: Array) -> Fit:
    return rows.fit(rows.fit(start, _SHARED, shared=True).posterior, _SHORT)


@dataclass(frozen=True)
class _NamedFit:
    """A fit with the best names for its components, and how well it explains the window and the damage together."""

    fit: Fit
    labels: Labels
    score: float

    @classmethod
    def of(cls, fit: Fit, structure: MeanStructure) -> _NamedFit:
        labels, agreement = structure.name_clusters(fit.means)
        return cls(fit, labels, _LIKELIHOOD_WEIGHT * fit.posterior.shape[1] * fit.log_likelihood + agreement)


def _agree(fits: list[Fit]) -> bool:
    """Return whether the best fit was reached from several starts, the aligned logits among them: it is the one."""
    best = max(fit.log_likelihood for fit in fits)
    return fits[0].log_likelihood > best - _SAME and sum(fit.log_likelihood > best - _SAME for fit in fits) >= 4


def _squared_distances(x: Array, centres: Array) -> Array:
    result: Array = (x * x).sum(axis=1)[:, None] - 2 * x @ centres.T + (centres * centres).sum(axis=1)
    return np.maximum(result, 0)


def _spread_centres(x: Array, count: int, random: np.random.Generator) -> Array:
    centres = [x[random.integers(len(x))]]
    nearest = ((x - centres[0]) ** 2).sum(axis=1)
    for _ in range(count - 1):
        total = nearest.sum()
        weights = nearest / total if total > 0 else None
        centres.append(x[random.choice(len(x), p=weights)])
        nearest = np.minimum(nearest, ((x - centres[-1]) ** 2).sum(axis=1))
    return np.stack(centres)


def _split_and_merge(x: Array, fit: Fit, random: np.random.Generator) -> Array:
    """Return responsibilities in which two overlapping components are one and a third is cut in two."""
    classes = len(fit.means)
    overlap = fit.posterior @ fit.posterior.T
    np.fill_diagonal(overlap, 0)
    overlap = overlap + 1e-12
    one, other = divmod(int(random.choice(classes * classes, p=(overlap / overlap.sum()).ravel())), classes)
    third = int(random.integers(classes))
    result = fit.posterior.copy()
    if one == other or third in (one, other):
        return result
    result[one] += result[other]
    weight = result[third].copy()
    offset = x - fit.means[third]
    white = np.linalg.inv(np.linalg.cholesky(fit.covariances.mean(axis=0)))
    scatter = white @ ((offset * weight[:, None]).T @ offset) @ white.T
    side = offset @ (np.linalg.eigh(scatter)[1][:, -1] @ white) > 0
    result[other] = weight * side
    result[third] = weight * ~side
    return result
