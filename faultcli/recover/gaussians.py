"""Gaussian mixtures over logits, fitted to a window without labels: one component per class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.structure import Labels, MeanStructure

Array = NDArray[np.float64]

_OWN_ROUNDS = 10
_LIKELIHOOD_WEIGHT = 0.1  # the mixture is only a model of the logits, so the window's rows do not count in full
_TOLERANCE = 1e-5
_SAME = 1e-4  # fits whose log-likelihoods differ by less are one and the same
_STARTS, _SPLITS, _KEPT = 12, 20, 8  # half of the starts that are tried at most; splits and merges of the best
_SHORT, _LONG = 15, 60  # rounds: to see which starts are worth it, and to the end


def softmax(scores: Array) -> Array:
    """Return the softmax of every row."""
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return result


def log_normalised(scores: Array) -> Array:
    """Return the logarithm of the softmax of every row."""
    return scores - _log_sum(scores)[:, None]


def _log_sum(scores: Array) -> Array:
    largest = scores.max(axis=1, keepdims=True)
    result: Array = (largest + np.log(np.exp(scores - largest).sum(axis=1, keepdims=True)))[:, 0]
    return result


@dataclass(frozen=True)
class SharedMixture:
    """A mixture whose K components share one covariance.

    Attributes:
        means: [K, K], per component.
        covariance: [K, K], shrunk.
        prior: [K], the weights; they are given, not fitted.
        posterior: [n, K], of the window.
        log_likelihood: mean per row of the window, without the constant.
    """

    means: Array
    covariance: Array
    prior: Array
    posterior: Array
    log_likelihood: float

    def renamed(self, labels: Labels, prior: Array) -> SharedMixture:
        """Return the mixture with component `labels[c]` as class c. The posterior is that of equal components."""
        return SharedMixture(self.means[labels], self.covariance, prior, self.posterior[:, labels], self.log_likelihood)


def fit_shared(x: Array, start: Array, prior: Array, rounds: int) -> SharedMixture:
    """Run expectation maximisation (Dempster et al. 1977) with a shared covariance.

    Args:
        x: [n, K], standardised: every column has mean 0.
        start: [n, K], the responsibilities to begin with.
        prior: [K], fixed weights of the components.
        rounds: at most so many.
    """
    n = len(x)
    total = x.T @ x / n
    posterior, log_prior, before = start, np.log(prior), -np.inf
    while True:
        weight = posterior.sum(axis=0) + 1e-9
        means = (posterior.T @ x) / weight[:, None]
        covariance = _shrunk(total - (means.T * (weight / n)) @ means, n)
        precision = np.linalg.inv(covariance)
        slopes = means @ precision
        scores = x @ slopes.T - 0.5 * (slopes * means).sum(axis=1) + log_prior
        log_sum = _log_sum(scores)
        distance = ((x @ precision) * x).sum(axis=1)
        likelihood = float((log_sum - 0.5 * distance).mean() - 0.5 * np.linalg.slogdet(covariance)[1])
        posterior = np.exp(scores - log_sum[:, None])
        rounds -= 1
        if rounds <= 0 or likelihood - before < _TOLERANCE:
            return SharedMixture(means, covariance, prior, posterior, likelihood)
        before = likelihood


def _shrunk(covariance: Array, n: int) -> Array:
    """Move a shared covariance towards its diagonal, the more the fewer rows it was estimated from."""
    share = min(0.5, 2 * len(covariance) / n)
    diagonal = np.diag(covariance)
    floor = 1e-6 * float(diagonal.mean()) + 1e-12
    result: Array = (1 - share) * covariance + np.diag(share * np.maximum(diagonal, 0) + floor)
    return result


def _own_share(classes: int, n: int) -> float:
    """How far a class's covariance is moved towards the shared one: 0.29 for 10 classes and 1000 rows."""
    return 40 * classes / (n + 40 * classes)


