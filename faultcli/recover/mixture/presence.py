"""Which classes a window holds, and how much of each.

A mixture that must find every class cuts those that are there in two where others are missing, and the law of the
damage does not explain the means of such halves. So the two closest components are made one, again and again, with the
components' weights fitted, and of all numbers of classes the one is taken whose named means the law explains best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from faultcli.recover.mixture.cluster_matching import Labels, MeanStructure, swaps
from faultcli.recover.mixture.gaussians import Array, Fit, Rows

MOST_COUNTED = 20  # classes; with more, all are taken to be there: there are too many namings of a part of them
_LIKELIHOOD_WEIGHT = 0.01  # of the window's rows beside the law of the damage: a cut class is always a bit likelier
_ROUNDS = 3  # of expectation maximisation after two components became one
_LAST_ROUNDS = 15  # of the fit that is taken
_HOPELESS = 10.0  # below the best score: the search ends
_FEWEST_CLASSES = 2
_PER_NAMING = 1.5  # taken off for the logarithm of the number of namings: of many, one agrees by chance


@dataclass(frozen=True)
class Present:
    """The classes of a window: component c of the fit is class `labels[c]`; `score` is comparable between them."""

    fit: Fit
    labels: Labels
    score: float


@dataclass(frozen=True)
class PartNaming:
    """Names for components where classes may be missing.

    The mean and the spread of a window's logits depend on which classes it holds. So it is the means as they come that
    are compared with the clean model's, and an offset that damage gave a logit, the same for all classes, is left out.

    Args:
        law: how damage moves class means, in clean spreads (`DamageLaw.places`).
        spread: [K], of the window's logits, in clean spreads.
    """

    law: MeanStructure
    spread: Array

    def agreement(self, means: Array, labels: Labels) -> Array:
        """Return how well the law explains means under namings; see `MeanStructure.agreement`.

        Args:
            means: [C, K], of components, in spreads of the window from its mean.
            labels: [M, C], in each row the classes of the components.

        Returns:
            [M], −(C − 1) K / 2 · log(1 − ρ²); ρ after generalised least squares for the offsets, so that C = 1 explains
            nothing.
        """
        moved, clean = means * self.spread, self.law.means[labels]
        metric = np.linalg.inv(self.law.class_covariance[labels[:, :, None], labels[:, None, :]])
        ones = metric.sum(axis=2)
        metric -= ones[:, :, None] * ones[:, None, :] / ones.sum(axis=1)[:, None, None]
        in_logits, along_clean = moved @ self.law.logit_precision, metric @ clean
        along = (along_clean * in_logits).sum(axis=(1, 2))
        size = ((metric @ moved) * in_logits).sum(axis=(1, 2))
        total = (along_clean * (clean @ self.law.logit_precision)).sum(axis=(1, 2))
        squared = np.maximum(along, 0) ** 2 / np.maximum(size * total, np.finfo(float).tiny)
        freedom = (len(means) - 1) * means.shape[1]
        result: Array = -0.5 * freedom * np.log(np.maximum(1 - squared, 1e-12))
        return result

    def name(self, means: Array, votes: Array) -> tuple[Labels, float]:
        """Return the class of every component, and the agreement: the best that is reached, by swapping two names and
        by taking one that is free, from the votes [C, K] of the rows and from the clean means' directions."""
        from scipy.optimize import linear_sum_assignment

        clean = self.law.means
        towards = means @ (clean / np.maximum(np.linalg.norm(clean, axis=1), 1e-12)[:, None]).T
        towards /= np.maximum(np.linalg.norm(means, axis=1), 1e-12)[:, None]
        starts = sorted({tuple(int(c) for c in linear_sum_assignment(-gain)[1]) for gain in (votes, towards)})
        climbed = [self._climb(means, np.array(start)) for start in starts]
        return max(climbed, key=lambda found: found[1])

    def _climb(self, means: Array, labels: Labels) -> tuple[Labels, float]:
        best = float(self.agreement(means, labels[None])[0])
        while True:
            candidates = _neighbours(labels, len(self.spread))
            scores = self.agreement(means, candidates)
            top = int(scores.argmax())
            if not scores[top] > best + 1e-9:  # NaN is no gain
                return labels, best
            labels, best = candidates[top], float(scores[top])


def _neighbours(labels: Labels, classes: int) -> Labels:
    """Return namings [M, C] with two names swapped, or one changed for one that is free."""
    swapped = labels[swaps(len(labels))]
    free = np.setdiff1d(np.arange(classes), labels)
    changed = np.tile(labels, (len(free) * len(labels), 1))
    changed[np.arange(len(changed)), np.tile(np.arange(len(labels)), len(free))] = np.repeat(free, len(labels))
    return np.concatenate([swapped, changed])


def present_classes(rows: Rows, fit: Fit, raw: NDArray[np.int64], naming: PartNaming) -> Present:
    """Return the classes that a window holds.

    Args:
        rows: the window, standardised over itself.
        fit: of one component for every class, in the order of the classes.
        raw: [n], the top class of every row's raw logits, which vote for names.
        naming: how components are named.
    """
    classes = len(fit.means)
    votes = np.eye(classes)[raw]

    def look(found: Fit) -> Present:
        labels, agreement = naming.name(found.means, found.posterior @ votes)
        likelihood = _LIKELIHOOD_WEIGHT * len(raw) * float(found.log_likelihood)
        chance = _PER_NAMING * (math.lgamma(classes + 1) - math.lgamma(classes - len(labels) + 1))
        return Present(found, labels, likelihood + agreement - chance)

    found = best = look(rows.fit(fit.posterior, _ROUNDS))
    while len(found.labels) > _FEWEST_CLASSES and found.score > best.score - _HOPELESS:
        one, other = found.fit.closest()
        posterior = found.fit.posterior
        merged = np.concatenate([np.delete(posterior, [one, other], axis=0), [posterior[one] + posterior[other]]])
        found = look(rows.fit(merged, _ROUNDS))
        best = max(best, found, key=lambda present: present.score)
    return replace(best, fit=rows.fit(best.fit.posterior, _LAST_ROUNDS)) if len(best.labels) < classes else best
