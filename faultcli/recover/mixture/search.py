"""The best mixture of a window, from many starts: one Gaussian per class, named by the law of the damage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from faultcli.recover.mixture.cluster_matching import Labels
from faultcli.recover.mixture.gaussians import Array, Fit, Rows, softmax
from faultcli.recover.mixture.law import DamageLaw

_LIKELIHOOD_WEIGHT = 0.1  # the mixture is only a model of the logits, so the window's rows do not count in full
_SAME = 1e-3  # fits whose log-likelihoods per row differ by less are one and the same
_SEARCHED = 500  # rows of the window that starts are tried on; the best one is then fitted to all
_FIRST, _DRAWN, _SPREAD = 4, 8, 2  # starts from the law, and from the rows; so many first: light damage needs no more
_NAMED, _KEPT, _SPLITS = 6, 3, 6  # starts that are named; those followed; splits and merges of the best
_MOST_ROUNDS, _CLEARLY = 6, 0.1  # of these; better, for another round
_SHARED, _SHORT, _MORE, _LONG = 6, 3, 8, 12  # rounds: with one covariance, to sort starts, to follow them, to the end


def search(x: Array, aligned: Array, prior: Array, law: DamageLaw, random: np.random.Generator) -> Fit:
    """Fit from many starts and name the components.

    Starts: the aligned logits' probabilities, sharp and flat; class means drawn from the law of the damage; centres
    spread as in k-means++ (Arthur and Vassilvitskii 2007); and from the best, splits and merges (Ueda et al. 2000).

    Args:
        x: [n, K], standardised window.
        aligned: [n, K], the aligned logits of the same rows.
        prior: [K], the weights of the components, which are not fitted.
        law: of the damage: it names the components.
        random: for the starts.
    """
    every = max(1, -(-len(x) // _SEARCHED))
    some = Rows(x[::every], exact=False)
    first = np.stack([softmax(aligned[::every] / heat).T for heat in (1.0, 4.0)])
    means, precision = some.metric(first[0])
    metric, size = np.linalg.cholesky(precision), float(np.sqrt((means**2).mean()))
    white = some.x @ metric

    def started(drawn: int, spread: int) -> list[Array]:
        centres = [law.names.draw(size, random) @ metric for _ in range(drawn)]
        centres += [_spread_centres(white, len(prior), random) for _ in range(spread)]
        return [softmax(-0.5 * _squared_distances(white, centre)).T for centre in centres]

    def run(starts: list[Array]) -> list[Fit]:
        found = some.fit(some.share_covariance(np.stack(starts), _SHARED, prior), _SHORT, prior)
        return [found.one(number) for number in range(len(starts))]

    fits = run([*first, *started(_FIRST, 0)])
    if not _agree(fits):
        fits += run(started(_DRAWN - _FIRST, _SPREAD))
    likeliest = sorted(fits, key=lambda fit: -float(fit.log_likelihood))
    if _agree(fits):
        best = _Named.of(likeliest[0], law)
    else:
        named = sorted((_Named.of(fit, law) for fit in likeliest[:_NAMED]), key=lambda one: -one.score)[:_KEPT]
        followed = some.fit(np.stack([one.fit.posterior for one in named]), _MORE, prior)
        best = max((_Named.of(followed.one(n), law) for n in range(_KEPT)), key=lambda one: one.score)
        for _ in range(_MOST_ROUNDS):
            cuts = np.stack([_split_and_merge(some.x, best.fit, random) for _ in range(_SPLITS)])
            cut, before = some.fit(cuts, _MORE, prior), best
            best = max([best, *(_Named.of(cut.one(n), law) for n in range(_SPLITS))], key=lambda one: one.score)
            if best.score < before.score + _CLEARLY:
                break
    whole = Rows(x, exact=False)
    start = whole.expect(best.fit.means, best.fit.covariances, prior).renamed(best.labels)
    return whole.fit(start.posterior, _LONG, prior)


@dataclass(frozen=True)
class _Named:
    """A fit with the best names for its components, and how well it explains the window and the damage together."""

    fit: Fit
    labels: Labels
    score: float

    @classmethod
    def of(cls, fit: Fit, law: DamageLaw) -> _Named:
        labels, agreement = law.name_clusters(fit.means, fit.covariances)
        likelihood = _LIKELIHOOD_WEIGHT * fit.posterior.shape[1] * float(fit.log_likelihood)
        return cls(fit, labels, likelihood + agreement)


def _agree(fits: list[Fit]) -> bool:
    """Return whether the best fit was reached from several starts, the aligned logits among them: it is the one."""
    found = [float(fit.log_likelihood) for fit in fits]
    best = max(found)
    return found[0] > best - _SAME and sum(one > best - _SAME for one in found) >= 4


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