def search(
    x: Array, aligned: Array, prior: Array, structure: MeanStructure, random: np.random.Generator
) -> SharedMixture:
    """Fit from many starts and name the components.

    Starts: the aligned logits' probabilities, sharp and flat; centres spread as in k-means++ (Arthur and Vassilvitskii
    2007); the means so far, disturbed; and from the best, splits and merges (Ueda et al. 2000).

    Args:
        x: [n, K], standardised window.
        aligned: [n, K], the aligned logits of the same rows.
        prior: [K].
        structure: names the components.
        random: for the starts.
    """
    fits = [fit_shared(x, softmax(aligned / heat), prior, _LONG) for heat in (1.0, 4.0)]
    first = max(fits, key=lambda fit: fit.log_likelihood)
    white = x @ np.linalg.cholesky(np.linalg.inv(first.covariance))
    for number in range(2 * _STARTS):
        if number == _STARTS and _agree(fits):
            break
        if number % 2:
            start = softmax(-2 * _squared_distances(x, first.means + 0.3 * random.standard_normal(first.means.shape)))
        else:
            start = softmax(-0.5 * _squared_distances(white, _spread_centres(white, len(prior), random)))
        fits.append(fit_shared(x, start, prior, _SHORT))
    found = [_Named.of(fit, structure, len(x)) for fit in fits]
    if not _agree(fits):
        found.sort(key=lambda named: -named.score)
        found = [_Named.of(fit_shared(x, n.fit.posterior, prior, _LONG), structure, len(x)) for n in found[:_KEPT]]
        best = max(found, key=lambda named: named.score)
        for _ in range(_SPLITS):
            start = _split_and_merge(x, best.fit, random)
            best = max(best, _Named.of(fit_shared(x, start, prior, _LONG), structure, len(x)), key=lambda n: n.score)
        found.append(best)
    best = max(found, key=lambda named: named.score)
    return best.fit.renamed(best.labels, prior)


@dataclass(frozen=True)
class _Named:
    """A fit with the best names for its components, and how well it explains the window and the damage together."""

    fit: SharedMixture
    labels: Labels
    score: float

    @classmethod
    def of(cls, fit: SharedMixture, structure: MeanStructure, n: int) -> _Named:
        labels, agreement = structure.name_clusters(fit.means)
        return cls(fit, labels, _LIKELIHOOD_WEIGHT * n * fit.log_likelihood + agreement)


def _agree(fits: list[SharedMixture]) -> bool:
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


def _split_and_merge(x: Array, fit: SharedMixture, random: np.random.Generator) -> Array:
    """Return responsibilities in which two overlapping components are one and a third is cut in two."""
    classes = len(fit.means)
    overlap = fit.posterior.T @ fit.posterior
    np.fill_diagonal(overlap, 0)
    overlap = overlap + 1e-12
    one, other = divmod(int(random.choice(classes * classes, p=(overlap / overlap.sum()).ravel())), classes)
    third = int(random.integers(classes))
    result = fit.posterior.copy()
    if one == other or third in (one, other):
        return result
    result[:, one] += result[:, other]
    weight = result[:, third].copy()
    offset = x - fit.means[third]
    white = np.linalg.inv(np.linalg.cholesky(fit.covariance))
    scatter = white @ ((offset * weight[:, None]).T @ offset) @ white.T
    side = offset @ (np.linalg.eigh(scatter)[1][:, -1] @ white) > 0
    result[:, other] = weight * side
    result[:, third] = weight * ~side
    return result


@dataclass(frozen=True)
class ClassMixture:
    """A mixture in which every component has its own covariance.

    Attributes:
        means: [K, K].
        factors: [K, K, K], per component a matrix F with F Fᵀ the inverse covariance.
        offsets: [K], log prior minus half the log determinant of the covariance.
    """

    means: Array
    factors: Array
    offsets: Array

    def log_posterior(self, x: Array) -> Array:
        """Return the log probability of every class, [n, K]."""
        scores = np.empty((len(x), len(self.means)))
        for c, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            scores[:, c] = self.offsets[c] - 0.5 * (((x - mean) @ factor) ** 2).sum(axis=1)
        return log_normalised(scores)


def fit_class_covariances(x: Array, start: SharedMixture, rounds: int = _OWN_ROUNDS) -> ClassMixture:
    """Go on from a shared covariance to one per class, each shrunk towards the shared one."""
    posterior, prior = start.posterior, start.prior
    while True:
        mixture = _maximise(x, posterior, prior)
        rounds -= 1
        if rounds <= 0:
            return mixture
        posterior = np.exp(mixture.log_posterior(x))


def _maximise(x: Array, posterior: Array, prior: Array) -> ClassMixture:
    weight = posterior.sum(axis=0) + 1e-9
    means = (posterior.T @ x) / weight[:, None]
    own = np.empty((len(means), x.shape[1], x.shape[1]))
    for c, mean in enumerate(means):
        offset = x - mean
        own[c] = (offset * posterior[:, c : c + 1]).T @ offset / weight[c]
    shared = _shrunk(np.einsum("c,cij->ij", weight / weight.sum(), own), len(x))
    share = _own_share(len(means), len(x))
    own = (1 - share) * own + share * shared
    factors = np.linalg.cholesky(np.linalg.inv(own))
    return ClassMixture(means, factors, np.log(prior) - 0.5 * np.linalg.slogdet(own)[1])
